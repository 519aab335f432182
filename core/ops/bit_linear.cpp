#include "core/ops/bit_linear.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/_int_mm.h>
#include <ATen/ops/_unsafe_view.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/round.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/trunc.h>
#include <ATen/ops/where.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/ops/bit_linear_cpu.h"
#include "core/ops/cpu_rows.h"
#include "core/ops/deferred.h"
#include "core/ops/matrix_product.h"
#include "core/ops/norm.h"
#include "core/text.h"

namespace strata::ops {

namespace bit_linear_detail {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr double kSmallest = 1e-5;  // of beta and of a row's largest value

double levels(int bits) { return static_cast<double>((1 << (bits - 1)) - 1); }

Tensor as_rows(const Tensor& x) {
  return x.dim() == 2
             ? x
             : x.reshape({c10::multiply_integers(x.sizes().slice(0, x.dim() - 1)), x.size(-1)});
}

// Everything of one call besides tensors; kept for the backward.
struct Setting : torch::CustomClassHolder {
  Setting(const TernaryCodes& c, const BitOptions& o, const FeatureGroup& f)
      : codes(c), options(o), features(f) {}
  TernaryCodes codes;
  BitOptions options;
  FeatureGroup features;
};

Tensor matrix_of(const TernaryCodes& codes, const Tensor& weight, at::ScalarType dtype) {
  return (codes.ternary() ? codes.codes_OI : weight).to(dtype);
}

Tensor rounded(const Tensor& v, ActRound round) {
  switch (round) {
    case ActRound::HalfEven:
      return at::round(v);
    case ActRound::HalfAway: {
      const Tensor even = at::round(v);
      return at::where((v - even).abs() == 0.5, at::trunc(v) + v.sign(), even);
    }
    case ActRound::None:
      break;
  }
  return v;
}

// The pieces in ATen, for devices without kernels here.
void row_statistics(const Tensor& x, const Tensor& gain, Tensor& squares, Tensor& largest) {
  const Tensor wide = x.to(gain.scalar_type());
  squares = wide.square().sum(-1);
  largest = (wide * gain).abs().amax(-1);
}

BitRows quantise(const Tensor& x, const Tensor& gain, const Tensor& squares, const Tensor& largest,
                 int64_t width, const BitOptions& options) {
  const double Q = levels(options.bits);
  const Tensor rstd = (squares / static_cast<double>(width) + options.eps).rsqrt();
  const Tensor size = rstd * largest;
  const Tensor plain = size >= kSmallest;
  const Tensor factor = at::where(plain, Q / largest, rstd * (Q / kSmallest));
  const Tensor q = rounded(x.to(gain.scalar_type()) * gain * factor.unsqueeze(-1), options.round);
  return {q.to(x.scalar_type()), size.clamp_min(kSmallest) / Q, rstd};
}

Tensor norm_dots(const Tensor& dy, const Tensor& x, const Tensor& gain, const Tensor& rstd,
                 double beta) {
  const auto acc = gain.scalar_type();
  return (dy.to(acc) * gain * x.to(acc)).sum(-1) * rstd * beta;
}

BitGradients norm_backward(const Tensor& dy, const Tensor& x, const Tensor& gain,
                           const Tensor& rstd, const Tensor& dots, int64_t width, double beta) {
  const auto acc = gain.scalar_type();
  const Tensor normal = x.to(acc) * rstd.unsqueeze(-1), g = dy.to(acc) * beta;
  const Tensor mean = (dots / static_cast<double>(width)).unsqueeze(-1);
  return {((g * gain - normal * mean) * rstd.unsqueeze(-1)).to(x.scalar_type()),
          (g * normal).sum(0)};
}

BitRows codes_of(const Tensor& x, const Tensor& gain, const Tensor& squares, const Tensor& largest,
                 int64_t width, const BitOptions& options, bool int8 = false) {
  if (has_cpu_kernel(x)) {
    return bit_linear_cpu::quantise(x, gain, squares, largest, width, options, int8);
  }
  BitRows out = quantise(x, gain, squares, largest, width, options);
  if (int8) out.q_NI = out.q_NI.to(at::kChar);
  return out;
}

Tensor scaled_rows(const Tensor& rows, const Tensor& factor_N, double common,
                   at::ScalarType dtype) {
  if (has_cpu_kernel(factor_N)) {
    return bit_linear_cpu::scaled_rows(rows, factor_N, common, dtype);
  }
  return (rows * (factor_N * common).unsqueeze(-1)).to(dtype);
}

void statistics_of(const Tensor& x, const Tensor& gain, const FeatureGroup& features,
                   Tensor& squares, Tensor& largest) {
  if (has_cpu_kernel(x)) {
    bit_linear_cpu::row_statistics(x, gain, squares, largest);
  } else {
    row_statistics(x, gain, squares, largest);
  }
  if (features.split()) features.statistics(squares, largest);
}

// dx and dgain of the norm for dy' = beta dy, dy already with respect to the normalised rows.
BitGradients normal_gradients(const Tensor& dy, const Tensor& x, const Tensor& gain,
                              const Tensor& rstd, double beta, const FeatureGroup& features) {
  const bool kernel = has_cpu_kernel(x);
  Tensor dots = kernel ? bit_linear_cpu::norm_dots(dy, x, gain, rstd, beta)
                       : norm_dots(dy, x, gain, rstd, beta);
  if (features.split()) features.sum(dots);
  const int64_t width = features.features(x);
  return kernel ? bit_linear_cpu::norm_backward(dy, x, gain, rstd, dots, width, beta)
                : norm_backward(dy, x, gain, rstd, dots, width, beta);
}

struct BitLinear : torch::autograd::Function<BitLinear> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& gain,
                        const Tensor& weight, const c10::intrusive_ptr<Setting>& setting) {
    const Setting& s = *setting;
    const Tensor rows = as_rows(x);
    Tensor squares, largest;
    statistics_of(rows, gain, s.features, squares, largest);
    const bool integers = multiplies_integers(rows, s.codes, s.options);
    const BitRows r =
        codes_of(rows, gain, squares, largest, s.features.features(rows), s.options, integers);
    const Tensor matrix = integers ? s.codes.codes_OI : matrix_of(s.codes, weight, x.scalar_type());
    const Tensor y = bit_product(r, matrix, s.codes.scale, x.scalar_type());
    ctx->saved_data["setting"] = c10::IValue::make_capsule(setting);
    // Not the codes: they are made again from x in one sweep, the same to the last bit.
    ctx->save_for_backward({x, gain, weight, squares, largest});
    Shape shape = x.sizes().vec();
    shape.back() = weight.size(0);
    return at::_unsafe_view(y, shape);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto capsule = ctx->saved_data["setting"].toCapsule();
    const auto& s = static_cast<const Setting&>(*capsule);
    const variable_list saved = ctx->get_saved_variables();
    const Tensor &gain = saved[1], &weight = saved[2];
    const Tensor x = as_rows(saved[0]), dy = as_rows(grads[0]);
    const BitRows r = codes_of(x, gain, saved[3], saved[4], s.features.features(x), s.options);
    BitGradients g;
    if (ctx->needs_input_grad(0) || ctx->needs_input_grad(1)) {
      g = bit_backward(dy, x, gain, r, matrix_of(s.codes, weight, x.scalar_type()), s.codes.scale,
                       s.features);
      g.x = g.x.view(saved[0].sizes());
    }
    Tensor dweight;
    if (ctx->needs_input_grad(2)) {
      DeferredGradients* later = weight.is_leaf() ? deferred_gradients() : nullptr;
      if (later == nullptr) {
        dweight = bit_weight_gradient(dy, r);
      } else {
        later->add([r, dy = dy.detach(), weight] {
          accumulate_gradient(weight, bit_weight_gradient(dy, r));
        });
      }
    }
    return {g.x, g.gain, dweight, Tensor()};
  }
};

struct SplitRmsNorm : torch::autograd::Function<SplitRmsNorm> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight, double eps,
                        const c10::intrusive_ptr<Setting>& setting) {
    const Tensor rows = as_rows(x);
    const auto acc = weight.scalar_type();
    Tensor squares = rows.to(acc).square().sum(-1);
    setting->features.sum(squares);
    const Tensor rstd = (squares / static_cast<double>(setting->features.width) + eps).rsqrt();
    ctx->saved_data["setting"] = c10::IValue::make_capsule(setting);
    ctx->save_for_backward({x, weight, rstd});
    return (rows.to(acc) * rstd.unsqueeze(-1) * weight).to(x.scalar_type()).view(x.sizes());
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto capsule = ctx->saved_data["setting"].toCapsule();
    const auto& s = static_cast<const Setting&>(*capsule);
    const variable_list saved = ctx->get_saved_variables();
    const BitGradients g =
        normal_gradients(as_rows(grads[0]), as_rows(saved[0]), saved[1], saved[2], 1, s.features);
    return {g.x.view(saved[0].sizes()), g.gain, Tensor(), Tensor()};
  }
};

void check(const Tensor& x, const Tensor& gain, const Tensor& weight, const TernaryCodes& codes,
           const BitOptions& options) {
  STRATA_CHECK(x.dim() >= 1 && weight.dim() == 2 && x.size(-1) == weight.size(1) &&
                   gain.dim() == 1 && gain.size(0) == x.size(-1),
               cat("bit_linear: weight ", shape_text(weight.sizes()), " and gain ",
                   shape_text(gain.sizes()), " do not fit x ", shape_text(x.sizes())));
  STRATA_CHECK(!codes.ternary() || codes.codes_OI.sizes() == weight.sizes(),
               cat("bit_linear: codes ", codes.ternary() ? shape_text(codes.codes_OI.sizes()) : "",
                   " of another weight than ", shape_text(weight.sizes())));
  STRATA_CHECK(options.bits >= 2 && options.bits <= 8, cat("bit_linear: ", options.bits, " bits"));
}

}  // namespace bit_linear_detail

ActRound parse_act_round(const std::string& name) {
  if (name == "half_even") return ActRound::HalfEven;
  if (name == "half_away") return ActRound::HalfAway;
  if (name == "none") return ActRound::None;
  throw ConfigError("act_round", cat('"', name, '"'), "half_even, half_away, none");
}

double absolute_sum(const Tensor& weight) {
  return weight.detach().abs().sum(at::kDouble).item<double>();
}

TernaryCodes ternary_codes(const Tensor& weight_OI, double beta) {
  using namespace bit_linear_detail;
  const double scale = std::max(beta, kSmallest);
  const Tensor w = weight_OI.detach();
  const Tensor wide = w.to(accumulate_dtype(w.scalar_type()));
  return {at::round(wide * (1 / scale)).clamp(-1, 1).to(at::kChar), scale};
}

Tensor ternary_weight(const TernaryCodes& codes) {
  // The mean |W| is then scale again, and W / scale = 1 / density rounds to at least 1.
  const Tensor wide = codes.codes_OI.to(at::kDouble);
  const double density = absolute_sum(wide) / static_cast<double>(wide.numel());
  return density > 0 ? wide * (codes.scale / density) : wide;
}

Tensor pack_codes(const Tensor& codes_OI) {
  const int64_t O = codes_OI.size(0), I = codes_OI.size(1), bytes = (I + 3) / 4;
  Tensor digits = at::constant_pad_nd(codes_OI.to(at::kInt), {0, bytes * 4 - I}) + 1;
  digits = digits.view({O, bytes, 4});
  Tensor sum = digits.select(2, 0);
  for (int64_t k = 1; k < 4; ++k) sum = sum + digits.select(2, k) * (int64_t{1} << (2 * k));
  return sum.to(at::kByte).contiguous();
}

Tensor unpack_codes(const Tensor& packed, int64_t features) {
  const Tensor wide = packed.to(at::kInt);
  std::vector<Tensor> digits;
  for (int64_t k = 0; k < 4; ++k)
    digits.push_back(wide.floor_divide(int64_t{1} << (2 * k)).remainder(4) - 1);
  return at::stack(digits, 2)
      .reshape({packed.size(0), packed.size(1) * 4})
      .narrow(1, 0, features)
      .to(at::kChar)
      .contiguous();
}

BitRows bit_rows(const Tensor& x_NI, const Tensor& gain_I, const BitOptions& options,
                 const FeatureGroup& features, bool int8) {
  using namespace bit_linear_detail;
  const Tensor gain = gain_I.to(accumulate_dtype(x_NI.scalar_type())).contiguous();
  Tensor squares, largest;
  statistics_of(x_NI, gain, features, squares, largest);
  return codes_of(x_NI, gain, squares, largest, features.features(x_NI), options, int8);
}

bool multiplies_integers(const Tensor& x, const TernaryCodes& codes, const BitOptions& options) {
  if (!codes.ternary() || options.round == ActRound::None) return false;
  const int64_t rows = x.numel() / std::max<int64_t>(1, x.size(-1));
  // torch 2.11's product of int8 on CPUs is wrong for a single feature.
  if (x.device().is_cpu()) return rows > 0 && x.size(-1) > 1;
  // What cuBLAS multiplies.
  return rows > 16 && codes.codes_OI.size(0) % 8 == 0 && codes.codes_OI.size(1) % 8 == 0;
}

Tensor bit_product(const BitRows& rows, const Tensor& matrix_OI, double beta,
                   at::ScalarType dtype) {
  const Tensor sums = rows.q_NI.scalar_type() == at::kChar
                          ? at::_int_mm(rows.q_NI, matrix_OI.t())
                          : matrix_product(rows.q_NI, matrix_OI.t());
  return bit_linear_detail::scaled_rows(sums, rows.scale_N, beta, dtype);
}

BitGradients bit_backward(const Tensor& dy_NO, const Tensor& x_NI, const Tensor& gain_I,
                          const BitRows& rows, const Tensor& matrix_OI, double beta,
                          const FeatureGroup& features) {
  using namespace bit_linear_detail;
  const Tensor gain = gain_I.to(accumulate_dtype(x_NI.scalar_type())).contiguous();
  return normal_gradients(matrix_product(dy_NO, matrix_OI), x_NI, gain, rows.rstd_N, beta,
                          features);
}

Tensor bit_weight_gradient(const Tensor& dy_NO, const BitRows& rows) {
  const auto dtype = dy_NO.scalar_type();
  const Tensor scaled = bit_linear_detail::scaled_rows(dy_NO, rows.scale_N, 1, dtype);
  return matrix_product(scaled.t(), rows.q_NI.to(dtype));
}

Tensor bit_linear(const Tensor& x, const Tensor& gain_I, const Tensor& weight_OI,
                  const TernaryCodes& codes, const BitOptions& options,
                  const FeatureGroup& features) {
  using namespace bit_linear_detail;
  check(x, gain_I, weight_OI, codes, options);
  return BitLinear::apply(x, gain_I.to(accumulate_dtype(x.scalar_type())).contiguous(), weight_OI,
                          c10::make_intrusive<Setting>(codes, options, features));
}

Tensor bit_linear_composite(const Tensor& x, const Tensor& gain_I, const Tensor& weight_OI,
                            const TernaryCodes& codes, const BitOptions& options) {
  using namespace bit_linear_detail;
  check(x, gain_I, weight_OI, codes, options);
  const auto acc = accumulate_dtype(x.scalar_type());
  const Tensor y = rms_norm_composite(x.to(acc), gain_I, options.eps);
  const double Q = levels(options.bits);
  const Tensor s = Q / y.detach().abs().amax(-1, true).clamp_min(kSmallest);
  Tensor held = y;
  if (options.round != ActRound::None) {
    held = y + (rounded(y.detach() * s, options.round) / s - y.detach());
  }
  Tensor w = weight_OI.to(acc);
  if (codes.ternary()) w = w + (codes.codes_OI.to(acc) * codes.scale - w.detach());
  return at::linear(held, w).to(x.scalar_type());
}

Tensor rms_norm_split(const Tensor& x, const Tensor& weight_D, double eps,
                      const FeatureGroup& features) {
  using namespace bit_linear_detail;
  if (!features.split()) return rms_norm(x, weight_D, eps);
  return SplitRmsNorm::apply(x, weight_D.to(accumulate_dtype(x.scalar_type())).contiguous(), eps,
                             c10::make_intrusive<Setting>(TernaryCodes{}, BitOptions{}, features));
}

}  // namespace strata::ops
