// What must not change a single bit: recomputation, the schedule, where ZeRO keeps things. And in
// canonical order (runtime.deterministic = invariant) the number of ranks as well.
#include <gtest/gtest.h>

#include <algorithm>

#include "core/text.h"
#include "tests/layouts/compare.h"
#include "tests/support/mpi_main.h"

namespace strata::testing {
namespace exact_detail {

Bits bits(const TinyModel& model, const RunSetup& setup) {
  return bits_of(model, setup, make_mpi_communicator());
}

RunSetup base(at::ScalarType dtype = at::kFloat) {
  RunSetup s;
  s.dtype = dtype;
  s.microbatches = 4;
  s.global_batch = std::max(16, 4 * test::world_size());
  s.max_grad_norm = 0.5;
  return s;
}

}  // namespace exact_detail

using namespace exact_detail;

TEST(Exact, RecomputationChangesNothing) {
  for (const TinyModel& model : tiny_models()) {
    RunSetup plain = base();
    plain.strategy.tp = test::world_size() >= 4 ? 2 : 1;
    const Bits a = bits(model, plain);
    for (const Recompute recompute : {Recompute::Selective, Recompute::Full}) {
      RunSetup again = plain;
      again.strategy.recompute = recompute;
      expect_same_bits(a, bits(model, again), cat(model.name, " ", recompute_name(recompute)));
    }
  }
}

TEST(Exact, ScheduleChangesNothing) {
  const TinyModel& model = tiny_models()[4];
  RunSetup s = base();
  s.canonical =
      true;  // interleaving moves layers between ranks, and so the parts of the norm's sum
  s.pp = std::min(4, test::world_size());
  const Bits a = bits(model, s);
  if (s.pp == 1) return;
  s.schedule = "gpipe";
  expect_same_bits(a, bits(model, s), "gpipe");
  s.schedule = "zb-h1";
  expect_same_bits(a, bits(model, s), "zb-h1");
  s.schedule = "interleaved";
  s.chunks = 2;
  expect_same_bits(a, bits(model, s), "interleaved");
}

// The sums of ZeRO 0 and 1 are the same, and so are those of 2 and 3.
TEST(Exact, ZeroKeepsTheSums) {
  if (test::world_size() == 1) return;
  for (const TinyModel& model : {tiny_models()[0], tiny_models()[2]}) {
    RunSetup s = base();
    const auto at = [&](int zero, int shards = 0) {
      s.strategy.zero = zero;
      s.strategy.shards = shards;
      return bits(model, s);
    };
    const Bits plain = at(0), gathered = at(2);
    expect_same_bits(plain, at(1), cat(model.name, " ZeRO 1"));
    expect_same_bits(gathered, at(3), cat(model.name, " ZeRO 3"));
    if (test::world_size() < 4) continue;
    expect_same_bits(plain, at(1, 2), cat(model.name, " ZeRO 1 in halves"));
  }
}

TEST(Exact, CanonicalSumsAreThoseOfOneProcess) {
  const int world = test::world_size();
  for (const TinyModel& model :
       {tiny_models()[0], tiny_models()[2], tiny_models()[4], tiny_models()[5]}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      RunSetup one = base(dtype);
      one.canonical = true;
      one.microbatches = 8;
      Bits expected;
      if (test::world_rank() == 0)
        expected = bits_of(model, one.serial(), make_self_communicator());
      for (int pp = 1; pp <= std::min(world, 4); pp *= 2) {
        for (const int zero : {0, 1}) {
          RunSetup s = one;
          s.pp = pp;
          s.microbatches = 8 / (world / pp);  // rows of a micro-batch on one rank stay the same
          s.strategy.zero = zero;
          s.strategy.recompute = zero ? Recompute::Full : Recompute::None;
          const Bits here = bits(model, s);
          if (test::world_rank() == 0)
            expect_same_bits(expected, here,
                             cat(model.name, " ", dtype_name(dtype), " pp", pp, " dp", world / pp,
                                 " zero", zero));
        }
      }
    }
  }
}

}  // namespace strata::testing
