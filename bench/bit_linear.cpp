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

// Time and memory per token have to be the same for any length.
void scan() {
  std::printf(
      "\ngated scan, fp32, 16384 x 512 elements in rows of T tokens: forward and backward\n");
  std::printf("%7s %12s %14s %12s\n", "T", "ns/token", "bytes/token", "composed");
  memory_meter::install();
  for (const int64_t T : {512, 1024, 2048, 4096, 8192, 16384, 32768}) {
    const int64_t rows = std::max<int64_t>(1, 16384 / T), D = 512;
    const Tensor u = at::randn({rows, T, D}).requires_grad_();
    const Tensor v = at::randn({rows, T, D}).requires_grad_();
    const auto tokens = static_cast<double>(rows * T);
    const int64_t before = memory_meter::live_bytes();
    memory_meter::reset_peak();
    both([&] { return ops::gated_scan(u, v, {}, {}, {}).h_BTD; }, {u, v})();
    const auto bytes = static_cast<double>(memory_meter::peak_bytes() - before);
    const auto ms = bench::side_by_side(
        {both([&] { return ops::gated_scan(u, v, {}, {}, {}).h_BTD; }, {u, v})}, 7);
    double composed = 0;
    if (T <= 2048) {
      composed = bench::side_by_side(
          {both([&] { return ops::gated_scan_composite(u, v, {}, {}, {}).h_BTD; }, {u, v})}, 1)[0];
    }
    std::printf("%7lld %12.1f %14.0f", static_cast<long long>(T), ms[0] * 1e6 / tokens,
                bytes / tokens);
    if (composed > 0) {
      std::printf(" %11.1fx\n", composed / ms[0]);
    } else {
      std::printf(" %12s\n", "-");
    }
  }
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
