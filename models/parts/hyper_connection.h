#pragma once
// The coefficients of one sub-layer of a residual stream held as n streams (core/ops/streams.h).
// Per token, with x all n C features and norm(x) = sqrt(n C) x / |x| * (1 + gamma):
//
//   mhc_lite   [a | b] = norm(x) [W_a | W_b]
//              read    = sigmoid(k_pre a_1 + alpha_1)             a_1: n values
//              mix     = sum_k softmax(k_res a_2 + alpha_2)_k P_k  a_2: n! values, P_k permutations
//              write   = 2 sigmoid(k_post b + beta)
//   mhc        as mhc_lite, but mix = sinkhorn(k_res a_2 + alpha_2), a_2 an n x n matrix
//   hc         per stream s: [a_s | b_s] = tanh(norm(x_s) [W_a | w_b]) with gamma of C features;
//              [read_s | mix[s, :]] = k_a a_s + alpha_s, write_s = k_b b_s + beta_s: nothing is
//              bounded
//
// W = 0 and k = 0.01 at the start. Parameters are fp32, kept whole on every rank, and named as in
// the reference code (hc_attn.dynamic_alpha_fn, ...).
#include <functional>
#include <string>

#include "models/parts/residual.h"

namespace strata {

struct StreamCoefficients {
  Tensor read_BTn, mix_BTnn, write_BTn;  // accumulate dtype
};

class HyperConnection {
 public:
  // declare: makes a parameter of the sub-layer, whole on every rank.
  using Declare = std::function<Tensor(const std::string& name, Shape shape, Init init)>;
  HyperConnection(const ResidualConfig& config, int64_t width, int sub_layer,
                  const Declare& declare);
  StreamCoefficients coefficients(const Tensor& x_BTnC) const;

 private:
  StreamCoefficients unbounded(const Tensor& x_BTnC) const;  // hc

  ResidualConfig config_;
  int64_t width_;
  Tensor gamma_, dynamic_alpha_, dynamic_beta_, static_alpha_, static_beta_;
  Tensor read_scale_, mix_scale_, write_scale_;  // hc: read_scale_ for read and mix
};

}  // namespace strata
