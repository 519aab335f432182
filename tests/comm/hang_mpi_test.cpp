// Real hangs: the watchdog ends them with a report that names the rank to blame, with operation and
// layer.
#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "core/log.h"
#include "core/text.h"
#include "parallel/comm/op_log.h"
#include "parallel/comm/watchdog.h"
#include "tests/comm/subjects.h"
#include "tests/comm/temporary_folder.h"

namespace strata::comm_test {

class Hang : public testing::TestWithParam<Subject> {
 protected:
  void SetUp() override {
    comm_ = GetParam().make();
    if (me() == 0) folder_ = std::make_unique<TemporaryFolder>();
    dir_ = folder_ ? folder_->path().string() : "";
    comm_->broadcast_bytes(dir_, 0);
    logger_ =
        std::make_unique<log::Logger>(log::Options{.file = cat(dir_, "/rank-", me(), ".log")});
    scope_ = std::make_unique<log::LogScope>(*logger_);
  }
  void TearDown() override {
    dog_.reset();
    comm_->barrier();  // before the folder goes away
    scope_.reset();
  }

  int n() const { return comm_->size(); }
  int me() const { return comm_->rank(); }

  void watch(const std::string& run) {
    dog_.reset();
    hung_ = false;
    dir_of_run_ = dir_ + "/" + run;
    log_ = std::make_shared<OpLog>(flight_file(dir_of_run_, me()), me(), n());
    log_->set_layer_names(
        {"model.embed_tokens", "model.layers.0", "model.layers.1", "model.layers.2"});
    comm_->set_op_log(log_);
    Watchdog::Options options;
    options.run_dir = dir_of_run_;
    options.rank = me();
    options.world = n();
    options.start_s = options.load_s = 60;
    options.first_step_s = options.step_s = 1;
    options.grace_s = 0.5;
    options.on_hang = [this] { hung_ = true; };
    dog_ = std::make_unique<Watchdog>(options, log_);
    comm_->barrier();
    log_->set_phase("forward", 7);
    dog_->enter(Watchdog::Phase::Step);
  }
  void wait_for_report() const {
    while (!hung_) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  std::string report() const {
    std::ifstream in(dir_of_run_ + "/hang/report.txt");
    return std::string((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  }
  Work reduce(Communicator& comm, uint16_t layer) const {
    return comm.all_reduce(tensor_, ReduceOp::Sum, {layer, SiteOp::RegionExit});
  }

  std::unique_ptr<TemporaryFolder> folder_;
  std::string dir_, dir_of_run_;
  std::unique_ptr<log::Logger> logger_;
  std::unique_ptr<log::LogScope> scope_;
  std::unique_ptr<Communicator> comm_;
  std::shared_ptr<OpLog> log_;
  std::unique_ptr<Watchdog> dog_;
  std::atomic<bool> hung_{false};
  Tensor tensor_ = at::ones({1000});
};

TEST_P(Hang, WhenNobodyWaitsNobodyIsBlamed) {
  watch("busy");
  log_->set_phase("endless loop", 7);
  wait_for_report();
  EXPECT_NE(report().find("culprit: unknown (no rank waits for another)"), std::string::npos)
      << report();
  for (int r = 0; r < n(); ++r)
    EXPECT_NE(report().find(cat("rank ", r, " (")), std::string::npos) << report();
  EXPECT_NE(report().find("phase endless loop, step 7"), std::string::npos) << report();
}

// Only where there is somebody to wait for.
class HangOfSeveral : public Hang {};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(HangOfSeveral);

TEST_P(HangOfSeveral, RankThatDoesNotComeIsNamed) {
  for (const int guilty : {0, n() - 1}) {
    watch(cat("missing", guilty));
    reduce(*comm_, 1).wait();
    if (me() == guilty) {
      log_->set_phase("reading data", 7);
      wait_for_report();
      reduce(*comm_, 2).wait();  // lets the others go on
    } else {
      reduce(*comm_, 2).wait();
      wait_for_report();
    }
    const std::string text = report();
    EXPECT_NE(text.find(cat("culprit: rank ", guilty, "\n")), std::string::npos) << text;
    EXPECT_NE(text.find(cat("rank ", guilty, " has not posted all_reduce sum #")),
              std::string::npos)
        << text;
    EXPECT_NE(text.find("on job (f32 x 1000, model.layers.1 region_exit, forward, step 7)"),
              std::string::npos)
        << text;
    EXPECT_NE(text.find("phase reading data, step 7"), std::string::npos) << text;
    comm_->barrier();
  }
}

// Two communicators over the same ranks, used in the other order by one of them.
TEST_P(HangOfSeveral, RankWithTheOtherOrderIsNamed) {
  for (const int guilty : {0, n() - 1}) {
    watch(cat("order", guilty));
    std::vector<int> all(static_cast<size_t>(n()));
    for (int r = 0; r < n(); ++r) all[r] = r;
    const auto a = comm_->subgroup(all, "a"), b = comm_->subgroup(all, "b");
    for (int step = 0; step < 3; ++step) {
      reduce(*a, 1).wait();
      reduce(*b, 2).wait();
    }
    Communicator &first = me() == guilty ? *b : *a, &second = me() == guilty ? *a : *b;
    Work work = reduce(first, me() == guilty ? 2 : 1);
    // Polls like wait() would, so that the test can go on after the report.
    for (uint64_t i = 0; i < 64; ++i) log_->waiting(i);
    while (!hung_) work.poll();
    reduce(second, me() == guilty ? 1 : 2).wait();
    work.wait();
    const std::string text = report();
    EXPECT_NE(text.find(cat("culprit: rank ", guilty, " (deadlock: other order)\n")),
              std::string::npos)
        << text;
    EXPECT_NE(text.find("on a (f32 x 1000, model.layers.0 region_exit, forward, step 7)"),
              std::string::npos)
        << text;
    comm_->barrier();
  }
}

TEST_P(HangOfSeveral, RankThatDoesNotSendIsNamed) {
  watch("exchange");
  const Tensor x = at::ones({100});
  if (me() == 0) {
    wait_for_report();
    comm_->exchange(std::vector<Transfer>{{Transfer::Kind::Send, x, 1}}).wait();
  } else {
    if (me() == 1)
      comm_->exchange(std::vector<Transfer>{{Transfer::Kind::Recv, x, 0}}, {3, SiteOp::Pipeline})
          .wait();
    wait_for_report();
  }
  const std::string text = report();
  EXPECT_NE(text.find("culprit: rank 0\n"), std::string::npos) << text;
  EXPECT_NE(text.find("rank 0 has not sent what rank 1 receives in exchange receive #1 on job"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("model.layers.2 pipeline"), std::string::npos) << text;
}

// Shared memory and messages; the other subjects differ from these in sizes only.
std::vector<Subject> hang_subjects(int least_ranks) {
  std::vector<Subject> list;
  for (const Subject& subject : subjects()) {
    if (test::world_size() >= least_ranks &&
        (subject.name == "mpi" || subject.name == "mpi_every_rank_a_node")) {
      list.push_back(subject);
    }
  }
  return list;
}
INSTANTIATE_TEST_SUITE_P(Backends, Hang, testing::ValuesIn(hang_subjects(1)),
                         [](const auto& info) { return info.param.name; });
INSTANTIATE_TEST_SUITE_P(Backends, HangOfSeveral, testing::ValuesIn(hang_subjects(2)),
                         [](const auto& info) { return info.param.name; });

}  // namespace strata::comm_test
