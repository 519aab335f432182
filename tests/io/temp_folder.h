#pragma once
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <string>

namespace strata::test {

// A fresh folder, removed at the end of the scope. Memory: on a file system in memory where there
// is one with room, for tests that sync hundreds of times and never pull the plug.
class TempFolder {
 public:
  enum class Where { Disk, Memory };
  explicit TempFolder(Where where = Where::Disk) {
    static int count = 0;
    std::filesystem::path base = std::filesystem::temp_directory_path();
    if (where == Where::Memory) {
      std::error_code error;
      const auto room = std::filesystem::space("/dev/shm", error);
      if (!error && room.available >= (uintmax_t{48} << 20) && ::access("/dev/shm", W_OK) == 0)
        base = "/dev/shm";
    }
    path_ = base / ("strata-test-" + std::to_string(::getpid()) + "-" + std::to_string(count++));
    std::filesystem::create_directories(path_);
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

}  // namespace strata::test
