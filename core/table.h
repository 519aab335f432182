#pragma once
// Tables in plain text.
#include <string>
#include <vector>

namespace strata {

// Rows as lines, cells as wide as the widest of their column, two blanks between.
std::string table_text(const std::vector<std::vector<std::string>>& rows);

}  // namespace strata
