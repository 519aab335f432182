#pragma once
// Linear layer with ternary weights (core/ops/bit_linear.h) as a child module: parameters `weight`
// [out, in] and `norm.weight` [in]. Cut by output (split_out: whole rows in, own features out) or
// by input (split_in: own features in, partial sum out; the statistics of a row are then put
// together over tp, one all_gather of two numbers per token, and one all_reduce of a number per
// token in the backward).
//
// The codes are functions of the whole matrix: beta is its mean |W|, not that of a part. They are
// made once after each change of the weights, by the layer that holds the module:
//
//   void weights_changed() override { refresh_codes(bit_linears_, layout()); }
//   bool watches_weights() const override { return true; }
//
// One byte per element of the part held here is kept, also under ZeRO 3.
#include <span>

#include "core/ops/bit_linear.h"
#include "parallel/nn/module.h"

namespace strata {

struct BitLinearOptions {
  Init init = Init::normal(0.02);
  ops::BitOptions rows;
  bool ternary = true;  // false: the weights as they are
  ParamKind kind = ParamKind::Matrix;
  MatrixView view = MatrixView::Whole;
};

class BitLinear final : public Module {
 public:
  BitLinear(int64_t in, int64_t out, ShardSpec shard, const BitLinearOptions& options,
            const ParallelLayout& layout);
  Tensor operator()(const Tensor& x) const;

  const Tensor& weight() const noexcept { return weight_; }
  const Tensor& gain() const noexcept { return gain_; }
  const ops::TernaryCodes& codes() const;  // what multiplies activations
  const ops::BitOptions& options() const noexcept { return options_.rows; }

 private:
  friend void refresh_codes(std::span<BitLinear* const> linears, const ParallelLayout& layout);
  int64_t in_, out_;
  BitLinearOptions options_;
  ShardSpec shard_;
  Tensor weight_, gain_;
  ops::FeatureGroup features_;
  ops::TernaryCodes codes_;
  bool fresh_ = false;
};

// beta and codes of all of them from the values that the weights have now. Collective over tp: one
// sum of all their fp64 sums.
void refresh_codes(std::span<BitLinear* const> linears, const ParallelLayout& layout);

// For rows of which every rank of tp holds a part of the `width` features.
ops::FeatureGroup features_over_tp(int64_t width, const ParallelLayout& layout);

}  // namespace strata
