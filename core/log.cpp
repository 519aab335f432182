#include "core/log.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <string_view>
#include <utility>

#include "core/error.h"

namespace strata::log {
namespace log_detail {

// The receiver of the whole process; set by LogScope alone.
std::atomic<Logger*> current{nullptr};

char letter(Level level) {
  constexpr char kLetters[] = {'D', 'I', 'W', 'E'};
  return kLetters[static_cast<int>(level)];
}

std::string prefix(Level level, int rank) {
  using namespace std::chrono;
  const auto now = system_clock::now();
  const std::time_t seconds = system_clock::to_time_t(now);
  const auto milliseconds =
      duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  std::tm local{};
  localtime_r(&seconds, &local);
  char text[64];
  const int length =
      std::snprintf(text, sizeof text, "%02d:%02d:%02d.%03d %c ", local.tm_hour, local.tm_min,
                    local.tm_sec, static_cast<int>(milliseconds), letter(level));
  std::string out(text, static_cast<size_t>(length));
  if (rank >= 0) out += cat('r', rank, ' ');
  return out;
}

// Every line of a message carries the prefix, so that a search by rank or level finds all of it.
std::string lines(Level level, int rank, const std::string& message) {
  const std::string head = prefix(level, rank);
  std::string_view rest = message;
  while (!rest.empty() && rest.back() == '\n') rest.remove_suffix(1);
  std::string out;
  for (;;) {
    const size_t end = rest.find('\n');
    out.append(head).append(rest.substr(0, end)).push_back('\n');
    if (end == std::string_view::npos) return out;
    rest.remove_prefix(end + 1);
  }
}

// One write(2) for the whole text keeps lines of several ranks apart. A log that cannot be written
// (closed terminal, full disk) must not end a run, so failures are dropped here.
void write_whole(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(descriptor, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    text.remove_prefix(static_cast<size_t>(written));
  }
}

}  // namespace log_detail

struct Logger::Impl {
  Options options;
  int file = -1;
};

Level parse_level(const std::string& name) {
  const std::vector<std::string> names = {"debug", "info", "warn", "error"};
  for (size_t i = 0; i < names.size(); ++i) {
    if (name == names[i]) return static_cast<Level>(i);
  }
  throw ConfigError("log.level", cat('"', name, '"'), join(names), did_you_mean(name, names));
}

Logger::Logger(Options options) : impl_(std::make_unique<Impl>()) {
  impl_->options = std::move(options);
  const std::string& path = impl_->options.file;
  if (path.empty()) return;
  impl_->file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (impl_->file < 0) {
    throw StorageError(
        cat("The log file ", path, " cannot be opened for writing: ", std::strerror(errno), "."));
  }
}

Logger::~Logger() {
  if (impl_->file >= 0) ::close(impl_->file);
}

void Logger::write(Level level, const std::string& message) {
  const Options& options = impl_->options;
  if (level < options.level) return;
  const bool to_terminal = options.all_ranks || options.rank == 0 || level >= Level::Warn;
  if (!to_terminal && impl_->file < 0) return;
  const std::string text = log_detail::lines(level, options.rank, message);
  if (impl_->file >= 0) log_detail::write_whole(impl_->file, text);
  if (to_terminal) log_detail::write_whole(STDERR_FILENO, text);
}

void Logger::flush() {
  // Lines are not buffered in the process; this asks the system to bring them to the disk.
  if (impl_->file >= 0) ::fdatasync(impl_->file);
}

LogScope::LogScope(Logger& logger) : previous_(log_detail::current.exchange(&logger)) {}

LogScope::~LogScope() { log_detail::current.store(previous_); }

void write(Level level, const std::string& message) {
  if (Logger* logger = log_detail::current.load()) {
    logger->write(level, message);
  } else if (level >= Level::Warn) {
    log_detail::write_whole(STDERR_FILENO, log_detail::lines(level, -1, message));
  }
}

}  // namespace strata::log
