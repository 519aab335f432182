// Residual streams (mHC-lite: coefficients, read, mix and write of one sub-layer) against the same
// composed of ATen operators, in the same program, taking turns: forward and backward, ms.
//
//   build/bin/streams [threads]
#include "core/ops/streams.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/randn.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "bench/side_by_side.h"
#include "core/ops/doubly_stochastic.h"
#include "core/prepare_process.h"

namespace strata {
namespace streams_bench {

constexpr int64_t kStreams = 4, kColumns = 4 + 24 + 4;

struct Inputs {
  Tensor x, y, weight;  // [B, T, n C], [B, T, C] (a branch's output), [n C, n + n! + n]
};

struct Way {
  Tensor (*product)(const Tensor&, const Tensor&);
  Tensor (*read)(const Tensor&, const Tensor&);
  Tensor (*write)(const Tensor&, const Tensor&, const Tensor&, const Tensor&);
};

Tensor composed_product(const Tensor& x, const Tensor& weight) {
  const Tensor wide = x.to(weight.scalar_type());
  return at::matmul(wide * (std::sqrt(double(x.size(-1))) / wide.norm(2, -1, true)), weight);
}

void run(const Way& way, const Inputs& in) {
  const Tensor p = way.product(in.x, in.weight);
  const Tensor read = p.narrow(-1, 0, kStreams).sigmoid();
  const Tensor mix = ops::permutation_mixture(p.narrow(-1, kStreams, 24).softmax(-1), kStreams);
  const Tensor write = p.narrow(-1, kColumns - kStreams, kStreams).sigmoid() * 2.0;
  const Tensor u = way.read(in.x, read);
  const Tensor out = way.write(in.x, in.y + u, mix, write);
  out.backward(at::ones_like(out));
  for (const Tensor& leaf : {in.x, in.y, in.weight}) leaf.mutable_grad().reset();
}

void compare(int64_t B, int64_t T, int64_t C, at::ScalarType dtype) {
  const auto options = at::TensorOptions().dtype(dtype);
  const Inputs in{at::randn({B, T, kStreams * C}, options).requires_grad_(),
                  at::randn({B, T, C}, options).requires_grad_(),
                  (at::randn({kStreams * C, kColumns}) * 0.01).requires_grad_()};
  const Way ours{ops::normalised_product, ops::read_streams, ops::write_streams};
  const Way composed{composed_product, ops::read_streams_composite, ops::write_streams_composite};
  const auto ms = bench::side_by_side({[&] { run(ours, in); }, [&] { run(composed, in); }}, 9);
  std::printf("B%lld T%lld C%lld %-9s ours %8.2f  composed %8.2f  ratio %.2f\n",
              static_cast<long long>(B), static_cast<long long>(T), static_cast<long long>(C),
              c10::toString(dtype), ms[0], ms[1], ms[1] / ms[0]);
}

}  // namespace streams_bench
}  // namespace strata

int main(int argc, char** argv) {
  strata::prepare_process();
  at::set_num_threads(argc > 1 ? std::atoi(argv[1]) : 2);
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    strata::streams_bench::compare(2, 2048, 256, dtype);
    strata::streams_bench::compare(1, 8192, 256, dtype);
    strata::streams_bench::compare(2, 2048, 1024, dtype);
  }
}
