#include "parallel/checkpoint/leftovers.h"

#include <signal.h>
#include <sys/types.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "core/io/file.h"
#include "core/text.h"
#include "parallel/checkpoint/checkpoint.h"
#include "parallel/checkpoint/format.h"

namespace strata {
namespace checkpoint_detail {
namespace leftovers_detail {

namespace fs = std::filesystem;

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof(name) - 1) == 0 ? name : "unknown";
}

// Start time of a process in clock ticks since boot (field 22 of its stat file), so that a reused
// process id is noticed.
// "" when there is no such process.
std::string start_ticks(int64_t pid) {
  std::ifstream file(cat("/proc/", pid, "/stat"));
  std::string text;
  if (!std::getline(file, text)) return "";
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return "";
  std::istringstream fields(text.substr(name_end + 1));
  std::string field;
  for (int i = 3; i <= 22; ++i) fields >> field;
  return field;
}

double age_s(const fs::path& path) {
  std::error_code error;
  const auto written = fs::last_write_time(path, error);
  if (error) return 0;
  return std::chrono::duration<double>(fs::file_time_type::clock::now() - written).count();
}

}  // namespace leftovers_detail

void write_owner(const std::filesystem::path& directory) {
  const int64_t pid = ::getpid();
  io::File file(directory / kWriterName, io::File::Mode::Create);
  file.append(
      cat(leftovers_detail::host_name(), " ", pid, " ", leftovers_detail::start_ticks(pid), "\n"));
  file.close();
}

std::string live_owner(const std::filesystem::path& directory) {
  // A writer makes the directory first and says who it is right after; another host's writer cannot
  // be asked, but no save takes a day.
  constexpr double kUnnamed_s = 60, kForeign_s = 24 * 3600;
  std::ifstream file(directory / kWriterName);
  std::string host, start;
  int64_t pid = 0;
  if (!(file >> host >> pid) || pid <= 0) {
    return leftovers_detail::age_s(directory) < kUnnamed_s ? "a process that has just started" : "";
  }
  file >> start;
  if (host != leftovers_detail::host_name()) {
    return leftovers_detail::age_s(directory) < kForeign_s ? cat("process ", pid, " on host ", host)
                                                           : "";
  }
  const std::string now = leftovers_detail::start_ticks(pid);
  const bool alive =
      now.empty() ? (::kill(static_cast<pid_t>(pid), 0) == 0 || errno == EPERM) && start.empty()
                  : start.empty() || now == start;
  return alive ? cat("process ", pid, " on this host") : "";
}

}  // namespace checkpoint_detail

void remove_leftovers(const std::filesystem::path& root,
                      const std::function<void(const std::string&)>& warn) {
  namespace fs = std::filesystem;
  std::error_code error;
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(root, error)) {
    const std::string name = entry.path().filename().string();
    if (name.size() > 17 && checkpoint_detail::parse_step_name(name.substr(0, 17)) >= 0 &&
        name[17] == '.' &&
        (starts_with(name.substr(18), "tmp-") || starts_with(name.substr(18), "del-"))) {
      found.push_back(entry.path());
    }
  }
  for (const fs::path& path : found) {
    const bool unfinished = path.filename().string().find(".tmp-") != std::string::npos;
    const std::string owner = unfinished ? checkpoint_detail::live_owner(path) : "";
    if (!owner.empty()) {
      warn(cat(path.string(), ": left alone, ", owner, " is writing it"));
      continue;
    }
    try {
      io::remove_tree(path);
    } catch (const StorageError& failure) {
      warn(cat("leftover of an unfinished save: ", failure.what()));
    }
  }
}

}  // namespace strata
