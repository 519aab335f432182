// Every backend gives what communicator.h promises, to the last bit, at every group size.
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "core/error.h"
#include "core/tensor.h"
#include "tests/comm/reference.h"
#include "tests/comm/subjects.h"

namespace strata::comm_test {

const std::vector<at::ScalarType> kReducible = {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf,
                                                at::kLong,   at::kInt,   at::kByte,     at::kBool};
// From nothing over less than a cache line to many arena chunks; several MiB for the types that
// training sends most.
std::vector<int64_t> counts_for(at::ScalarType dtype) {
  std::vector<int64_t> counts = {0, 1, 5, 127, 1000, 4097, 50001};
  if (dtype == at::kFloat || dtype == at::kBFloat16) counts.push_back(1000003);
  return counts;
}

class BackendConformance : public testing::TestWithParam<Subject> {
 protected:
  void SetUp() override { comm_ = GetParam().make(); }

  int n() const { return comm_->size(); }
  int me() const { return comm_->rank(); }

  // The same values in ordinary memory, in memory of the backend, and at an odd place in it.
  enum class Place { Ordinary, Allocated, Offset };
  static constexpr Place kPlaces[] = {Place::Ordinary, Place::Allocated, Place::Offset};
  Tensor put(Place place, const Tensor& values) {
    if (place == Place::Ordinary) return values.clone();
    const int64_t skip = place == Place::Offset ? 3 : 0;
    Tensor memory = comm_->allocate(values.numel() + skip, values.scalar_type());
    Tensor view = memory.narrow(0, skip, values.numel());
    view.copy_(values.reshape({-1}));
    return view.view(values.sizes());
  }
  Tensor blank(Place place, int64_t count, at::ScalarType dtype) {
    return put(place, at::full({count}, 77, at::TensorOptions().dtype(dtype)));
  }

  std::unique_ptr<Communicator> comm_;
};

TEST_P(BackendConformance, ReportsItsMembers) {
  ASSERT_EQ(static_cast<int>(comm_->ranks().size()), n());
  for (int r = 0; r < n(); ++r) EXPECT_EQ(comm_->ranks()[r], r);
  EXPECT_EQ(comm_->name(), "job");
  EXPECT_EQ(comm_->backend(), GetParam().name == "self" ? "self" : "mpi");
}

TEST_P(BackendConformance, AllReduceSumsInTreeOrder) {
  for (const auto dtype : kReducible) {
    for (const int64_t count : counts_for(dtype)) {
      const auto inputs = make_inputs(dtype, count, n());
      const Tensor expected = tree_reference(inputs);
      for (const Place place : kPlaces) {
        const Tensor mine = put(place, inputs[me()]);
        comm_->all_reduce(mine).wait();
        EXPECT_TRUE(same_bits(mine, expected))
            << dtype_name(dtype) << " x " << count << ", place " << static_cast<int>(place);
      }
    }
  }
}

TEST_P(BackendConformance, AllReduceMinMax) {
  for (const auto dtype : kReducible) {
    for (const int64_t count : {1, 1000, 70001}) {
      const auto inputs = make_inputs(dtype, count, n(), 3);
      for (const ReduceOp op : {ReduceOp::Min, ReduceOp::Max}) {
        for (const Place place : {Place::Ordinary, Place::Allocated}) {
          const Tensor mine = put(place, inputs[me()]);
          comm_->all_reduce(mine, op).wait();
          EXPECT_TRUE(same_bits(mine, tree_reference(inputs, op)))
              << dtype_name(dtype) << " x " << count;
        }
      }
    }
  }
}

TEST_P(BackendConformance, MinAndMaxHandOnNaN) {
  for (int from = 0; from < n(); ++from) {
    for (const ReduceOp op : {ReduceOp::Min, ReduceOp::Max}) {
      const Tensor x =
          at::full({300}, me() == from ? std::numeric_limits<double>::quiet_NaN() : 1.0,
                   at::TensorOptions().dtype(at::kFloat));
      comm_->all_reduce(x, op).wait();
      EXPECT_TRUE(x.isnan().all().item<bool>());
    }
  }
}

TEST_P(BackendConformance, ReduceScatterSumsInTreeOrder) {
  for (const auto dtype : kReducible) {
    for (const int64_t total : counts_for(dtype)) {
      const int64_t count = total / n();
      const auto inputs = make_inputs(dtype, count * n(), n(), 1);
      const Tensor expected = tree_reference(inputs).narrow(0, me() * count, count);
      for (const Place place : kPlaces) {
        const Tensor in = put(place, inputs[me()]);
        const Tensor out = blank(place, count, dtype);
        comm_->reduce_scatter(out, in).wait();
        EXPECT_TRUE(same_bits(out, expected)) << dtype_name(dtype) << " x " << count;
        // In place: the result replaces this rank's block of the input.
        const Tensor block = in.narrow(0, me() * count, count);
        comm_->reduce_scatter(block, in).wait();
        EXPECT_TRUE(same_bits(block, expected))
            << dtype_name(dtype) << " x " << count << " in place";
      }
    }
  }
}

// Rank 0 owns nothing, the others more and more.
TEST_P(BackendConformance, PartsOfAnyLength) {
  for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    for (const int64_t total : counts_for(dtype)) {
      std::vector<int64_t> borders(static_cast<size_t>(n()) + 1, 0);
      for (int r = 1; r <= n(); ++r)
        borders[static_cast<size_t>(r)] = r == n() ? total : total * r * (r - 1) / (n() * n());
      const int64_t begin = borders[static_cast<size_t>(me())],
                    mine = borders[static_cast<size_t>(me()) + 1] - begin;
      const auto inputs = make_inputs(dtype, total, n(), 7);
      const Tensor sum = tree_reference(inputs);
      for (const Place place : kPlaces) {
        const Tensor whole = put(place, inputs[me()]);
        const Tensor out = at::empty({mine}, whole.options());
        comm_->reduce_scatter_parts(out, whole, borders).wait();
        EXPECT_TRUE(same_bits(out, sum.narrow(0, begin, mine)))
            << dtype_name(dtype) << " x " << total;
        const Tensor part = whole.narrow(0, begin, mine);
        comm_->reduce_scatter_parts(part, whole, borders).wait();
        EXPECT_TRUE(same_bits(part, sum.narrow(0, begin, mine)))
            << dtype_name(dtype) << " x " << total << " in place";
        comm_->all_gather_parts(whole, borders).wait();
        EXPECT_TRUE(same_bits(whole, sum)) << dtype_name(dtype) << " x " << total << " gathered";
      }
    }
  }
  const Tensor whole = at::zeros({4});
  EXPECT_THROW((void)comm_->all_gather_parts(whole, std::vector<int64_t>(n() + 1, 0)),
               InternalError);
}

TEST_P(BackendConformance, AllGather) {
  for (const auto dtype :
       {at::kDouble, at::kFloat, at::kBFloat16, at::kLong, at::kByte, at::kBool}) {
    for (const int64_t total : counts_for(dtype)) {
      const int64_t count = total / n();
      const auto inputs = make_inputs(dtype, count, n(), 2);
      const Tensor expected = at::cat(inputs);
      for (const Place place : kPlaces) {
        const Tensor in = put(place, inputs[me()]);
        const Tensor out = blank(place, count * n(), dtype);
        comm_->all_gather(out, in).wait();
        EXPECT_TRUE(same_bits(out, expected)) << dtype_name(dtype) << " x " << count;
        const Tensor whole = blank(place, count * n(), dtype);
        whole.narrow(0, me() * count, count).copy_(inputs[me()]);
        comm_->all_gather(whole, whole.narrow(0, me() * count, count)).wait();
        EXPECT_TRUE(same_bits(whole, expected))
            << dtype_name(dtype) << " x " << count << " in place";
      }
    }
  }
}

TEST_P(BackendConformance, AllToAll) {
  for (const auto dtype : {at::kDouble, at::kBFloat16, at::kInt, at::kByte}) {
    for (const int64_t total : counts_for(dtype)) {
      const int64_t count = total / n();
      const auto inputs = make_inputs(dtype, count * n(), n(), 4);
      std::vector<Tensor> parts;
      for (int r = 0; r < n(); ++r) parts.push_back(inputs[r].narrow(0, me() * count, count));
      const Tensor expected = at::cat(parts);
      for (const Place place : kPlaces) {
        const Tensor in = put(place, inputs[me()]);
        const Tensor out = blank(place, count * n(), dtype);
        comm_->all_to_all(out, in).wait();
        EXPECT_TRUE(same_bits(out, expected)) << dtype_name(dtype) << " x " << count;
        EXPECT_TRUE(same_bits(in, inputs[me()])) << "input changed";
      }
    }
  }
}

TEST_P(BackendConformance, Broadcast) {
  for (const auto dtype : {at::kDouble, at::kBFloat16, at::kLong, at::kByte}) {
    for (const int64_t count : counts_for(dtype)) {
      for (int root = 0; root < n(); ++root) {
        const auto inputs = make_inputs(dtype, count, n(), 5);
        for (const Place place : kPlaces) {
          const Tensor mine = put(place, inputs[me()]);
          comm_->broadcast(mine, root).wait();
          EXPECT_TRUE(same_bits(mine, inputs[root]))
              << dtype_name(dtype) << " x " << count << " from " << root;
        }
      }
    }
  }
}

TEST_P(BackendConformance, TensorsOfSeveralDimensions) {
  const Tensor in = make_input(at::kFloat, 2 * 3 * 5, me()).view({2, 3, 5});
  const Tensor out = at::empty({2 * n(), 3, 5}, in.options());
  comm_->all_gather(out, in).wait();
  for (int r = 0; r < n(); ++r) {
    EXPECT_TRUE(same_bits(out.narrow(0, 2 * r, 2), make_input(at::kFloat, 30, r).view({2, 3, 5})));
  }
  const Tensor back = at::empty_like(in);
  comm_->reduce_scatter(back, out).wait();
  EXPECT_TRUE(same_bits(back, tree_reference(std::vector<Tensor>(static_cast<size_t>(n()), in))));
}

// Some ranks pass memory of the backend, others ordinary tensors.
TEST_P(BackendConformance, MixedPlaces) {
  for (const int64_t count : {500, 40000, 300001}) {
    const auto inputs = make_inputs(at::kFloat, count * n(), n(), 6);
    const Tensor memory = comm_->allocate(count * n(), at::kFloat);
    const Tensor other = comm_->allocate(count * n(), at::kFloat);
    for (int kind = 0; kind < 2; ++kind) {
      const Tensor mine = me() == 0 ? memory : kind == 0 ? inputs[me()].clone() : other;
      const auto refill = [&] { mine.copy_(inputs[me()]); };
      refill();
      comm_->all_reduce(mine).wait();
      EXPECT_TRUE(same_bits(mine, tree_reference(inputs)));
      refill();
      const Tensor part = at::empty({count}, mine.options());
      comm_->reduce_scatter(part, mine).wait();
      EXPECT_TRUE(same_bits(part, tree_reference(inputs).narrow(0, me() * count, count)));
      const Tensor whole = at::empty({count * n() * n()}, mine.options());
      comm_->all_gather(whole, mine).wait();
      EXPECT_TRUE(same_bits(whole, at::cat(inputs)));
      comm_->broadcast(mine, n() - 1).wait();
      EXPECT_TRUE(same_bits(mine, inputs[n() - 1]));
    }
  }
}

TEST_P(BackendConformance, AllocatedMemoryIsZeroAndOutlivesItsHandle) {
  const Tensor memory = comm_->allocate(100003, at::kFloat);
  EXPECT_EQ(memory.numel(), 100003);
  EXPECT_EQ(memory.scalar_type(), at::kFloat);
  EXPECT_TRUE(memory.eq(0).all().item<bool>());
  EXPECT_EQ(comm_->allocate(0, at::kLong).numel(), 0);
  memory.fill_(1);
  comm_->all_reduce(memory).wait();
  comm_.reset();
  EXPECT_EQ(memory.sum().item<double>(),
            100003.0 * (GetParam().name == "self" ? 1 : memory[0].item<double>()));
}

TEST_P(BackendConformance, RepetitionGivesTheSameBits) {
  const auto inputs = make_inputs(at::kBFloat16, 300007, n(), 7);
  Tensor first;
  for (int repeat = 0; repeat < 5; ++repeat) {
    const Tensor mine = put(repeat % 2 == 0 ? Place::Ordinary : Place::Allocated, inputs[me()]);
    comm_->all_reduce(mine).wait();
    if (repeat == 0) first = mine.clone();
    EXPECT_TRUE(same_bits(mine, first));
  }
  const Tensor root = first.clone();
  comm_->broadcast(root, 0).wait();
  EXPECT_TRUE(same_bits(root, first)) << "ranks hold different sums";
}

TEST_P(BackendConformance, ExchangeInBothDirectionsAndWithItself) {
  const int right = (me() + 1) % n(), left = (me() + n() - 1) % n();
  for (const int64_t count : {1, 70001, 1500000}) {
    const Tensor a = make_input(at::kFloat, count, me()),
                 b = make_input(at::kBFloat16, count + 1, me(), 8);
    const Tensor from_left = at::empty_like(a), second = at::empty_like(b),
                 from_right = at::empty_like(a);
    const std::vector<Transfer> transfers = {{Transfer::Kind::Send, a, right},
                                             {Transfer::Kind::Send, b, right},
                                             {Transfer::Kind::Send, a, left},
                                             {Transfer::Kind::Recv, from_left, left},
                                             {Transfer::Kind::Recv, second, left},
                                             {Transfer::Kind::Recv, from_right, right},
                                             {Transfer::Kind::Send, at::empty({0}), right},
                                             {Transfer::Kind::Recv, at::empty({0}), left}};
    if (n() == 2) {
      // left and right are one rank: its three sends arrive in the order given.
      comm_
          ->exchange(std::vector<Transfer>{transfers[0], transfers[1], transfers[2], transfers[3],
                                           transfers[4], transfers[5]})
          .wait();
    } else {
      comm_->exchange(transfers).wait();
    }
    EXPECT_TRUE(same_bits(from_left, make_input(at::kFloat, count, left)));
    EXPECT_TRUE(same_bits(second, make_input(at::kBFloat16, count + 1, left, 8)));
    EXPECT_TRUE(same_bits(from_right, make_input(at::kFloat, count, right)));
  }
}

// Only the ranks involved call it, and one call may do what the other side does in several.
TEST_P(BackendConformance, ExchangeOfSomeRanksOnly) {
  if (n() == 1) {
    const Tensor from = make_input(at::kFloat, 10, 0), to = at::zeros({10});
    comm_
        ->exchange(
            std::vector<Transfer>{{Transfer::Kind::Send, from, 0}, {Transfer::Kind::Recv, to, 0}})
        .wait();
    EXPECT_TRUE(same_bits(from, to));
    return;
  }
  const Tensor a = make_input(at::kFloat, 4096, 0), b = make_input(at::kFloat, 9, 0, 1);
  if (me() == 0) {
    comm_->exchange(std::vector<Transfer>{{Transfer::Kind::Send, a, n() - 1}}).wait();
    comm_->exchange(std::vector<Transfer>{{Transfer::Kind::Send, b, n() - 1}}).wait();
  } else if (me() == n() - 1) {
    const Tensor x = at::zeros({4096}), y = at::zeros({9});
    comm_
        ->exchange(
            std::vector<Transfer>{{Transfer::Kind::Recv, x, 0}, {Transfer::Kind::Recv, y, 0}})
        .wait();
    EXPECT_TRUE(same_bits(x, a));
    EXPECT_TRUE(same_bits(y, b));
  }
  comm_->barrier();
}

TEST_P(BackendConformance, HostBytes) {
  for (int root = 0; root < n(); ++root) {
    std::string bytes = me() == root ? std::string("plan\0of", 7) + std::to_string(root) : "other";
    comm_->broadcast_bytes(bytes, root);
    EXPECT_EQ(bytes, std::string("plan\0of", 7) + std::to_string(root));
    const std::string mine(static_cast<size_t>(me()) * 3, static_cast<char>('a' + me()));
    const auto gathered = comm_->gather_bytes(mine, root);
    ASSERT_EQ(static_cast<int>(gathered.size()), me() == root ? n() : 0);
    for (size_t r = 0; r < gathered.size(); ++r) {
      EXPECT_EQ(gathered[r], std::string(r * 3, static_cast<char>('a' + r)));
    }
  }
  const auto all = comm_->all_gather_bytes(std::to_string(me()));
  ASSERT_EQ(static_cast<int>(all.size()), n());
  for (int r = 0; r < n(); ++r) EXPECT_EQ(all[r], std::to_string(r));
  std::string large(3 << 20, static_cast<char>('x' + me()));
  comm_->broadcast_bytes(large, 0);
  EXPECT_EQ(large, std::string(3 << 20, 'x'));
  std::string empty;
  comm_->broadcast_bytes(empty, 0);
  EXPECT_TRUE(empty.empty());
}

TEST_P(BackendConformance, SubgroupsOfSomeMembers) {
  // Every non-empty set of ranks, in increasing order, each made by its members only.
  for (int set = 1; set < 1 << n(); ++set) {
    std::vector<int> members;
    int index = -1;
    for (int r = 0; r < n(); ++r) {
      if ((set >> r & 1) == 0) continue;
      if (r == me()) index = static_cast<int>(members.size());
      members.push_back(r);
    }
    if (index < 0) continue;
    const auto group = comm_->subgroup(members, "some");
    EXPECT_EQ(group->rank(), index);
    EXPECT_EQ(group->ranks(), members);
    EXPECT_EQ(group->name(), "some");
    EXPECT_EQ(group->backend(), comm_->backend());
    for (const int64_t count : {3, 50001}) {
      const auto inputs = make_inputs(at::kFloat, count, group->size(), set);
      const Tensor mine = group->allocate(count, at::kFloat);
      mine.copy_(inputs[index]);
      group->all_reduce(mine).wait();
      EXPECT_TRUE(same_bits(mine, tree_reference(inputs))) << "set " << set << " x " << count;
    }
    // Groups of groups.
    if (group->size() > 1 && index > 0) {
      std::vector<int> rest;
      for (int r = 1; r < group->size(); ++r) rest.push_back(r);
      const auto inner = group->subgroup(rest, "inner");
      EXPECT_EQ(inner->ranks(), std::vector<int>(members.begin() + 1, members.end()));
      const Tensor one = at::full({1}, 1.0);
      inner->all_reduce(one).wait();
      EXPECT_EQ(one.item<double>(), inner->size());
    }
  }
}

// Memory allocated on the whole job may be used on a part of it.
TEST_P(BackendConformance, SubgroupReducesMemoryOfTheJob) {
  const int64_t count = 60001;
  const Tensor memory = comm_->allocate(count, at::kFloat);
  const int half = (n() + 1) / 2;
  std::vector<int> members;
  for (int r = me() < half ? 0 : half; r < (me() < half ? half : n()); ++r) members.push_back(r);
  const auto group = comm_->subgroup(members, "half");
  const auto inputs = make_inputs(at::kFloat, count, group->size(), me() < half ? 0 : 1);
  memory.copy_(inputs[group->rank()]);
  group->all_reduce(memory).wait();
  EXPECT_TRUE(same_bits(memory, tree_reference(inputs)));
  comm_->barrier();
}

TEST_P(BackendConformance, CountsAndHashesWhatIsIssued) {
  const auto sequence = comm_->sequence();
  const auto hash = comm_->sequence_hash();
  const Tensor x = at::zeros({4});
  comm_->all_reduce(x).wait();
  EXPECT_EQ(comm_->sequence(), sequence + 1);
  const auto after = comm_->sequence_hash();
  EXPECT_NE(after, hash);
  const auto all = comm_->all_gather_bytes(std::to_string(after));
  for (const auto& other : all) EXPECT_EQ(other, all[0]);
  comm_->all_reduce(at::empty({0})).wait();  // nothing to move still counts
  EXPECT_EQ(comm_->sequence(), sequence + 3);
}

TEST_P(BackendConformance, RefusesWrongArguments) {
  const Tensor matrix = at::zeros({4, 6});
  EXPECT_THROW((void)comm_->all_reduce(matrix.t()), InternalError);
  EXPECT_THROW((void)comm_->all_reduce(matrix.narrow(1, 0, 3)), InternalError);
  EXPECT_THROW((void)comm_->all_reduce(Tensor()), InternalError);
  EXPECT_THROW(
      (void)comm_->all_reduce(at::zeros({2}, at::TensorOptions().dtype(at::kComplexFloat))),
      InternalError);
  EXPECT_THROW((void)comm_->all_gather(at::zeros({4 * n() + 1}), at::zeros({4})), InternalError);
  EXPECT_THROW((void)comm_->all_gather(at::zeros({4 * n()}), at::zeros({4}).to(at::kDouble)),
               InternalError);
  EXPECT_THROW((void)comm_->all_gather(at::zeros({4 * n(), 2}), at::zeros({4, 3})), InternalError);
  EXPECT_THROW((void)comm_->reduce_scatter(at::zeros({4}), at::zeros({4 * n() + 1})),
               InternalError);
  EXPECT_THROW((void)comm_->all_to_all(at::zeros({4 * n()}), at::zeros({4 * n() + 4})),
               InternalError);
  EXPECT_THROW((void)comm_->broadcast(at::zeros({4}), n()), InternalError);
  EXPECT_THROW((void)comm_->broadcast(at::zeros({4}), -1), InternalError);
  EXPECT_THROW(
      (void)comm_->exchange(std::vector<Transfer>{{Transfer::Kind::Send, at::zeros({4}), n()}}),
      InternalError);
  EXPECT_THROW(
      (void)comm_->exchange(std::vector<Transfer>{{Transfer::Kind::Send, at::zeros({4}), me()}}),
      InternalError);
  if (n() > 1) {
    EXPECT_THROW((void)comm_->all_to_all(at::zeros({4 * n() + 1}), at::zeros({4 * n() + 1})),
                 InternalError);
    const Tensor whole = at::zeros({4 * n() + 1});
    EXPECT_THROW((void)comm_->all_gather(whole.narrow(0, 0, 4 * n()), whole.narrow(0, 1, 4)),
                 InternalError);
  }
  EXPECT_THROW(comm_->subgroup(std::vector<int>{}, "none"), InternalError);
  EXPECT_THROW(comm_->subgroup(std::vector<int>{n()}, "beyond"), InternalError);
  if (n() > 1) {
    EXPECT_THROW(comm_->subgroup(std::vector<int>{1, 0}, "order"), InternalError);
    EXPECT_THROW(comm_->subgroup(std::vector<int>{(me() + 1) % n()}, "not me"), InternalError);
  }
  comm_->barrier();  // and goes on working
}

TEST_P(BackendConformance, BarrierHoldsBackUntilAllAreHere) {
  // The monotonic clock is the same for all processes of the machine.
  using Clock = std::chrono::steady_clock;
  for (int late = 0; late < n(); ++late) {
    comm_->barrier();
    if (me() == late) std::this_thread::sleep_for(std::chrono::milliseconds(50));
    const int64_t before = Clock::now().time_since_epoch().count();
    comm_->barrier();
    const int64_t after = Clock::now().time_since_epoch().count();
    EXPECT_GE(after, std::stoll(comm_->all_gather_bytes(std::to_string(before))[late]))
        << "rank " << me() << " passed before rank " << late << " came";
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, BackendConformance, testing::ValuesIn(subjects()),
                         [](const auto& info) { return info.param.name; });

}  // namespace strata::comm_test
