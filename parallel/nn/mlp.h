#pragma once
// Feed-forward regions shared by the families.
#include <functional>

#include "parallel/nn/module.h"

namespace strata {

// down(silu(gate(x)) * up(x)); names gate_proj, up_proj, down_proj. options(name): of each linear.
class SwigluMlp final : public Region {
 public:
  using Options = std::function<LinearOptions(const std::string& name)>;
  SwigluMlp(int64_t dim, int64_t ffn_dim, const Options& options, const ParallelLayout& layout);
  Tensor forward(const Tensor& x_BTD, const Batch& batch) override;
  bool recompute_selectively() const override { return true; }

 private:
  Linear gate_, up_, down_;
};

}  // namespace strata
