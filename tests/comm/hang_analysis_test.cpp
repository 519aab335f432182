// The analyser on records written by hand: who is to blame, and is it said with operation, layer
// and step?
#include <gtest/gtest.h>

#include "core/text.h"
#include "parallel/comm/op_log.h"

namespace strata::comm_test {

// Builds the records of some ranks that run the same program.
class Scene {
 public:
  explicit Scene(int world) {
    for (int r = 0; r < world; ++r) {
      FlightRecord record;
      record.rank = r;
      record.world = world;
      record.pid = 100 + r;
      record.phase = "backward";
      record.step = 3;
      ranks_.push_back(record);
    }
  }

  // One collective on one rank.
  OpRecord& post(int rank, const std::string& comm, const std::vector<int>& members,
                 const std::string& op, const std::string& site, bool done) {
    uint64_t last = 0;
    for (const auto& r : ranks_[rank].records) {
      if (r.communicator == comm) last = std::max(last, r.sequence);
    }
    OpRecord record;
    record.sequence = last + 1;
    record.communicator = comm;
    record.members = members;
    record.op = op;
    record.dtype = "f32";
    record.count = 64;
    record.site = site;
    record.step = 3;
    record.done = done;
    record.signature = std::hash<std::string>()(op + site);
    ranks_[rank].records.push_back(record);
    return ranks_[rank].records.back();
  }
  void all(const std::string& comm, const std::vector<int>& members, const std::string& op,
           const std::string& site, bool done) {
    for (const int r : members) post(r, comm, members, op, site, done);
  }
  OpRecord& exchange(int rank, int peer, bool receive, uint64_t total, bool done) {
    std::vector<int> members;
    for (size_t r = 0; r < ranks_.size(); ++r) members.push_back(static_cast<int>(r));
    OpRecord& r = post(rank, "job", members, "exchange", "pipeline", done);
    r.peer = peer;
    r.receive = receive;
    r.signature = total;
    return r;
  }
  FlightRecord& rank(int r) { return ranks_[r]; }
  std::vector<FlightRecord>& ranks() { return ranks_; }

  std::string text() const { return analyse_hang(ranks_); }
  std::string verdict() const {
    const std::string all = text();
    return all.substr(0, all.find('\n'));
  }

 private:
  std::vector<FlightRecord> ranks_;
};

const std::vector<int> kAll = {0, 1, 2};

TEST(HangAnalysis, MissingCall) {
  Scene s(3);
  s.all("job", kAll, "all_reduce", "model.layers.2 region_exit", true);
  s.post(0, "job", kAll, "all_reduce", "model.layers.3 region_exit", false);
  s.post(2, "job", kAll, "all_reduce", "model.layers.3 region_exit", false);
  s.rank(1).phase = "data";
  EXPECT_EQ(s.verdict(), "culprit: rank 1");
  const std::string text = s.text();
  EXPECT_NE(text.find("rank 1 has not posted all_reduce #2 on job (f32 x 64, model.layers.3 "
                      "region_exit, step 3)"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("waiting: ranks 0, 2"), std::string::npos) << text;
  EXPECT_NE(text.find("rank 1 (pid 101): phase data, step 3"), std::string::npos) << text;
}

// Rank 0 does not come to "b" because it waits for rank 2 in "a": rank 2 is to blame, not rank 0.
TEST(HangAnalysis, AWaitingRankIsNotTheCulprit) {
  Scene s(3);
  s.post(0, "a[0,2]", {0, 2}, "all_gather", "x", false);
  s.post(1, "b[0,1]", {0, 1}, "all_reduce", "y", false);
  EXPECT_EQ(s.verdict(), "culprit: rank 2");
  EXPECT_NE(s.text().find("waiting: ranks 0, 1"), std::string::npos);
}

// What a rank posted without waiting for it yet does not block it.
TEST(HangAnalysis, OpenButNotWaitedFor) {
  Scene s(2);
  s.all("job", {0, 1}, "all_reduce", "x", false);
  s.rank(1).records.back().waiting = false;
  EXPECT_EQ(s.verdict(), "culprit: rank 1");
  EXPECT_NE(
      s.text().find(
          "rank 1 posted all_reduce #1 on job (f32 x 64, x, step 3) but is not working on it"),
      std::string::npos);
}

TEST(HangAnalysis, SkippedCollectiveInAMajority) {
  Scene s(3);
  s.all("job", kAll, "all_reduce", "embed", true);
  for (const int r : kAll) {
    s.post(r, "job", kAll, "all_reduce", r == 2 ? "model.layers.1" : "model.layers.0", false);
  }
  EXPECT_EQ(s.verdict(), "culprit: rank 2");
  EXPECT_NE(s.text().find("rank 2 posted all_reduce #2 on job (f32 x 64, model.layers.1, step 3) "
                          "where rank 0 posted "
                          "all_reduce #2 on job (f32 x 64, model.layers.0, step 3)"),
            std::string::npos)
      << s.text();
}

// Two ranks, no majority: the earlier steps show who left the pattern.
TEST(HangAnalysis, SkippedCollectiveOfTwoRanksIsSeenFromHistory) {
  for (int guilty = 0; guilty < 2; ++guilty) {
    Scene s(2);
    for (int step = 0; step < 3; ++step) {
      for (const char* site : {"l0", "l1", "l2"}) s.all("job", {0, 1}, "all_reduce", site, true);
    }
    s.all("job", {0, 1}, "all_reduce", "l0", true);
    s.post(guilty, "job", {0, 1}, "all_reduce", "l2", false);
    s.post(1 - guilty, "job", {0, 1}, "all_reduce", "l1", false);
    EXPECT_EQ(s.verdict(), cat("culprit: rank ", guilty));
  }
}

TEST(HangAnalysis, TwoRanksWithoutHistoryAreBothNamed) {
  Scene s(2);
  s.post(0, "job", {0, 1}, "all_reduce", "l0", false);
  s.post(1, "job", {0, 1}, "all_gather", "l0", false);
  EXPECT_EQ(s.verdict().substr(0, 20), "culprits: ranks 0, 1");
}

// Rank 1 issues two groups in the other order: a circle, and its own history shows who changed.
TEST(HangAnalysis, ReorderedCollectivesOfTwoGroups) {
  Scene s(2);
  for (int step = 0; step < 2; ++step) {
    s.all("a", {0, 1}, "all_reduce", "first", true);
    s.all("b", {0, 1}, "all_reduce", "second", true);
  }
  s.post(0, "a", {0, 1}, "all_reduce", "first", false);
  s.post(1, "b", {0, 1}, "all_reduce", "second", false);
  EXPECT_EQ(s.verdict(), "culprit: rank 1 (deadlock: other order)");
  EXPECT_NE(s.text().find("rank 1 has not posted all_reduce #3 on a (f32 x 64, first"),
            std::string::npos)
      << s.text();
}

// In the first step other ranks that run the same program decide.
TEST(HangAnalysis, ReorderedInTheFirstStepIsSeenFromOtherRanks) {
  Scene s(4);
  for (int r = 0; r < 4; ++r) s.post(r, "job", {0, 1, 2, 3}, "barrier", "startup", true);
  for (const int r : {2, 3}) {
    s.post(r, "c", {2, 3}, "all_reduce", "first", true);
    s.post(r, "d", {2, 3}, "all_reduce", "second", true);
  }
  s.post(0, "a", {0, 1}, "all_reduce", "first", false);
  s.post(1, "b", {0, 1}, "all_reduce", "second", false);
  EXPECT_EQ(s.verdict(), "culprit: rank 1 (deadlock: other order)");
}

TEST(HangAnalysis, CircleWithoutHistoryNamesAllOfIt) {
  Scene s(3);
  s.post(0, "a", {0, 1}, "all_reduce", "x", false);
  s.post(1, "b", {1, 2}, "all_reduce", "y", false);
  s.post(2, "c", {0, 2}, "all_reduce", "z", false);
  EXPECT_EQ(s.verdict(), "culprits: ranks 0, 1, 2 (deadlock: they wait for each other)");
}

TEST(HangAnalysis, ExchangeWithoutItsOtherSide) {
  Scene s(3);
  s.exchange(0, 1, false, 400, true);
  s.exchange(1, 0, true, 400, true);
  s.exchange(1, 0, true, 800, false);  // rank 0 sent only once
  s.exchange(2, 1, true, 100, false);  // rank 1 is stuck
  EXPECT_EQ(s.verdict(), "culprit: rank 0");
  EXPECT_NE(s.text().find("rank 0 has not sent what rank 1 receives in exchange"),
            std::string::npos)
      << s.text();
  Scene t(2);
  t.exchange(0, 1, false, 1 << 20, false);
  EXPECT_EQ(t.verdict(), "culprit: rank 1");
  EXPECT_NE(t.text().find("rank 1 has not received what rank 0 sends"), std::string::npos)
      << t.text();
}

// Pipeline stages: a send that nobody waits for moves while its sender waits for something else, so
// a receiver that does not take it is the one that stands still.
TEST(HangAnalysis, ASenderThatWaitsElsewhereIsNotToBlame) {
  Scene s(2);
  s.exchange(0, 1, false, 400, false).waiting = false;
  s.exchange(0, 1, true, 400, false);
  s.exchange(1, 0, true, 400, false);
  EXPECT_EQ(s.verdict(), "culprit: rank 1");
  s.rank(0).records.back().done = true;  // it computes, and its send does not move
  EXPECT_EQ(s.verdict(), "culprit: rank 0");
}

TEST(HangAnalysis, AllPostedTheSame) {
  Scene s(2);
  s.all("job", {0, 1}, "all_reduce", "x", false);
  EXPECT_EQ(s.verdict().substr(0, 16), "culprit: unknown");
  EXPECT_NE(s.verdict().find("network or device"), std::string::npos);
}

TEST(HangAnalysis, NobodyWaits) {
  Scene s(2);
  s.all("job", {0, 1}, "all_reduce", "x", true);
  EXPECT_EQ(s.verdict(), "culprit: unknown (no rank waits for another)");
  EXPECT_NE(s.text().find("last completed all_reduce #1"), std::string::npos);
  EXPECT_EQ(analyse_hang({}).substr(0, 16), "culprit: unknown");
}

TEST(HangAnalysis, RankWithoutRecord) {
  Scene s(3);
  for (const int r : {0, 2}) s.post(r, "job", kAll, "barrier", "startup", false);
  s.ranks().erase(s.ranks().begin() + 1);
  EXPECT_EQ(s.verdict(), "culprit: rank 1");
  EXPECT_NE(s.text().find("rank 1: no flight record"), std::string::npos);
}

}  // namespace strata::comm_test
