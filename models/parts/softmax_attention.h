#pragma once
// Softmax attention as single blocks of models whose other blocks are recurrent ("attn" in config
// files of the flash-linear-attention ecosystem): rotary positions, grouped key/value heads, no
// window or a window of the last tokens.
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <vector>

#include "models/parts/block_parts.h"
#include "parallel/nn/module.h"

namespace strata {

class ConfigVisitor;

// The object {layers, num_heads, num_kv_heads, qkv_bias, window_size, rope_theta}.
struct HybridAttention {
  std::vector<double> layers;  // numbers of the blocks; whole numbers
  int64_t num_heads = 0;       // 0: not given
  std::optional<int64_t> num_kv_heads;
  bool qkv_bias = false;
  std::optional<int64_t> window_size;
  double rope_theta = 10000.0;

  void visit(ConfigVisitor& v, int64_t hidden_size, int64_t blocks);
  void write(nlohmann::ordered_json& config) const;  // key "attn", null without layers
  bool has(int64_t block) const;
  int64_t kv_heads() const { return num_kv_heads.value_or(num_heads); }
  int64_t parameters(int64_t hidden_size) const;  // of one block's attention
  // Forward, of one block's attention in texts of `time` tokens; a multiply-add counts 2.
  double flops_per_token(int64_t hidden_size, int64_t time) const;
};

// Names q_proj, k_proj, v_proj, o_proj.
class SoftmaxAttention final : public Region {
 public:
  // options(name): of each linear; biases are decided here.
  using Options = std::function<LinearOptions(const std::string& name)>;
  SoftmaxAttention(const HybridAttention& config, int64_t hidden_size, const Options& options,
                   const ParallelLayout& layout);
  Tensor forward(const Tensor& x_BTD, const Batch& batch) override;

 private:
  HybridAttention c_;
  int64_t K_;
  Linear q_, k_, v_, o_;
};

}  // namespace strata
