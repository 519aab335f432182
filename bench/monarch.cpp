// Monarch matrices against the same computation composed of ATen operators (batched products with
// explicit transposes) and against dense linears, in the same program, taking turns.
//
//   build/bin/monarch [threads]
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/randn.h>

#include <cstdio>
#include <cstdlib>

#include "bench/side_by_side.h"
#include "core/ops/linear.h"
#include "core/ops/monarch.h"
#include "core/prepare_process.h"

namespace strata {
namespace monarch_bench {

bench::Way both(const std::function<Tensor()>& op, const std::vector<Tensor>& leaves) {
  return [=] {
    const Tensor y = op();
    y.backward(at::ones_like(y));
    for (const Tensor& leaf : leaves) leaf.mutable_grad().reset();
  };
}

void layers(at::ScalarType dtype, int64_t tokens) {
  std::printf("\nlinear of 4 blocks, %s, %lld tokens: forward and backward, ms\n",
              c10::toString(dtype), static_cast<long long>(tokens));
  std::printf("%6s %6s %9s %9s %9s %12s %10s %8s\n", "in", "out", "Monarch", "composed", "dense",
              "to composed", "to dense", "flops");
  for (const int64_t D : {256, 512, 1024}) {
    for (const auto& [in, out] : {std::pair<int64_t, int64_t>{D, D}, {D, 4 * D}, {4 * D, D}}) {
      if (in * out > int64_t{1} << 23) continue;
      const auto options = at::TensorOptions().dtype(dtype);
      const auto s = ops::monarch_shape(in, out, 4);
      const Tensor x = at::randn({tokens, in}, options).requires_grad_();
      const Tensor w1 =
          (at::randn({4, s.middle_block, s.in_block}, options) * 0.05).requires_grad_();
      const Tensor w2 =
          (at::randn({4, s.out_block, s.middle_block}, options) * 0.05).requires_grad_();
      const Tensor w = (at::randn({out, in}, options) * 0.02).requires_grad_();
      const int64_t features = out;
      const auto ms = bench::side_by_side(
          {both([&] { return ops::monarch(x, w1, w2, features); }, {x, w1, w2}),
           both([&] { return ops::monarch_composite(x, w1, w2, features); }, {x, w1, w2}),
           both([&] { return ops::linear(x, w, {}); }, {x, w})},
          9);
      const double flops =
          static_cast<double>(w1.numel() + w2.numel()) / static_cast<double>(w.numel());
      std::printf("%6lld %6lld %9.2f %9.2f %9.2f %11.2fx %9.2fx %8.3f\n",
                  static_cast<long long>(in), static_cast<long long>(out), ms[0], ms[1], ms[2],
                  ms[1] / ms[0], ms[2] / ms[0], flops);
    }
  }
}

}  // namespace monarch_bench
}  // namespace strata

int main(int argc, char** argv) {
  strata::prepare_process();
  using namespace strata::monarch_bench;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  at::set_num_threads(argc > 1 ? std::atoi(argv[1]) : 1);
  layers(at::kFloat, 1024);
  layers(at::kBFloat16, 1024);
  return 0;
}
