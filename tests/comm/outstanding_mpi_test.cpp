// Several operations in flight, disagreement between members, groups in a pool.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "core/error.h"
#include "core/text.h"
#include "parallel/comm/op_log.h"
#include "parallel/comm/pool.h"
#include "tests/comm/reference.h"
#include "tests/comm/subjects.h"

namespace strata::comm_test {

class Outstanding : public testing::TestWithParam<Subject> {
 protected:
  void SetUp() override { comm_ = GetParam().make(); }
  int n() const { return comm_->size(); }
  int me() const { return comm_->rank(); }
  std::unique_ptr<Communicator> comm_;
};

TEST_P(Outstanding, OneCommunicatorCompletesInOrder) {
  std::vector<Tensor> tensors, expected;
  std::vector<Work> works;
  for (int k = 0; k < 12; ++k) {
    const int64_t count = k % 3 == 0 ? 10 : k % 3 == 1 ? 5000 : 200003;
    const auto inputs = make_inputs(at::kFloat, count, n(), k);
    tensors.push_back(k % 2 == 0 ? inputs[me()].clone()
                                 : comm_->allocate(count, at::kFloat).copy_(inputs[me()]));
    expected.push_back(tree_reference(inputs));
    works.push_back(comm_->all_reduce(tensors.back()));
  }
  works.back().wait();  // then all before it are complete, too
  for (int k = 0; k < 12; ++k) {
    EXPECT_TRUE(works[k].poll()) << k;
    EXPECT_TRUE(same_bits(tensors[k], expected[k])) << k;
  }
}

TEST_P(Outstanding, AHandleMayBeDroppedAndTheTensorsToo) {
  for (int k = 0; k < 5; ++k) {
    const Tensor mine = make_input(at::kFloat, 100003, me(), k).clone();
    (void)comm_->all_reduce(mine);
  }
  const Tensor one = at::full({1}, 1.0);
  comm_->all_reduce(one).wait();
  EXPECT_EQ(one.item<double>(), n());
}

TEST_P(Outstanding, PollAloneCompletes) {
  const auto inputs = make_inputs(at::kBFloat16, 300001, n(), 1);
  const Tensor mine = inputs[me()].clone();
  Work work = comm_->all_reduce(mine);
  while (!work.poll()) {
  }
  EXPECT_TRUE(same_bits(mine, tree_reference(inputs)));
}

// Ranks start operations of overlapping groups in one global order but wait for them in different
// orders.
TEST_P(Outstanding, OverlappingCommunicatorsWaitedForInAnyOrder) {
  std::vector<std::unique_ptr<Communicator>> groups;  // pairs (0,1), (1,2), ..., and everybody
  for (int r = 0; r + 1 < n(); ++r) {
    if (me() == r || me() == r + 1)
      groups.push_back(comm_->subgroup(std::vector<int>{r, r + 1}, "pair"));
  }
  std::vector<int> all(static_cast<size_t>(n()));
  for (int r = 0; r < n(); ++r) all[r] = r;
  groups.push_back(comm_->subgroup(all, "all"));
  for (int round = 0; round < 10; ++round) {
    std::vector<Tensor> tensors, expected;
    std::vector<Work> works;
    for (auto& group : groups) {
      for (const int64_t count : {7, 30011}) {
        std::vector<Tensor> inputs;
        for (const int r : group->ranks())
          inputs.push_back(make_input(at::kFloat, count, r, round));
        tensors.push_back(inputs[group->rank()].clone());
        expected.push_back(tree_reference(inputs));
        works.push_back(group->all_reduce(tensors.back()));
      }
    }
    // An exchange around the ring flies beside them.
    const Tensor sent = make_input(at::kLong, 20000, me(), round), received = at::empty_like(sent);
    const int right = (me() + 1) % n(), left = (me() + n() - 1) % n();
    works.push_back(comm_->exchange(std::vector<Transfer>{{Transfer::Kind::Send, sent, right},
                                                          {Transfer::Kind::Recv, received, left}}));
    if ((me() + round) % 2 == 0) {
      for (auto& work : works) work.wait();
    } else {
      for (size_t k = works.size(); k-- > 0;) works[k].wait();
    }
    for (size_t k = 0; k < tensors.size(); ++k)
      EXPECT_TRUE(same_bits(tensors[k], expected[k])) << k;
    EXPECT_TRUE(same_bits(received, make_input(at::kLong, 20000, left, round)));
  }
}

// A blocking call on one communicator while others have something in flight.
TEST_P(Outstanding, HostBytesBesideCollectives) {
  std::vector<int> all(static_cast<size_t>(n()));
  for (int r = 0; r < n(); ++r) all[r] = r;
  const auto other = comm_->subgroup(all, "other");
  const auto inputs = make_inputs(at::kFloat, 500001, n());
  const Tensor mine = inputs[me()].clone();
  Work work = comm_->all_reduce(mine);
  if (me() == 0) work.wait();  // needs the others' share of the work, which wait for bytes
  EXPECT_EQ(other->all_gather_bytes("x").size(), static_cast<size_t>(n()));
  other->barrier();
  work.wait();
  EXPECT_TRUE(same_bits(mine, tree_reference(inputs)));
}

TEST_P(Outstanding, PoolMakesEachSetOnce) {
  const int ranks = n();
  CommPool pool(std::move(comm_));
  std::vector<std::vector<int>> groups;
  for (int r = 0; r < ranks; ++r) groups.push_back({r});
  for (int r = 0; r + 1 < ranks; ++r) groups.push_back({r, r + 1});
  std::vector<std::vector<int>> reversed(groups.rbegin(), groups.rend());
  pool.create(reversed);
  const size_t made = pool.all().size();
  pool.create(groups);
  EXPECT_EQ(pool.all().size(), made);
  EXPECT_EQ(pool.all().front(), &pool.job());
  const int me = pool.job().rank();
  EXPECT_EQ(pool.group(std::vector<int>{me}).size(), 1);
  if (ranks > 1) {
    const int low = std::min(me, ranks - 2);
    Communicator& pair = pool.group(std::vector<int>{low, low + 1});
    EXPECT_EQ(&pair, &pool.group(std::vector<int>{low, low + 1}));
    EXPECT_EQ(pair.name(), ranks == 2 ? "job" : cat("group[", low, ",", low + 1, "]"));
    EXPECT_EQ(&pair == &pool.job(), ranks == 2);
  }
  const std::vector<int> unknown = {0, 2, 99};
  EXPECT_THROW(pool.group(unknown), InternalError);
}

INSTANTIATE_TEST_SUITE_P(Backends, Outstanding, testing::ValuesIn(subjects()),
                         [](const auto& info) { return info.param.name; });

std::string desync_text(const std::function<void()>& run) {
  try {
    run();
  } catch (const DesyncError& error) {
    return error.what();
  }
  return "no DesyncError";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// comm.check = each: every backend stops before the operation and names both sides with layer and
// place.
TEST(Desync, CheckedModeNamesBothSides) {
  for (const Subject& subject : subjects()) {
    const auto comm = subject.make();
    auto log = std::make_shared<OpLog>("", comm->rank(), comm->size());
    log->set_layer_names({"model.embed_tokens", "model.layers.0", "model.layers.1"});
    comm->set_op_log(log);
    comm->set_check(Communicator::Check::Each);
    if (comm->size() == 1) {
      comm->all_reduce(at::zeros({3})).wait();
      continue;
    }
    const int n = comm->size(), me = comm->rank();
    std::vector<int> all(static_cast<size_t>(n));
    for (int r = 0; r < n; ++r) all[r] = r;
    const auto group = comm->subgroup(all, "tp[all]");  // inherits the mode
    group->all_reduce(at::zeros({3}), ReduceOp::Sum, {1, SiteOp::RegionExit}).wait();

    const std::string text = desync_text([&] {
      if (me == n - 1) {  // skipped the all_reduce of layer 1
        (void)group->reduce_scatter(at::zeros({2}), at::zeros({2 * n}), {2, SiteOp::RegionExit});
      } else {
        (void)group->all_reduce(at::zeros({64}), ReduceOp::Sum, {1, SiteOp::RegionEnter});
      }
    });
    EXPECT_TRUE(contains(text, "tp[all]")) << subject.name << ": " << text;
    EXPECT_TRUE(contains(text, "rank 0: all_reduce sum f32 x 64 at model.layers.0 region_enter"))
        << text;
    EXPECT_TRUE(contains(
        text, cat("rank ", n - 1, ": reduce_scatter f32 x 2 at model.layers.1 region_exit")))
        << text;
    // Dtype, count, root and reduction count too.
    EXPECT_TRUE(contains(
        desync_text([&] { (void)group->broadcast(at::zeros({4}), me == 0 ? 0 : 1); }), "root 1"));
    EXPECT_TRUE(
        contains(desync_text([&] { (void)group->all_reduce(at::zeros({me + 1})); }), "f32 x 2"));
    EXPECT_TRUE(contains(desync_text([&] {
                           (void)group->all_reduce(at::zeros({4}),
                                                   me == 0 ? ReduceOp::Min : ReduceOp::Max);
                         }),
                         "all_reduce max"));
  }
}

// In shared memory members notice without any checked mode, before one writes where another did not
// expect it.
TEST(Desync, SharedMemoryGroupsNoticeAlways) {
  const auto comm = make_mpi_communicator();
  const int n = comm->size(), me = comm->rank();
  if (n == 1) {
    EXPECT_NO_THROW(comm->all_reduce(at::zeros({3})).wait());
    return;
  }
  const Tensor memory = comm->allocate(300000, at::kFloat);
  const std::string text =
      desync_text([&] { comm->all_reduce(memory.narrow(0, 0, me == 0 ? 300000 : 100000)).wait(); });
  EXPECT_TRUE(contains(text, "communicator job")) << text;
  EXPECT_TRUE(contains(text, "rank 0: #2 all_reduce sum f32 x 300000")) << text;
  EXPECT_TRUE(contains(text, "rank 1: #2 all_reduce sum f32 x 100000")) << text;
  // The communicator stays unusable: nobody can know what its members agree on.
  EXPECT_THROW(comm->all_reduce(at::zeros({3})).wait(), CommError);
}

}  // namespace strata::comm_test
