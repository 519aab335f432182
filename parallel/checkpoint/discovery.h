#pragma once
#include <cstdint>
#include <filesystem>
#include <utility>
#include <vector>

namespace strata::checkpoint_detail {

// Directories named step-<12 digits> below root, newest first. Private to this folder.
std::vector<std::pair<int64_t, std::filesystem::path>> steps_below(
    const std::filesystem::path& root);

}  // namespace strata::checkpoint_detail
