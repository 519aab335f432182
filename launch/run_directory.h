#pragma once
// <run.dir> on disk: config.ini, plan.json, status.json, metrics.jsonl, logs/, flight/, hang/,
// checkpoints/, lock.
#include <filesystem>
#include <string>

namespace strata {

class RunDirectory {
 public:
  explicit RunDirectory(std::filesystem::path path) : path_(std::move(path)) {}

  // Rank 0 only: creates the folders and takes the lock, which the system releases when the process
  // ends in any way. Throws ConfigError naming the holder when another process has it, StorageError
  // when the folder cannot be written.
  void claim();

  const std::filesystem::path& path() const noexcept { return path_; }
  std::filesystem::path file(const std::string& name) const { return path_ / name; }
  std::filesystem::path log(int rank) const;
  std::filesystem::path flight(int rank) const;

  // Writes status.json atomically: {"state": ..., "step": ..., ...}. A failure is logged, not
  // thrown.
  struct Status {
    std::string state;  // "starting", "training", "saving", "finished", "preempted", "failed"
    int64_t step = 0, steps = 0;
    int exit_code = -1;      // -1: still running
    std::string checkpoint;  // newest committed, "": none
    std::string message;     // of a failure
  };
  void write_status(const Status& status) const;

 private:
  class Lock {
   public:
    Lock() = default;
    ~Lock();
    Lock(Lock&& other) noexcept : descriptor_(other.descriptor_) { other.descriptor_ = -1; }
    Lock& operator=(Lock&& other) noexcept;
    void take(const std::filesystem::path& file);

   private:
    int descriptor_ = -1;
  };
  std::filesystem::path path_;
  Lock lock_;
};

}  // namespace strata
