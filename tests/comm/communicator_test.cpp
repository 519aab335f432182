// What needs no second process: the group of one, the group without peers, the pool, the order of
// sums.
#include "parallel/comm/communicator.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/tensor.h"
#include "core/text.h"
#include "parallel/comm/pool.h"
#include "parallel/comm/tree_reduce.h"
#include "tests/comm/reference.h"

namespace strata::comm_test {

TEST(SelfCommunicator, CopiesAndCounts) {
  const auto comm = make_self_communicator();
  EXPECT_EQ(comm->backend(), "self");
  EXPECT_EQ(comm->size(), 1);
  const Tensor in = at::arange(6, at::TensorOptions().dtype(at::kFloat)), out = at::zeros({6});
  comm->all_gather(out, in).wait();
  EXPECT_TRUE(out.equal(in));
  comm->all_gather(out, out).wait();
  comm->reduce_scatter(out.zero_(), in).wait();
  EXPECT_TRUE(out.equal(in));
  comm->all_to_all(out.zero_(), in).wait();
  EXPECT_TRUE(out.equal(in));
  comm->all_reduce(out).wait();
  comm->broadcast(out, 0).wait();
  comm->barrier();
  EXPECT_TRUE(out.equal(in));
  EXPECT_EQ(comm->sequence(), 7u);
  EXPECT_EQ(comm->gather_bytes("a", 0), std::vector<std::string>{"a"});
  EXPECT_EQ(comm->all_gather_bytes("a"), std::vector<std::string>{"a"});
  EXPECT_TRUE(Work().poll());
}

TEST(SelfCommunicator, InPlaceCopiesWorkOnLeavesOfAutograd) {
  const auto comm = make_self_communicator();
  const Tensor out = at::zeros({3}).set_requires_grad(true);
  comm->all_gather(out, at::ones({3})).wait();
  EXPECT_EQ(out.sum().item<double>(), 3);
}

TEST(NullCommunicator, ShapesWithoutPeers) {
  const auto comm = make_null_communicator(4, 2);
  EXPECT_EQ(comm->backend(), "null");
  EXPECT_EQ(comm->size(), 4);
  EXPECT_EQ(comm->rank(), 2);
  const Tensor in = at::ones({2, 3}), out = at::full({8, 3}, 7.0);
  comm->all_gather(out, in).wait();
  EXPECT_EQ(out.sum().item<double>(), 6);
  EXPECT_EQ(out.narrow(0, 4, 2).sum().item<double>(), 6);
  const Tensor part = at::zeros({2, 3});
  comm->reduce_scatter(part, at::arange(24, at::TensorOptions().dtype(at::kFloat)).view({8, 3}))
      .wait();
  EXPECT_EQ(part[0][0].item<double>(), 12);
  const Tensor swapped = at::full({8, 3}, 7.0);
  comm->all_to_all(swapped, at::ones({8, 3})).wait();
  EXPECT_EQ(swapped.sum().item<double>(), 6);
  const Tensor received = at::ones({5});
  comm->exchange(
          std::vector<Transfer>{{Transfer::Kind::Recv, received, 0}, {Transfer::Kind::Send, in, 1}})
      .wait();
  EXPECT_EQ(received.sum().item<double>(), 0);
  const Tensor weights = at::ones({5});
  comm->broadcast(weights, 2).wait();
  comm->all_reduce(weights).wait();
  EXPECT_EQ(weights.sum().item<double>(), 5);
  comm->broadcast(weights, 0).wait();
  EXPECT_EQ(weights.sum().item<double>(), 0);
  EXPECT_EQ(comm->all_gather_bytes("x").size(), 4u);
  EXPECT_EQ(comm->allocate(10, at::kBFloat16).numel(), 10);
  const auto pair = comm->subgroup(std::vector<int>{1, 2}, "pair");
  EXPECT_EQ(pair->rank(), 1);
  EXPECT_EQ(pair->ranks(), (std::vector<int>{1, 2}));
}

TEST(NullCommunicator, MetaTensors) {
  const auto comm = make_null_communicator(4);
  const auto meta = at::TensorOptions().device(at::kMeta);
  comm->all_gather(at::empty({8, 3}, meta), at::empty({2, 3}, meta)).wait();
  comm->reduce_scatter(at::empty({2, 3}, meta), at::empty({8, 3}, meta)).wait();
  comm->all_reduce(at::empty({8, 3}, meta)).wait();
  EXPECT_EQ(comm->sequence(), 3u);
}

TEST(SequenceHash, DependsOnEverythingThatMustAgree) {
  const auto hash = [](auto&& run) {
    const auto comm = make_null_communicator(2);
    run(*comm);
    return comm->sequence_hash();
  };
  const Site site{3, SiteOp::Norm};
  const auto base =
      hash([&](Communicator& c) { c.all_reduce(at::zeros({4}), ReduceOp::Sum, site).wait(); });
  EXPECT_EQ(base, hash([&](Communicator& c) {
              c.all_reduce(at::ones({2, 2}), ReduceOp::Sum, site).wait();
            }));
  std::vector<uint64_t> others = {
      hash([&](Communicator& c) { c.all_reduce(at::zeros({5}), ReduceOp::Sum, site).wait(); }),
      hash([&](Communicator& c) { c.all_reduce(at::zeros({4}), ReduceOp::Max, site).wait(); }),
      hash([&](Communicator& c) {
        c.all_reduce(at::zeros({4}).to(at::kDouble), ReduceOp::Sum, site).wait();
      }),
      hash([&](Communicator& c) {
        c.all_reduce(at::zeros({4}), ReduceOp::Sum, {4, SiteOp::Norm}).wait();
      }),
      hash([&](Communicator& c) {
        c.all_reduce(at::zeros({4}), ReduceOp::Sum, {3, SiteOp::Control}).wait();
      }),
      hash([&](Communicator& c) { c.broadcast(at::zeros({4}), 0, site).wait(); }),
      hash([&](Communicator& c) { c.broadcast(at::zeros({4}), 1, site).wait(); }),
      hash([&](Communicator& c) { c.barrier(site); }),
      hash([&](Communicator&) {})};
  for (size_t i = 0; i < others.size(); ++i) {
    EXPECT_NE(others[i], base) << i;
    for (size_t j = 0; j < i; ++j) EXPECT_NE(others[i], others[j]) << i << " " << j;
  }
  // An exchange is not collective: it leaves both alone.
  EXPECT_EQ(hash([&](Communicator&) {}), hash([&](Communicator& c) {
              c.exchange(std::vector<Transfer>{{Transfer::Kind::Send, at::ones({3}), 1}}).wait();
            }));
}

TEST(CommPool, NamesGroupsByTheirRanks) {
  CommPool pool(make_null_communicator(16, 4));
  pool.create({{4, 5}, {0, 4, 8, 12}, {4, 5, 6, 7}, {1, 2}, {4, 7, 9, 15}, {4}});
  EXPECT_EQ(pool.all().size(), 6u);  // the job and five groups with this rank
  EXPECT_EQ(pool.group(std::vector<int>{4, 5}).name(), "group[4,5]");
  EXPECT_EQ(pool.group(std::vector<int>{0, 4, 8, 12}).name(), "group[0..12 by 4]");
  EXPECT_EQ(pool.group(std::vector<int>{4, 5, 6, 7}).name(), "group[4..7]");
  EXPECT_EQ(pool.group(std::vector<int>{4, 7, 9, 15}).name(), "group[4,7,9,15]");
  EXPECT_EQ(pool.group(std::vector<int>{4}).size(), 1);
  const std::vector<int> foreign = {1, 2};
  EXPECT_THROW(pool.group(foreign), InternalError);
}

TEST(TreeReduce, FollowsTheTreeForEveryCountOfRanks) {
  for (const auto dtype :
       {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf, at::kInt, at::kByte, at::kBool}) {
    for (int n = 1; n <= 17; ++n) {
      for (const int64_t count : {1, 127, 128, 1000}) {
        const auto inputs = make_inputs(dtype, count, n);
        const Tensor a = at::zeros({count}, inputs[0].options()), b = at::zeros_like(a);
        std::vector<const void*> from;
        for (const Tensor& t : inputs) from.push_back(t.data_ptr());
        void* to[2] = {a.data_ptr(), b.data_ptr()};
        tree_reduce(dtype, ReduceOp::Sum, from.data(), n, to, 2, count);
        EXPECT_TRUE(same_bits(a, tree_reference(inputs)))
            << dtype_name(dtype) << ", " << n << " ranks x " << count;
        EXPECT_TRUE(same_bits(a, b));
      }
    }
  }
}

TEST(TreeReduce, RoundsAndKeepsSpecialValues) {
  const double infinity = std::numeric_limits<double>::infinity(),
               nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> values = {
      0.0, -0.0,      1.0,   1.00390625, 1.01171875, 3.3895e38, -3.3895e38, infinity,
      nan, -infinity, 1e-40, 6e-8,       65504.0,    65520.0,   2.0 / 3.0,  -1e-3};
  for (const auto dtype : {at::kBFloat16, at::kHalf, at::kFloat}) {
    // 16 x 16 pairs, once in a whole block and once in the remainder.
    Tensor a = at::empty({256}, at::TensorOptions().dtype(at::kDouble)), b = at::empty_like(a);
    for (int i = 0; i < 256; ++i) {
      a[i] = values[static_cast<size_t>(i / 16)];
      b[i] = values[static_cast<size_t>(i % 16)];
    }
    a = a.to(dtype);
    b = b.to(dtype);
    const Tensor expected = tree_reference({a, b});
    for (const int64_t length : {256, 37}) {
      for (int64_t begin = 0; begin + length <= 256; begin += length) {
        const Tensor out = at::zeros({length}, a.options());
        const Tensor x = a.narrow(0, begin, length), y = b.narrow(0, begin, length);
        const void* from[2] = {x.data_ptr(), y.data_ptr()};
        void* to[1] = {out.data_ptr()};
        tree_reduce(dtype, ReduceOp::Sum, from, 2, to, 1, length);
        const Tensor want = expected.narrow(0, begin, length);
        EXPECT_TRUE(out.isnan().equal(want.isnan())) << dtype_name(dtype);
        EXPECT_TRUE(same_bits(out.nan_to_num(5), want.nan_to_num(5))) << dtype_name(dtype);
      }
    }
  }
}

}  // namespace strata::comm_test
