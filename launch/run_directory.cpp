#include "launch/run_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/io/file.h"
#include "core/log.h"
#include "core/text.h"
#include "parallel/comm/op_log.h"

namespace strata {
namespace run_directory_detail {

std::string utc_now() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

std::string host_name() {
  char text[256] = "";
  ::gethostname(text, sizeof text - 1);
  return text;
}

}  // namespace run_directory_detail

RunDirectory::Lock::~Lock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

RunDirectory::Lock& RunDirectory::Lock::operator=(Lock&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

void RunDirectory::Lock::take(const std::filesystem::path& file) {
  using namespace run_directory_detail;
  descriptor_ = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor_ < 0)
    throw StorageError(cat(file.string(), ": cannot be opened: ", std::strerror(errno), "."));
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    char holder[512] = "";
    const ssize_t bytes = ::pread(descriptor_, holder, sizeof holder - 1, 0);
    const std::string who(
        trim(std::string_view(holder, bytes > 0 ? static_cast<size_t>(bytes) : 0)));
    throw ConfigError("run.dir",
                      cat(file.parent_path().string(), ", which is in use by ",
                          who.empty() ? "another process" : who),
                      "a run directory that no other process uses",
                      " Stop that run, or give this one another run.dir or run.name");
  }
  const std::string text =
      cat("process ", ::getpid(), " on ", host_name(), " since ", utc_now(), "\n");
  if (::ftruncate(descriptor_, 0) != 0 || ::pwrite(descriptor_, text.data(), text.size(), 0) < 0) {
    throw StorageError(cat(file.string(), ": cannot be written: ", std::strerror(errno), "."));
  }
}

void RunDirectory::claim() {
  std::error_code error;
  for (const char* folder : {"", "logs", "flight", "hang", "checkpoints"}) {
    std::filesystem::create_directories(path_ / folder, error);
    if (error) {
      throw StorageError(cat((path_ / folder).string(), ": cannot be created: ", error.message(),
                             ". Choose a writable run.dir."));
    }
  }
  lock_.take(path_ / "lock");
}

std::filesystem::path RunDirectory::log(int rank) const {
  return path_ / "logs" / cat("rank-", rank, ".log");
}

std::filesystem::path RunDirectory::flight(int rank) const { return flight_file(path_, rank); }

void RunDirectory::write_status(const Status& status) const {
  using namespace run_directory_detail;
  nlohmann::ordered_json json = {{"state", status.state}, {"step", status.step},
                                 {"steps", status.steps}, {"time", utc_now()},
                                 {"host", host_name()},   {"pid", ::getpid()}};
  if (status.exit_code >= 0) json["exit_code"] = status.exit_code;
  if (!status.checkpoint.empty()) json["checkpoint"] = status.checkpoint;
  if (!status.message.empty()) json["message"] = status.message;
  try {
    io::write_text_atomic(path_ / "status.json",
                          json.dump(2, ' ', true, nlohmann::json::error_handler_t::replace) + "\n");
  } catch (const StorageError& error) {
    log::warn("status.json was not written: ", error.what());
  }
}

}  // namespace strata
