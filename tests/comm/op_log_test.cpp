#include "parallel/comm/op_log.h"

#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>

#include "core/error.h"
#include "parallel/comm/communicator.h"
#include "tests/comm/temporary_folder.h"

namespace strata::comm_test {

OpLog::Start start(uint32_t comm, uint64_t sequence, CommOp op = CommOp::AllReduce) {
  return {.comm = comm,
          .sequence = sequence,
          .op = op,
          .dtype = static_cast<uint8_t>(at::kBFloat16),
          .reduce = 0,
          .count = 128,
          .bytes = 256,
          .peer = -1,
          .site = {2, SiteOp::RegionExit},
          .signature = 42 + sequence};
}

TEST(OpLog, ReadsBackWhatWasWritten) {
  const TemporaryFolder folder;
  const auto file = flight_file(folder.path(), 3);
  EXPECT_EQ(file.filename(), "rank-00003.fr");
  OpLog log(file, 3, 8);
  EXPECT_EQ(log.add_communicator("job", {0, 1, 2, 3, 4, 5, 6, 7}), 0u);
  EXPECT_EQ(log.add_communicator("tp [2,3]", {2, 3}), 1u);
  log.set_layer_names({"model.embed_tokens", "model.layers.0", "model.layers.1"});
  log.set_phase("backward", 12, 5);
  const uint64_t first = log.posted(start(1, 7));
  log.done(first);
  const uint64_t second = log.posted(start(0, 9, CommOp::Broadcast));
  log.waiting(second);
  log.posted(start(0, 10, CommOp::Exchange));

  const FlightRecord f = read_flight_record(file);
  EXPECT_EQ(f.rank, 3);
  EXPECT_EQ(f.world, 8);
  EXPECT_EQ(f.pid, getpid());
  EXPECT_EQ(f.phase, "backward");
  EXPECT_EQ(f.step, 12);
  EXPECT_LT(f.heartbeat_age_s, 60);
  ASSERT_EQ(f.records.size(), 3u);
  const OpRecord& a = f.records[0];
  EXPECT_EQ(a.communicator, "tp [2,3]");
  EXPECT_EQ(a.members, (std::vector<int>{2, 3}));
  EXPECT_EQ(a.op, "all_reduce");
  EXPECT_EQ(a.reduce, "sum");
  EXPECT_EQ(a.dtype, "bf16");
  EXPECT_EQ(a.site, "model.layers.1 region_exit");
  EXPECT_EQ(a.phase, "backward");
  EXPECT_EQ(a.sequence, 7u);
  EXPECT_EQ(a.count, 128u);
  EXPECT_EQ(a.bytes, 256u);
  EXPECT_EQ(a.signature, 49u);
  EXPECT_EQ(a.step, 12);
  EXPECT_EQ(a.microbatch, 5);
  EXPECT_TRUE(a.done);
  EXPECT_FALSE(f.records[1].done);
  EXPECT_TRUE(f.records[1].waiting);
  EXPECT_EQ(f.records[1].op, "broadcast");
  EXPECT_FALSE(f.records[2].waiting);
  EXPECT_FALSE(f.records[2].receive);
}

TEST(OpLog, KeepsTheNewestRecords) {
  const TemporaryFolder folder;
  const auto file = folder.path() / "a.fr";
  OpLog log(file, 0, 1);
  log.add_communicator("job", {0});
  const uint64_t old = log.posted(start(0, 1));
  for (uint64_t i = 2; i <= 9000; ++i) log.posted(start(0, i));
  log.done(old);  // its place belongs to another record now
  const FlightRecord f = read_flight_record(file);
  ASSERT_EQ(f.records.size(), 8192u);
  EXPECT_EQ(f.records.front().sequence, 9000u - 8192 + 1);
  EXPECT_EQ(f.records.back().sequence, 9000u);
  for (const auto& r : f.records) EXPECT_FALSE(r.done);
}

TEST(OpLog, ContentSurvivesAKill) {
  const TemporaryFolder folder;
  const auto file = folder.path() / "a.fr";
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    OpLog log(file, 1, 2);
    log.add_communicator("job", {0, 1});
    log.set_phase("forward", 4);
    log.posted(start(0, 3));
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status));
  const FlightRecord f = read_flight_record(file);
  ASSERT_EQ(f.records.size(), 1u);
  EXPECT_EQ(f.records[0].sequence, 3u);
  EXPECT_EQ(f.step, 4);
}

TEST(OpLog, RefusesOtherFiles) {
  const TemporaryFolder folder;
  EXPECT_THROW(read_flight_record(folder.path() / "none"), DataError);
  std::ofstream(folder.path() / "text") << "hello";
  EXPECT_THROW(read_flight_record(folder.path() / "text"), DataError);
  std::ofstream(folder.path() / "zeros") << std::string(65536 + 8192 * 80, '\0');
  EXPECT_THROW(read_flight_record(folder.path() / "zeros"), DataError);
  EXPECT_THROW(OpLog("/proc/none/flight.fr", 0, 1), StorageError);
}

// Damage in any byte gives an answer or a DataError, never a crash.
TEST(OpLog, SurvivesDamagedFiles) {
  const TemporaryFolder folder;
  const auto file = folder.path() / "a.fr";
  {
    OpLog log(file, 0, 2);
    log.add_communicator("job", {0, 1});
    log.set_layer_names({"a", "b", "c"});
    for (uint64_t i = 1; i <= 20; ++i) log.posted(start(0, i));
  }
  std::ifstream in(file, std::ios::binary);
  const std::string good((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  for (size_t at = 8; at < good.size(); at += at < 400 ? 3 : at < 66000 ? 1009 : 11113) {
    for (const char value : {'\xff', '\x7f'}) {
      std::string bad = good;
      bad[at] = value;
      std::ofstream(folder.path() / "bad", std::ios::binary) << bad;
      try {
        (void)analyse_hang({read_flight_record(folder.path() / "bad")});
      } catch (const DataError&) {
      }
    }
  }
}

TEST(OpLog, WorksWithoutAFile) {
  OpLog log("", 0, 1);
  log.add_communicator("job", {0});
  log.done(log.posted(start(0, 1)));
  log.set_layer_names({"embed", "block"});
  EXPECT_EQ(log.site_text({1, SiteOp::Norm}), "block norm");
  EXPECT_EQ(log.site_text({0, SiteOp::Embedding}), "embed embedding");
  EXPECT_EQ(log.site_text({0, SiteOp::Control}), "control");  // belongs to no layer
  EXPECT_EQ(log.site_text({}), "");
  EXPECT_EQ(log.site_text({9, SiteOp::Norm}), "layer 9 norm");
}

// Communicators fill it: one record per collective, one per peer and direction of an exchange.
TEST(OpLog, RecordsOfACommunicator) {
  const TemporaryFolder folder;
  const auto file = flight_file(folder.path(), 1);
  auto log = std::make_shared<OpLog>(file, 1, 3);
  const auto comm = make_null_communicator(3, 1);
  comm->set_op_log(log);
  comm->all_reduce(at::zeros({8}), ReduceOp::Max, {5, SiteOp::LossMax}).wait();
  const auto pair = comm->subgroup(std::vector<int>{1, 2}, "pair[1,2]");
  const Tensor x = at::zeros({10}), y = at::zeros({20});
  comm
      ->exchange(std::vector<Transfer>{
          {Transfer::Kind::Send, x, 0}, {Transfer::Kind::Send, y, 0}, {Transfer::Kind::Recv, y, 2}})
      .wait();
  pair->barrier();
  const FlightRecord f = read_flight_record(file);
  ASSERT_EQ(f.records.size(), 4u);
  EXPECT_EQ(f.records[0].reduce, "max");
  EXPECT_EQ(f.records[0].site, "layer 5 loss_max");
  EXPECT_EQ(f.records[1].op, "exchange");
  EXPECT_TRUE(f.records[1].receive);
  EXPECT_EQ(f.records[1].peer, 2);
  EXPECT_EQ(f.records[1].bytes, 80u);
  EXPECT_FALSE(f.records[2].receive);
  EXPECT_EQ(f.records[2].bytes, 120u);
  EXPECT_EQ(f.records[3].communicator, "pair[1,2]");
  EXPECT_EQ(f.records[3].members, (std::vector<int>{1, 2}));
  for (const auto& r : f.records) EXPECT_TRUE(r.done);
}

}  // namespace strata::comm_test
