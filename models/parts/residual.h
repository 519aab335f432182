#pragma once
// How a block's sub-layers (mixer, feed-forward) are joined to the residual stream, for every
// family:
//
//   plain   x + f(x)
//
// A block makes one Residual per sub-layer and calls it with the branch:
//
//   x = (*attn_residual_)(x, [&](const Tensor& u) { return (*attn_)(attn_norm_(u), batch); });
#include <cstdint>
#include <functional>
#include <string>

#include "parallel/nn/module.h"

namespace strata {

class ConfigVisitor;

struct ResidualConfig {
  std::string kind = "plain";

  void visit(ConfigVisitor& v);  // keys residual, residual_*
  // Values per token that a block hands on, for a model of this width.
  int64_t boundary_width(int64_t width) const { return width; }
};

class Residual final : public Module {
 public:
  // sub_layer: number within the model, counted over all blocks.
  Residual(const ResidualConfig& config, int64_t width, int sub_layer,
           const ParallelLayout& layout);
  Tensor operator()(const Tensor& x_BTD, const std::function<Tensor(const Tensor& u_BTD)>& branch);
};

}  // namespace strata
