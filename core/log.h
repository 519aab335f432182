#pragma once
// Log lines for people: "12:03:11.042 I r3 message" on standard error and, once a run directory
// exists, in logs/rank-N.log. Metrics for programs are separate (metrics.jsonl, launch/metrics.h).
//
// A Logger is created by launch/ and handed to LogScope, which makes it the receiver of info(),
// warn() and error() of the whole process for its lifetime; without one (tests, tools) lines of
// level Warn and above go to standard error. Thread safe. Never a collective.
#include <memory>
#include <string>

#include "core/text.h"

namespace strata::log {

enum class Level { Debug, Info, Warn, Error };
Level parse_level(const std::string& name);  // throws ConfigError

struct Options {
  Level level = Level::Info;
  int rank = 0;
  int world = 1;
  bool all_ranks = false;  // log.ranks = all: every rank prints Info; else rank 0 only (Warn and
                           // Error: every rank)
  std::string file =
      {};  // logs/rank-N.log, empty: none; gets every rank's lines whatever all_ranks says
};

class Logger {
 public:
  explicit Logger(Options options);
  ~Logger();
  void write(Level level, const std::string& message);
  void flush();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

class LogScope {
 public:
  explicit LogScope(Logger& logger);
  ~LogScope();
  LogScope(const LogScope&) = delete;
  LogScope& operator=(const LogScope&) = delete;

 private:
  Logger* previous_;
};

void write(Level level, const std::string& message);
template <class... A>
void debug(const A&... a) {
  write(Level::Debug, cat(a...));
}
template <class... A>
void info(const A&... a) {
  write(Level::Info, cat(a...));
}
template <class... A>
void warn(const A&... a) {
  write(Level::Warn, cat(a...));
}
template <class... A>
void error(const A&... a) {
  write(Level::Error, cat(a...));
}

}  // namespace strata::log
