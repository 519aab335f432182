#pragma once
// A temporary folder that all ranks of a test see.
#include <filesystem>
#include <memory>
#include <string>

#include "parallel/comm/communicator.h"
#include "tests/io/temp_folder.h"

namespace strata::test {

// One folder for all ranks: rank 0 makes and removes it.
class SharedFolder {
 public:
  explicit SharedFolder(Communicator& job) : job_(job) {
    std::string path;
    if (job.rank() == 0) {
      mine_ = std::make_unique<TempFolder>(TempFolder::Where::Memory);
      path = mine_->path().string();
    }
    job.broadcast_bytes(path, 0);
    path_ = path;
  }
  ~SharedFolder() { job_.barrier(); }
  const std::filesystem::path& path() const { return path_; }

 private:
  Communicator& job_;
  std::unique_ptr<TempFolder> mine_;
  std::filesystem::path path_;
};

}  // namespace strata::test
