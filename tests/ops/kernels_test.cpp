// What the CPU kernels share: registers at every instruction set, rows, mixed dtypes, extreme
// values.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "core/error.h"
#include "core/ops/activation.h"
#include "core/ops/cpu_rows.h"
#include "core/ops/linear.h"
#include "core/ops/norm.h"
#include "core/ops/simd.h"
#include "tests/ops/op_suite.h"

namespace strata::testing {

namespace kernels_test_detail {

namespace simd = ops::simd;

std::vector<simd::Level> levels_here() {
  std::vector<simd::Level> levels = {simd::Level::Base};
  if (simd::level() != simd::Level::Base) {
    levels.push_back(simd::Level::Avx2);
  }
  if (simd::level() == simd::Level::Avx512) {
    levels.push_back(simd::Level::Avx512);
  }
  return levels;
}

struct ExpKernel {
  template <int Bytes>
  [[gnu::always_inline]] static inline void run(const float* x, float* y, int64_t n) {
    using V = simd::Vec<float, Bytes>;
    simd::sweep<V>(
        n, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
          simd::store(y + i, simd::exp(simd::load<V>(x + i, lanes)), lanes);
        });
  }
};
struct NormalKernel {
  template <int Bytes>
  [[gnu::always_inline]] static inline void run(const float* x, float* y, int64_t n) {
    using V = simd::Vec<float, Bytes>;
    simd::sweep<V>(
        n, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
          simd::store(y + i, simd::normal_cdf(simd::load<V>(x + i, lanes)), lanes);
        });
  }
};
struct RoundKernel {
  template <int Bytes>
  [[gnu::always_inline]] static inline void run(const float* x, c10::BFloat16* y, int64_t n) {
    using V = simd::Vec<float, Bytes>;
    simd::sweep<V>(
        n, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
          simd::store(y + i, simd::load<V>(x + i, lanes), lanes);
        });
  }
};
struct WidenKernel {
  template <int Bytes>
  [[gnu::always_inline]] static inline void run(const c10::BFloat16* x, float* y, int64_t n) {
    using V = simd::Vec<float, Bytes>;
    simd::sweep<V>(
        n, [&](int64_t i, auto lanes) __attribute__((always_inline)) {
          simd::store(y + i, simd::load<V>(x + i, lanes), lanes);
        });
  }
};
struct SumKernel {
  template <int Bytes>
  [[gnu::always_inline]] static inline void run(const float* x, float* sum, float* most,
                                                int64_t n) {
    using V = simd::Vec<float, Bytes>;
    *sum = simd::sum_sweep<V>(
        n, [&](int64_t i, auto lanes)
               __attribute__((always_inline)) { return simd::load<V>(x + i, lanes); });
    *most = simd::max_of(simd::load<V>(x));
  }
};

TEST(Simd, ExpIsAccurateAtEveryLevel) {
  std::vector<float> x;
  for (int i = 0; i <= 20011; ++i) {
    x.push_back(-87.0f + 0.00877f * static_cast<float>(i));
  }
  const auto n = static_cast<int64_t>(x.size());
  for (const simd::Level level : levels_here()) {
    std::vector<float> y(x.size());
    simd::run_at<ExpKernel>(level, static_cast<const float*>(x.data()), y.data(), n);
    for (size_t i = 0; i < x.size(); ++i) {
      const double wanted = std::exp(static_cast<double>(x[i]));
      if (wanted > std::numeric_limits<float>::max()) {
        ASSERT_EQ(y[i], std::numeric_limits<float>::infinity()) << x[i];
      } else if (x[i] < -86.6f) {
        ASSERT_EQ(y[i], 0.0f) << x[i];
      } else {
        ASSERT_NEAR(y[i] / wanted, 1.0, 1.5e-7) << x[i];
      }
    }
    const float inf = std::numeric_limits<float>::infinity();
    const float special[5] = {-inf, inf, std::numeric_limits<float>::quiet_NaN(), 0.0f, -0.0f};
    simd::run_at<ExpKernel>(level, static_cast<const float*>(special), y.data(), int64_t{5});
    EXPECT_EQ(y[0], 0.0f);
    EXPECT_EQ(y[1], inf);
    EXPECT_TRUE(std::isnan(y[2]));
    EXPECT_EQ(y[3], 1.0f);
    EXPECT_EQ(y[4], 1.0f);
  }
}

TEST(Simd, NormalDistributionIsAccurateInTheLowerTailToo) {
  std::vector<float> x;
  for (int i = 0; i <= 20000; ++i) {
    x.push_back(-10.0f + 0.001f * static_cast<float>(i));
  }
  for (const simd::Level level : levels_here()) {
    std::vector<float> y(x.size());
    simd::run_at<NormalKernel>(level, static_cast<const float*>(x.data()), y.data(),
                               static_cast<int64_t>(x.size()));
    for (size_t i = 0; i < x.size(); ++i) {
      const double wanted = 0.5 * std::erfc(-static_cast<double>(x[i]) / std::sqrt(2.0));
      // The exponent -x^2/2 itself is rounded: its error grows with x^2.
      ASSERT_NEAR(y[i] / wanted, 1.0, 6e-7 + 6e-8 * x[i] * x[i]) << x[i];
    }
  }
}

TEST(Simd, Bf16IsRoundedAsLibTorchRounds) {
  std::vector<float> x;
  for (uint64_t word = 0; word < (uint64_t{1} << 32); word += 65521 * 7) {
    x.push_back(simd::bits<float>(static_cast<uint32_t>(word)));
  }
  for (const uint32_t word : {0x3f808000u, 0x3f818000u, 0x3f808001u, 0x7f7fffffu, 0x7f800000u,
                              0xff800000u, 0x7fc00001u}) {
    x.push_back(simd::bits<float>(word));
  }
  const auto n = static_cast<int64_t>(x.size());
  for (const simd::Level level : levels_here()) {
    std::vector<c10::BFloat16> y(x.size());
    std::vector<float> back(x.size());
    simd::run_at<RoundKernel>(level, static_cast<const float*>(x.data()), y.data(), n);
    simd::run_at<WidenKernel>(level, static_cast<const c10::BFloat16*>(y.data()), back.data(), n);
    for (size_t i = 0; i < x.size(); ++i) {
      const float wanted = static_cast<float>(static_cast<c10::BFloat16>(x[i]));
      if (std::isnan(x[i])) {
        ASSERT_TRUE(std::isnan(back[i]));
      } else {
        ASSERT_EQ(back[i], wanted) << x[i];
      }
    }
  }
}

TEST(Simd, SumsTakeEveryElementOnce) {
  std::vector<float> x(200);
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<float>((i * 37) % 101);
  }
  for (const simd::Level level : levels_here()) {
    for (int64_t n = 16; n <= 200; ++n) {
      float sum = 0, most = 0, wanted = 0;
      simd::run_at<SumKernel>(level, static_cast<const float*>(x.data()), &sum, &most, n);
      for (int64_t i = 0; i < n; ++i) {
        wanted += x[static_cast<size_t>(i)];
      }
      ASSERT_EQ(sum, wanted) << n;
    }
  }
}

TEST(CpuRows, EvenlySpacedRowsAreNotCopied) {
  const Tensor x = normal({4, 6, 10}, "x");
  EXPECT_EQ(ops::rows_of(x).tensor.data_ptr(), x.data_ptr());
  const ops::Rows part = ops::rows_of(x.slice(2, 3, 8));
  EXPECT_EQ(part.tensor.data_ptr(), x.slice(2, 3, 8).data_ptr());
  EXPECT_EQ(part.count, 24);
  EXPECT_EQ(part.width, 5);
  EXPECT_EQ(part.stride, 10);
  EXPECT_FALSE(part.dense());
  const ops::Rows turned = ops::rows_of(x.transpose(0, 1));
  EXPECT_TRUE(turned.tensor.is_contiguous());
  EXPECT_EQ(turned.stride, 10);
  const ops::Rows expanded = ops::rows_of(x.slice(0, 0, 1).expand({3, 6, 10}));
  EXPECT_EQ(expanded.stride, 10);
  EXPECT_TRUE(expanded.tensor.is_contiguous());
  EXPECT_EQ(ops::rows_of(x[1][2].expand({6, 10})).stride, 10);
  EXPECT_EQ(ops::rows_of(x.slice(2, 0, 0)).count, 0);
}

TEST(CpuRows, BlocksRunOnLibTorchsThreads) {
  const int threads = at::get_num_threads();
  at::set_num_threads(2);
  std::atomic<int> workers{0};
  ops::for_blocks(2, 1, [&](int64_t, int64_t, int64_t) { workers |= 1 << at::get_thread_num(); });
  at::set_num_threads(threads);
  EXPECT_EQ(workers.load(), 3)
      << "the library was compiled without OpenMP: its kernels use one thread";
}

TEST(Norms, TakeFp32WeightsBesideBf16ActivationsAndReturnFp32Gradients) {
  const Tensor x = normal({12, 48}, "x", at::kBFloat16).requires_grad_();
  const Tensor weight = (normal({48}, "w", at::kFloat) + 1.001).requires_grad_();
  const Tensor y = ops::rms_norm(x, weight, 1e-6);
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  y.backward(normal({12, 48}, "dy", at::kBFloat16));
  EXPECT_EQ(weight.grad().scalar_type(), at::kFloat);
  EXPECT_EQ(x.grad().scalar_type(), at::kBFloat16);
  // A weight rounded to 16 bits would give other values.
  const Tensor exact =
      ops::rms_norm_composite(x.detach().to(at::kDouble), weight.detach().to(at::kDouble), 1e-6);
  EXPECT_TRUE(bit_equal(y.detach(), exact.to(at::kBFloat16)));
}

TEST(Norms, Take16BitWeightsToo) {
  const Tensor x = normal({5, 24}, "x", at::kBFloat16);
  const Tensor weight = normal({24}, "w", at::kBFloat16).requires_grad_();
  const Tensor bias = normal({24}, "b", at::kBFloat16).requires_grad_();
  ops::layer_norm(x, weight, bias, 1e-6).sum().backward();
  EXPECT_EQ(weight.grad().scalar_type(), at::kBFloat16);
  EXPECT_LE(distance(bias.grad(), at::full({24}, 5.0)), 1e-7);
}

TEST(Norms, OnlyWantedGradientsAreComputed) {
  const Tensor x = normal({5, 24}, "x");
  const Tensor weight = normal({24}, "w").requires_grad_();
  ops::rms_norm(x, weight, 1e-6).sum().backward();
  EXPECT_TRUE(weight.grad().defined());
  EXPECT_FALSE(x.grad().defined());
  EXPECT_FALSE(ops::rms_norm(x, weight.detach(), 1e-6).requires_grad());
}

TEST(Norms, LargeAndConstantRowsStayFinite) {
  Tensor x = normal({4, 64}, "x", at::kFloat);
  x[0].fill_(0.0);
  x[1].fill_(5.0);
  x[2].mul_(1e15);
  const Tensor weight = at::full({64}, 1.0), bias = at::full({64}, 0.0);
  EXPECT_TRUE(ops::rms_norm(x, weight, 1e-5).isfinite().all().item<bool>());
  EXPECT_TRUE(ops::layer_norm(x, weight, bias, 1e-5).isfinite().all().item<bool>());
  EXPECT_EQ(ops::layer_norm(x, weight, bias, 1e-5)[1].count_nonzero().item<int64_t>(), 0);
  // A mean far above the spread: squares of differences are summed, not differences of squares.
  const Tensor shifted = normal({1, 64}, "x", at::kDouble) + 1e6;
  const Tensor plain = ops::layer_norm(normal({1, 64}, "x", at::kDouble), weight.to(at::kDouble),
                                       bias.to(at::kDouble), 1e-5);
  EXPECT_LE(
      distance(ops::layer_norm(shifted, weight.to(at::kDouble), bias.to(at::kDouble), 1e-5), plain),
      1e-9);
}

TEST(Norms, RefuseWeightsOfAnotherWidth) {
  EXPECT_THROW(ops::rms_norm(normal({2, 8}, "x"), normal({4}, "w"), 1e-5), InternalError);
  EXPECT_THROW(ops::layer_norm(normal({2, 8}, "x"), normal({8}, "w"), normal({4}, "b"), 1e-5),
               InternalError);
}

TEST(Activations, HaveTheirLimits) {
  for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const Tensor x =
        at::tensor({-1e4, -100.0, 0.0, 100.0, 1e4}, at::kDouble).to(dtype).requires_grad_();
    for (const std::string& name : ops::activation_names()) {
      const Tensor y = ops::activation(x, name);
      EXPECT_LE((y - x.relu()).abs().max().item<double>(), 1e-30) << name;
      x.mutable_grad() = Tensor();
      y.sum().backward();
      EXPECT_TRUE(x.grad().isfinite().all().item<bool>()) << name;
      EXPECT_EQ(x.grad()[4].item<double>(), 1.0) << name;
      EXPECT_NEAR(x.grad()[0].item<double>(), 0.0, 1e-30) << name;
    }
  }
}

TEST(Activations, UnknownNamesAreRefusedWithTheListAndTheNearest) {
  try {
    ops::activation(normal({2}, "x"), "gelu_nwe");
    FAIL() << "an unknown name was accepted";
  } catch (const ConfigError& e) {
    const std::string text = e.what();
    EXPECT_NE(text.find("gelu_pytorch_tanh"), std::string::npos) << text;
    EXPECT_NE(text.find("Did you mean \"gelu_new\"?"), std::string::npos) << text;
  }
}

TEST(Linear, CastsAWiderWeightAtUse) {
  const Tensor x = normal({6, 16}, "x", at::kBFloat16).requires_grad_();
  const Tensor weight = normal({8, 16}, "w", at::kFloat).requires_grad_();
  const Tensor bias = normal({8}, "b", at::kFloat).requires_grad_();
  const Tensor y = ops::linear(x, weight, bias);
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(bit_equal(y.detach(), at::linear(x.detach(), weight.detach().to(at::kBFloat16),
                                               bias.detach().to(at::kBFloat16))));
  y.sum().backward();
  EXPECT_EQ(weight.grad().scalar_type(), at::kFloat);
  EXPECT_EQ(bias.grad().scalar_type(), at::kFloat);
}

TEST(Linear, IsTheLibrarysToTheLastBit) {
  for (const auto dtype : {at::kDouble, at::kFloat}) {
    for (const bool with_bias : {false, true}) {
      const auto run = [&](const std::function<Tensor(Tensor, Tensor, Tensor)>& op) {
        const Inputs in = {normal({5, 7, 48}, "x", dtype).requires_grad_(),
                           normal({33, 48}, "w", dtype).requires_grad_(),
                           normal({33}, "b", dtype).requires_grad_()};
        const Tensor y = op(in[0], in[1], with_bias ? in[2] : Tensor());
        y.backward(normal({5, 7, 33}, "dy", dtype));
        return Inputs{y.detach(), in[0].grad(), in[1].grad(),
                      with_bias ? in[2].grad() : Tensor(in[2].detach())};
      };
      const Inputs a = run(ops::linear),
                   b = run([](Tensor x, Tensor w, Tensor bias) {
                     return bias.defined() ? at::linear(x, w, bias) : at::linear(x, w);
                   });
      for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(bit_equal(a[i], b[i])) << i;
    }
  }
}

TEST(Linear, TheBackwardReadsWhatTheWeightHoldsThen) {
  for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const Tensor dy = normal({6, 8}, "dy", dtype);
    const Tensor still_x = normal({6, 16}, "x", dtype).requires_grad_();
    const Tensor still = normal({8, 16}, "w", accumulate_dtype(dtype)).requires_grad_();
    ops::linear(still_x, still, {}).backward(dy);
    const Tensor x = normal({6, 16}, "x", dtype).requires_grad_();
    const Tensor weight = normal({8, 16}, "w", accumulate_dtype(dtype)).requires_grad_();
    const Tensor y = ops::linear(x, weight, {});
    const Tensor old = weight.detach(), moved = old.clone();
    weight.set_data(moved);
    EXPECT_EQ(old.storage().use_count(), 1);
    std::memset(old.mutable_data_ptr(), 0xff, old.nbytes());
    y.backward(dy);
    EXPECT_TRUE(bit_equal(x.grad(), still_x.grad()));
    EXPECT_TRUE(bit_equal(weight.grad(), still.grad()));
  }
}

TEST(Linear, ItsResultMayBeChangedInPlace) {
  const Tensor x = normal({2, 3, 16}, "x").requires_grad_();
  const Tensor weight = normal({8, 16}, "w").requires_grad_();
  const Tensor y = ops::linear(x, weight, {});
  y.mul_(2).sum().backward();
  EXPECT_LE(distance(weight.grad(), x.detach().reshape({6, 16}).sum(0).mul(2).expand({8, 16})),
            1e-14);
}

TEST(Linear, HeadsAreSplitAndMergedAsViews) {
  const Tensor x = normal({2, 3, 12}, "x");
  const Tensor heads = ops::split_heads(x, 4);
  EXPECT_EQ(heads.sizes(), at::IntArrayRef({2, 3, 3, 4}));
  EXPECT_EQ(heads.data_ptr(), x.data_ptr());
  EXPECT_EQ(heads[1][2][1][3].item<double>(), x[1][2][7].item<double>());
  EXPECT_TRUE(bit_equal(ops::merge_heads(heads), x));
  EXPECT_THROW(ops::split_heads(x, 5), InternalError);
}

}  // namespace kernels_test_detail

}  // namespace strata::testing
