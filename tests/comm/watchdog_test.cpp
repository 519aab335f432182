#include "parallel/comm/watchdog.h"

#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "core/log.h"
#include "parallel/comm/op_log.h"
#include "tests/comm/temporary_folder.h"

namespace strata::comm_test {

using std::chrono::milliseconds;

struct Watched {
  explicit Watched(const std::filesystem::path& dir, int rank, int world, double deadline_s)
      : log(std::make_shared<OpLog>(flight_file(dir, rank), rank, world)) {
    Watchdog::Options options;
    options.run_dir = dir;
    options.rank = rank;
    options.world = world;
    options.start_s = options.load_s = options.first_step_s = options.step_s = deadline_s;
    options.grace_s = 0.2;
    options.on_hang = [this] { ++hangs; };
    dog = std::make_unique<Watchdog>(options, log);
  }
  bool hung_within(milliseconds time) const {
    const auto end = std::chrono::steady_clock::now() + time;
    while (hangs == 0 && std::chrono::steady_clock::now() < end)
      std::this_thread::sleep_for(milliseconds(5));
    return hangs > 0;
  }

  std::shared_ptr<OpLog> log;
  std::atomic<int> hangs{0};
  std::unique_ptr<Watchdog> dog;
};

std::string read(const std::filesystem::path& file) {
  std::ifstream in(file);
  return std::string((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
}

class WatchdogTest : public testing::Test {
 protected:
  TemporaryFolder folder_;
  log::Logger logger_{log::Options{.file = (folder_.path() / "log").string()}};
  log::LogScope scope_{logger_};
};

TEST_F(WatchdogTest, ReportsAndCallsBackAfterTheDeadline) {
  Watched w(folder_.path(), 0, 1, 0.3);
  w.dog->enter(Watchdog::Phase::Step);
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_TRUE(w.hung_within(milliseconds(10000)));
  EXPECT_GE(std::chrono::steady_clock::now() - begin, milliseconds(480));  // deadline and grace
  const std::string report = read(folder_.path() / "hang" / "report.txt");
  EXPECT_NE(report.find("rank 0: no progress in phase step for"), std::string::npos) << report;
  EXPECT_NE(report.find("culprit: unknown"), std::string::npos) << report;
  logger_.flush();
  EXPECT_NE(read(folder_.path() / "log").find("the run hangs"), std::string::npos);
  w.dog.reset();
  EXPECT_EQ(w.hangs, 1);
}

TEST_F(WatchdogTest, ProgressKeepsItQuiet) {
  Watched w(folder_.path(), 0, 1, 1.5);
  for (int i = 0; i < 12; ++i) {
    w.dog->enter(Watchdog::Phase::Step);
    std::this_thread::sleep_for(milliseconds(150));
  }
  for (int i = 0; i < 12; ++i) {
    w.dog->enter(Watchdog::Phase::Evaluate);
    std::this_thread::sleep_for(milliseconds(150));
  }
  EXPECT_EQ(w.hangs, 0);
  w.dog.reset();
  EXPECT_EQ(w.hangs, 0);
  EXPECT_FALSE(std::filesystem::exists(folder_.path() / "hang" / "trigger"));
}

TEST_F(WatchdogTest, AnEvaluationThatStopsIsAHang) {
  Watched w(folder_.path(), 0, 1, 0.3);
  w.dog->enter(Watchdog::Phase::Evaluate);
  ASSERT_TRUE(w.hung_within(milliseconds(10000)));
  EXPECT_NE(read(folder_.path() / "hang" / "report.txt").find("in phase evaluate"),
            std::string::npos);
}

TEST_F(WatchdogTest, TheFirstReportStays) {
  Watched w(folder_.path(), 0, 1, 0.3);
  const auto report = folder_.path() / "hang" / "report.txt";
  std::ofstream(report) << "found by others\n";  // while this rank was stopped
  w.dog->enter(Watchdog::Phase::Step);
  ASSERT_TRUE(w.hung_within(milliseconds(10000)));
  EXPECT_EQ(read(report), "found by others\n");
}

TEST_F(WatchdogTest, OneRanksTriggerEndsAllAndTheLowestReports) {
  Watched zero(folder_.path(), 0, 3, 100);
  Watched two(folder_.path(), 2, 3, 0.3);  // rank 1 is dead
  const uint32_t id = two.log->add_communicator("job", {0, 1, 2});
  zero.log->add_communicator("job", {0, 1, 2});
  for (auto* w : {&zero, &two}) {
    const OpLog::Start op{.comm = id,
                          .sequence = 1,
                          .op = CommOp::AllReduce,
                          .dtype = 6,
                          .reduce = 0,
                          .count = 1,
                          .bytes = 4,
                          .peer = -1,
                          .site = {},
                          .signature = 1};
    w->log->waiting(w->log->posted(op));
  }
  two.dog->enter(Watchdog::Phase::FirstStep);
  ASSERT_TRUE(two.hung_within(milliseconds(10000)));
  ASSERT_TRUE(zero.hung_within(milliseconds(10000)));
  const std::string report = read(folder_.path() / "hang" / "report.txt");
  EXPECT_NE(report.find("rank 2: no progress in phase first step"), std::string::npos) << report;
  EXPECT_NE(report.find("culprit: rank 1\n"), std::string::npos) << report;
  EXPECT_NE(report.find("waiting: ranks 0, 2"), std::string::npos) << report;
}

TEST_F(WatchdogTest, AnOldTriggerIsIgnored) {
  std::filesystem::create_directories(folder_.path() / "hang");
  std::ofstream(folder_.path() / "hang" / "trigger") << "of an earlier run\n";
  std::ofstream(folder_.path() / "hang" / "report.txt") << "old\n";
  Watched one(folder_.path(), 1, 2, 100);  // starts before rank 0 has cleaned up
  std::this_thread::sleep_for(milliseconds(300));
  EXPECT_EQ(one.hangs, 0);
  Watched zero(folder_.path(), 0, 2, 0.3);
  EXPECT_FALSE(std::filesystem::exists(folder_.path() / "hang" / "report.txt"));
  ASSERT_TRUE(zero.hung_within(milliseconds(10000)));
  ASSERT_TRUE(one.hung_within(milliseconds(10000)));
}

}  // namespace strata::comm_test
