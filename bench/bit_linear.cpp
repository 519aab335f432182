// The ternary linear and the gated scan against the same computations composed of ATen operators,
// in the same program, taking turns. Forward and backward.
//
//   build/bin/bit_linear [threads]
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/randn.h>

#include <cstdio>
#include <cstdlib>

#include "bench/side_by_side.h"
#include "core/memory_meter.h"
#include "core/ops/bit_linear.h"
#include "core/ops/gated_scan.h"
#include "core/ops/linear.h"
#include "core/ops/norm.h"
#include "core/prepare_process.h"

namespace strata {
namespace bit_linear_bench {

// Forward and backward with fresh gradients.
bench::Way both(const std::function<Tensor()>& op, const std::vector<Tensor>& leaves) {
  return [=] {
    const Tensor y = op();
    y.backward(at::ones_like(y));
    for (const Tensor& leaf : leaves) leaf.mutable_grad().reset();
  };
}

void linears(at::ScalarType dtype, int64_t tokens) {
  std::printf("\nlinear, %s, %lld tokens: forward and backward, ms\n", c10::toString(dtype),
              static_cast<long long>(tokens));
  std::printf("%6s %6s %10s %10s %10s %9s %9s\n", "in", "out", "ternary", "composed", "dense+norm",
              "speed-up", "to dense");
  for (const auto& [in, out] :
       {std::pair<int64_t, int64_t>{256, 256}, {512, 1536}, {1024, 1024}, {1024, 2816}}) {
    const auto options = at::TensorOptions().dtype(dtype);
    const Tensor x = at::randn({tokens, in}, options).requires_grad_();
    const Tensor gain = at::randn({in}, at::TensorOptions()).requires_grad_();
    const Tensor w = (at::randn({out, in}, options) * 0.02).requires_grad_();
    const std::vector<Tensor> leaves = {x, gain, w};
    const auto codes = ops::ternary_codes(w, ops::absolute_sum(w) / static_cast<double>(w.numel()));
    const auto ms = bench::side_by_side(
        {both([&] { return ops::bit_linear(x, gain, w, codes); }, leaves),
         both([&] { return ops::bit_linear_composite(x, gain, w, codes); }, leaves),
         both([&] { return ops::linear(ops::rms_norm(x, gain, 1e-6), w, {}); }, leaves)});
    std::printf("%6lld %6lld %10.2f %10.2f %10.2f %8.2fx %8.2fx\n", static_cast<long long>(in),
                static_cast<long long>(out), ms[0], ms[1], ms[2], ms[1] / ms[0], ms[2] / ms[0]);
  }
}

// Time and memory per token have to be the same for any length. The lengths take turns: a busy
// machine slows all of them alike.
void scan() {
  constexpr int64_t kTokens = 32768, D = 512;
  std::printf(
      "\ngated scan, fp32, %lld x %lld elements in rows of T tokens: forward and backward\n",
      static_cast<long long>(kTokens), static_cast<long long>(D));
  memory_meter::install();
  const std::vector<int64_t> lengths{512, 2048, 8192, kTokens};
  std::vector<bench::Way> ways;
  std::vector<double> bytes;
  for (const int64_t T : lengths) {
    const Tensor u = at::randn({kTokens / T, T, D}).requires_grad_();
    const Tensor v = at::randn(u.sizes()).requires_grad_();
    ways.push_back(both([u, v] { return ops::gated_scan(u, v, {}, {}, {}).h_BTD; }, {u, v}));
    const int64_t before = memory_meter::live_bytes();
    memory_meter::reset_peak();
    ways.back()();
    bytes.push_back(static_cast<double>(memory_meter::peak_bytes() - before));
  }
  const std::vector<double> ms = bench::side_by_side(ways, 7);
  std::printf("%7s %12s %14s %12s\n", "T", "ns/token", "bytes/token", "to T 512");
  for (size_t i = 0; i < lengths.size(); ++i) {
    std::printf("%7lld %12.1f %14.0f %11.2fx\n", static_cast<long long>(lengths[i]),
                ms[i] * 1e6 / kTokens, bytes[i] / kTokens, ms[i] / ms[0]);
  }
  const Tensor u = at::randn({8, 512, D}).requires_grad_();
  const Tensor v = at::randn(u.sizes()).requires_grad_();
  const auto pair = bench::side_by_side(
      {both([&] { return ops::gated_scan(u, v, {}, {}, {}).h_BTD; }, {u, v}),
       both([&] { return ops::gated_scan_composite(u, v, {}, {}, {}).h_BTD; }, {u, v})},
      3);
  std::printf("8 rows of 512 tokens: composed of operators token by token, %.0f times as long\n",
              pair[1] / pair[0]);
}

}  // namespace bit_linear_bench
}  // namespace strata

int main(int argc, char** argv) {
  strata::prepare_process();
  using namespace strata::bit_linear_bench;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  at::set_num_threads(argc > 1 ? std::atoi(argv[1]) : 1);
  linears(at::kFloat, 1024);
  linears(at::kBFloat16, 1024);
  scan();
  return 0;
}
