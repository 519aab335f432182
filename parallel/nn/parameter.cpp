#include "parallel/nn/parameter.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include "core/error.h"
#include "core/rng.h"
#include "core/text.h"

namespace strata {

const char* param_kind_name(ParamKind kind) {
  switch (kind) {
    case ParamKind::Matrix:
      return "matrix";
    case ParamKind::Embedding:
      return "embedding";
    case ParamKind::Head:
      return "head";
    case ParamKind::Vector:
      return "vector";
    case ParamKind::Other:
      return "other";
  }
  return "?";
}

Init Init::zeros() { return {}; }
Init Init::ones() { return constant(1); }
Init Init::constant(double value) { return {Kind::Constant, value, 0, {}}; }
Init Init::normal(double stddev, double mean) { return {Kind::Normal, mean, stddev, {}}; }
Init Init::truncated_normal(double stddev, double mean) {
  return {Kind::TruncatedNormal, mean, stddev, {}};
}
Init Init::uniform(double low, double high) { return {Kind::Uniform, low, high, {}}; }
Init Init::of(std::function<double(int64_t)> value) {
  return {Kind::Custom, 0, 0, std::move(value)};
}

namespace parameter_detail {

// Values of `count` consecutive logical elements, rounded to fp32.
void fill_run(const Init& init, const Rng& rng, int64_t first, int64_t count, float* out) {
  switch (init.kind) {
    case Init::Kind::Zeros:
    case Init::Kind::Ones:
    case Init::Kind::Constant:
      std::fill(out, out + count,
                static_cast<float>(init.kind == Init::Kind::Zeros ? 0.0 : init.a));
      return;
    case Init::Kind::Normal:
      rng.fill_normal(first, count, out);
      for (int64_t i = 0; i < count; ++i)
        out[i] = static_cast<float>(init.a + init.b * static_cast<double>(out[i]));
      return;
    case Init::Kind::TruncatedNormal:
      for (int64_t i = 0; i < count; ++i) {
        out[i] = static_cast<float>(init.a +
                                    init.b * static_cast<double>(rng.truncated_normal(first + i)));
      }
      return;
    case Init::Kind::Uniform:
      for (int64_t i = 0; i < count; ++i) {
        out[i] = static_cast<float>(init.a + (init.b - init.a) * rng.uniform(first + i));
      }
      return;
    case Init::Kind::Custom:
      for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(init.custom(first + i));
      return;
  }
}

}  // namespace parameter_detail

Tensor initial_values(const ParamMeta& meta, const Init& init, uint64_t seed, const Box& box,
                      at::ScalarType dtype) {
  STRATA_CHECK(box.extent.size() == meta.logical.size(), cat(meta.name, ": box of another rank"));
  const Rng rng(seed, "init", meta.name);
  Tensor out = at::empty(box.extent, at::TensorOptions().dtype(at::kFloat));
  const int64_t total = box.elements();
  if (total == 0) return out.to(dtype);
  // Runs along the last dimension are consecutive logical elements.
  const int dims = static_cast<int>(box.extent.size());
  const int64_t run = dims == 0 ? 1 : box.extent.back();
  float* data = out.data_ptr<float>();
  at::parallel_for(0, total / run, std::max<int64_t>(1, 32768 / run),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t r = begin; r < end; ++r) {
                       int64_t rest = r, logical = dims == 0 ? 0 : box.offset.back(),
                               stride = dims == 0 ? 1 : meta.logical.back();
                       for (int d = dims - 2; d >= 0; --d) {
                         logical += (box.offset[d] + rest % box.extent[d]) * stride;
                         rest /= box.extent[d];
                         stride *= meta.logical[d];
                       }
                       parameter_detail::fill_run(init, rng, logical, run, data + r * run);
                     }
                   });
  return out.to(dtype);
}

}  // namespace strata
