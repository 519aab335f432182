#pragma once
#include <memory>

#include "models/hydra/config.h"
#include "parallel/nn/module.h"

namespace strata {

// B batch, T time, D model width, H heads of width P here, E = H P, G groups, N state width
class HydraMixer final : public Region {
 public:
  HydraMixer(const HydraConfig& c, int block, const ParallelLayout& layout);
  Tensor forward(const Tensor& u_BTD, const Batch& batch) override;

 private:
  // Which tokens the mixer sees, from the batch.
  struct Sight {
    Tensor conv_BT;    // segments for the convolution; undefined: all
    Tensor scan_BT;    // segments for the scans; undefined: one document per row
    Tensor steps_BT1;  // 1 where a token may write the state; undefined: everywhere
  };
  Sight sight(const Batch& batch) const;
  Tensor step_sizes(const Tensor& raw, const Sight& sight) const;      // [B,T,2,H]
  Tensor keys_of(const Tensor& bc_BTK, int64_t which) const;           // [B,T,G,N] of heads here
  Tensor normalised(const Tensor& y_BTHP, const Tensor& z_BTE) const;  // [B,T,E]

  HydraConfig c_;
  int64_t heads_, first_head_;  // of this rank
  Linear z_, x_, bc_, dt_, delta_, out_;
  Tensor conv_x_, conv_x_bias_, conv_bc_, conv_bc_bias_;
  Tensor dt_bias_H_, A_log_H_, D_H_, norm_E_, init_HPN_;
};

class HydraBlock final : public Layer {
 public:
  HydraBlock(const HydraConfig& c, int block, const ParallelLayout& layout);
  Tensor forward(const Tensor& x_BTD, const Batch& batch) override;

 private:
  bool prenorm_, last_, zero_padding_;
  LayerNorm norm_, final_norm_;
  std::shared_ptr<HydraMixer> mixer_;
};

}  // namespace strata
