#include "models/parts/hyper_connection.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>

#include <cmath>

#include "core/ops/doubly_stochastic.h"
#include "core/ops/streams.h"

namespace strata {
namespace hyper_connection_detail {

int64_t factorial(int64_t n) { return n <= 1 ? 1 : n * factorial(n - 1); }

// Coefficients are computed in the dtype of the parameters of an fp32 or 16-bit run, fp64 else.
Tensor gained(const Tensor& gamma, const Tensor& alpha, const Tensor& beta) {
  const Tensor beta_columns = beta.dim() == 1 ? beta.unsqueeze(1) : beta;
  return (gamma + 1.0).unsqueeze(1) * at::cat({alpha, beta_columns}, 1);
}

}  // namespace hyper_connection_detail

HyperConnection::HyperConnection(const ResidualConfig& config, int64_t width, int sub_layer,
                                 const Declare& add)
    : config_(config), width_(width) {
  using hyper_connection_detail::factorial;
  const int64_t n = config.streams, C = width, own = sub_layer % n;
  const Init dynamic = config.init_std > 0 ? Init::normal(config.init_std) : Init::zeros();
  // -1 (mhc, mhc_lite) or 0 (hc) except 1 for the stream that the sub-layer mostly reads.
  const double others = config.kind == "hc" ? 0.0 : -1.0, offset = config.identity_offset;
  if (config.kind == "hc") {
    gamma_ = add("norm.gamma", {C}, Init::zeros());
    static_alpha_ = add("static_alpha", {n, 1 + n}, Init::of([=](int64_t e) {
                          const int64_t s = e / (1 + n), column = e % (1 + n);
                          return column == 0 ? (s == own ? 1.0 : others) : column - 1 == s;
                        }));
    dynamic_alpha_ = add("dynamic_alpha_fn", {C, 1 + n}, dynamic);
    read_scale_ = add("dynamic_alpha_scale", {}, Init::constant(0.01));
    static_beta_ = add("static_beta", {n}, Init::ones());
    dynamic_beta_ = add("dynamic_beta_fn", {C}, dynamic);
    write_scale_ = add("dynamic_beta_scale", {}, Init::constant(0.01));
    return;
  }
  gamma_ = add("norm.gamma", {n * C}, Init::zeros());
  const auto start = [=](int64_t s) { return s == own ? 1.0 : others; };
  if (config.kind == "mhc_lite") {
    const int64_t F = factorial(n);
    static_alpha_ = add("static_alpha", {n + F}, Init::of([=](int64_t e) {
                          return e < n ? start(e) : e == n ? 0.0 : offset;
                        }));
    dynamic_alpha_ = add("dynamic_alpha_fn", {n * C, n + F}, dynamic);
  } else {
    static_alpha_ = add("static_alpha", {n, 1 + n}, Init::of([=](int64_t e) {
                          const int64_t s = e / (1 + n), column = e % (1 + n);
                          return column == 0 ? start(s) : column - 1 == s ? 0.0 : offset;
                        }));
    dynamic_alpha_ = add("dynamic_alpha_fn", {n * C, n * (1 + n)}, dynamic);
  }
  read_scale_ = add("pre_branch_scale", {1}, Init::constant(0.01));
  mix_scale_ = add("residual_scale", {1}, Init::constant(0.01));
  static_beta_ = add("static_beta", {n}, Init::of(start));
  dynamic_beta_ = add("dynamic_beta_fn", {n * C, n}, dynamic);
  write_scale_ = add("h_post_scale", {}, Init::constant(0.01));
}

StreamCoefficients HyperConnection::coefficients(const Tensor& x) const {
  if (config_.kind == "hc") return unbounded(x);
  const int64_t n = config_.streams, columns = dynamic_alpha_.size(1);
  const Tensor p = ops::normalised_product(
      x, hyper_connection_detail::gained(gamma_, dynamic_alpha_, dynamic_beta_));
  Tensor a = p.narrow(-1, 0, columns);
  const Tensor b = p.narrow(-1, columns, n);
  StreamCoefficients out;
  out.write_BTn = (write_scale_ * b + static_beta_).sigmoid() * 2.0;
  if (config_.kind == "mhc_lite") {
    out.read_BTn = (read_scale_ * a.narrow(-1, 0, n) + static_alpha_.narrow(0, 0, n)).sigmoid();
    const Tensor weights =
        (mix_scale_ * a.narrow(-1, n, columns - n) + static_alpha_.narrow(0, n, columns - n))
            .softmax(-1);
    out.mix_BTnn = ops::permutation_mixture(weights, n);
    return out;
  }
  // Column 0 of each row reads, the others are the row's mixing logits.
  Shape shape = a.sizes().vec();
  shape.back() = n;
  shape.push_back(1 + n);
  a = a.reshape(shape);
  out.read_BTn = (read_scale_ * a.select(-1, 0) + static_alpha_.select(1, 0)).sigmoid();
  out.mix_BTnn = ops::sinkhorn(
      mix_scale_ * a.narrow(-1, 1, n) + static_alpha_.narrow(1, 1, n), config_.sinkhorn_iterations,
      // Rows of mix are sources. "paper" leaves sums over sources exact: what arrives at a stream.
      config_.sinkhorn_order == "paper" ? ops::SinkhornOrder::RowsFirst
                                        : ops::SinkhornOrder::ColumnsFirst);
  return out;
}

StreamCoefficients HyperConnection::unbounded(const Tensor& x) const {
  const int64_t n = config_.streams;
  const Tensor p = ops::normalised_product(
                       x.view({x.size(0), x.size(1), n, width_}),
                       hyper_connection_detail::gained(gamma_, dynamic_alpha_, dynamic_beta_))
                       .tanh();
  const Tensor a = read_scale_ * p.narrow(-1, 0, 1 + n) + static_alpha_;
  return {a.select(-1, 0), a.narrow(-1, 1, n), write_scale_ * p.select(-1, 1 + n) + static_beta_};
}

}  // namespace strata
