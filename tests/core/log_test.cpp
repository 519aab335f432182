#include "core/log.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <thread>

#include "core/error.h"

namespace strata {
namespace log_test {

// A file of its own, removed at the end.
struct LogFile {
  std::string path;
  LogFile() {
    std::string pattern = testing::TempDir() + "strata_log_XXXXXX";
    const int file = ::mkstemp(pattern.data());
    if (file < 0) throw StorageError("no temporary file");
    ::close(file);
    path = pattern;
  }
  ~LogFile() { std::remove(path.c_str()); }
  std::vector<std::string> lines() const {
    std::ifstream in(path);
    std::vector<std::string> out;
    for (std::string line; std::getline(in, line);) out.push_back(line);
    return out;
  }
};

// What the process writes to standard error while alive.
class CapturedStderr {
 public:
  CapturedStderr() { testing::internal::CaptureStderr(); }
  std::string text() {
    done_ = true;
    return testing::internal::GetCapturedStderr();
  }
  ~CapturedStderr() {
    if (!done_) testing::internal::GetCapturedStderr();
  }

 private:
  bool done_ = false;
};

TEST(Log, LineFormat) {
  LogFile file;
  log::Logger logger({.level = log::Level::Debug, .rank = 3, .world = 4, .file = file.path});
  CapturedStderr terminal;
  logger.write(log::Level::Info, "hello");
  logger.write(log::Level::Debug, "detail");
  logger.write(log::Level::Error, "broken");
  logger.flush();
  const auto lines = file.lines();
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_TRUE(std::regex_match(lines[0], std::regex(R"(\d\d:\d\d:\d\d\.\d\d\d I r3 hello)")))
      << lines[0];
  EXPECT_TRUE(std::regex_match(lines[1], std::regex(R"(\d\d:\d\d:\d\d\.\d\d\d D r3 detail)")))
      << lines[1];
  EXPECT_TRUE(std::regex_match(lines[2], std::regex(R"(\d\d:\d\d:\d\d\.\d\d\d E r3 broken)")))
      << lines[2];
}

TEST(Log, EveryLineOfAMessageIsMarked) {
  LogFile file;
  log::Logger logger({.rank = 1, .world = 2, .file = file.path});
  logger.write(log::Level::Info, "two problems:\nfirst\n\nsecond\n");
  const auto lines = file.lines();
  ASSERT_EQ(lines.size(), 4u);
  for (const auto& line : lines) EXPECT_NE(line.find(" I r1 "), std::string::npos) << line;
}

TEST(Log, OnlyRankZeroAndWarningsReachTheTerminal) {
  LogFile file;
  CapturedStderr terminal;
  log::Logger other({.rank = 2, .world = 4, .file = file.path});
  other.write(log::Level::Info, "quiet");
  other.write(log::Level::Warn, "loud");
  log::Logger first({.rank = 0, .world = 4});
  first.write(log::Level::Info, "from zero");
  first.write(log::Level::Debug, "too fine");
  log::Logger chatty({.rank = 3, .world = 4, .all_ranks = true});
  chatty.write(log::Level::Info, "from three");
  const std::string text = terminal.text();
  EXPECT_EQ(text.find("quiet"), std::string::npos);
  EXPECT_NE(text.find("W r2 loud"), std::string::npos);
  EXPECT_NE(text.find("I r0 from zero"), std::string::npos);
  EXPECT_EQ(text.find("too fine"), std::string::npos);
  EXPECT_NE(text.find("I r3 from three"), std::string::npos);
  EXPECT_EQ(file.lines().size(), 2u);  // the file has every line of its rank
}

TEST(Log, LevelsFilter) {
  LogFile file;
  log::Logger logger({.level = log::Level::Error, .rank = 1, .world = 2, .file = file.path});
  CapturedStderr terminal;
  logger.write(log::Level::Warn, "no");
  logger.write(log::Level::Error, "yes");
  EXPECT_EQ(file.lines().size(), 1u);
}

TEST(Log, ScopesNestAndEnd) {
  LogFile outer_file, inner_file;
  log::Logger outer({.rank = 1, .world = 2, .file = outer_file.path});
  log::Logger inner({.rank = 1, .world = 2, .file = inner_file.path});
  {
    const log::LogScope outer_scope(outer);
    log::info("one ", 1);
    {
      const log::LogScope inner_scope(inner);
      log::info("two");
    }
    log::info("three");
  }
  CapturedStderr terminal;
  log::info("nobody listens");
  log::warn("still heard");
  const std::string text = terminal.text();
  EXPECT_EQ(text.find("nobody"), std::string::npos);
  EXPECT_TRUE(std::regex_match(text, std::regex(R"(\d\d:\d\d:\d\d\.\d\d\d W still heard\n)")))
      << text;
  EXPECT_EQ(outer_file.lines().size(), 2u);
  EXPECT_EQ(inner_file.lines().size(), 1u);
}

TEST(Log, LinesOfManyThreadsStayWhole) {
  LogFile file;
  // Two loggers on one file, as two processes would have.
  log::Logger a({.rank = 1, .world = 3, .file = file.path}),
      b({.rank = 2, .world = 3, .file = file.path});
  const int threads = 4, messages = 500;
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; ++t) {
    pool.emplace_back([&, t] {
      log::Logger& logger = t % 2 == 0 ? a : b;
      for (int i = 0; i < messages; ++i) {
        logger.write(log::Level::Info, cat("thread ", t, " message ", i, " end"));
      }
    });
  }
  for (auto& thread : pool) thread.join();
  std::set<std::string> seen;
  const std::regex whole(R"(\d\d:\d\d:\d\d\.\d\d\d I r[12] (thread \d message \d+ end))");
  for (const auto& line : file.lines()) {
    std::smatch match;
    ASSERT_TRUE(std::regex_match(line, match, whole)) << line;
    seen.insert(match[1]);
  }
  EXPECT_EQ(seen.size(), static_cast<size_t>(threads * messages));
}

TEST(Log, AppendsToAnEarlierFile) {
  LogFile file;
  for (int i = 0; i < 2; ++i) {
    log::Logger logger({.rank = 1, .world = 2, .file = file.path});
    logger.write(log::Level::Info, "start");
  }
  EXPECT_EQ(file.lines().size(), 2u);
}

TEST(Log, UnwritableFileIsAnErrorAtOnce) {
  LogFile file;
  EXPECT_THROW(log::Logger({.file = file.path + "/no/such/folder.log"}), StorageError);
}

TEST(Log, ParseLevel) {
  EXPECT_EQ(log::parse_level("debug"), log::Level::Debug);
  EXPECT_EQ(log::parse_level("error"), log::Level::Error);
  try {
    log::parse_level("inof");
    FAIL() << "an unknown level was accepted";
  } catch (const ConfigError& error) {
    EXPECT_STREQ(
        error.what(),
        "log.level: got \"inof\", allowed: debug, info, warn, error. Did you mean \"info\"?");
  }
}

}  // namespace log_test
}  // namespace strata
