#pragma once
// Which process is writing into a .tmp- directory. Private to this folder.
#include <filesystem>
#include <string>

namespace strata::checkpoint_detail {

void write_owner(const std::filesystem::path& directory);  // this process
// "" when its writer is gone, else who it is: "process 123 on this host".
std::string live_owner(const std::filesystem::path& directory);

}  // namespace strata::checkpoint_detail
