#pragma once
// How a block's sub-layers (mixer, feed-forward) are joined to the residual stream, for every
// family:
//
//   plain                  x + f(x)
//   mhc_lite | mhc | hc    n streams x_s: u = sum_s read_s x_s,
//                          x'_t = sum_s mix[s, t] x_s + write_t f(u)
//                          with coefficients computed from x (hyper_connection.h)
//
// A block makes one Residual per sub-layer and calls it with the branch:
//
//   x = (*attn_residual_)(x, batch, [&](const Tensor& u) {
//     return (*attn_)(attn_norm_(u), batch);
//   });
//
// Streams are never cut over ranks: the coefficients are of single tokens, so sequence parallelism
// needs no collective here. The first sub-layer of a model makes the n streams, all copies of the
// embedding; the head adds them up. Between pipeline stages n times as much is sent.
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "parallel/nn/head.h"
#include "parallel/nn/module.h"

namespace strata {

class ConfigVisitor;
class HyperConnection;

struct ResidualConfig {
  std::string kind = "plain";
  int64_t streams = 4;
  std::string reduce = "norm_then_sum";
  double init_std = 0;          // of the weights that make coefficients depend on the token
  double identity_offset = -8;  // initial mixing logit of all but the identity
  int64_t sinkhorn_iterations = 20;
  std::string sinkhorn_order = "paper";
  double lr_scale = 1;
  bool weight_decay = false;

  void visit(ConfigVisitor& v);  // keys residual, residual_*
  bool plain() const { return kind == "plain"; }
  // Values per token that a block hands on, for a model of this width.
  int64_t boundary_width(int64_t width) const { return plain() ? width : streams * width; }
  // What the head has to do with streams.
  StreamReduce head_reduce() const;
  // Multiply-adds count 2: forward, per token and sub-layer.
  double flops_per_token(int64_t width) const;
};

class Residual final : public Module {
 public:
  // sub_layer: number within the model, counted over all blocks.
  Residual(const ResidualConfig& config, int64_t width, int sub_layer,
           const ParallelLayout& layout);
  ~Residual() override;
  Tensor operator()(const Tensor& x, const Batch& batch,
                    const std::function<Tensor(const Tensor& u_BTD)>& branch);

 private:
  ResidualConfig config_;
  bool first_;
  std::unique_ptr<HyperConnection> connection_;  // null: plain
};

}  // namespace strata
