#pragma once
#include <cstdint>
#include <string>

namespace strata::checkpoint_detail {

std::string hash_text(uint64_t hash);  // 16 hexadecimal digits

}  // namespace strata::checkpoint_detail
