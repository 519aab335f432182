#pragma once
// Rotary position embedding in the rotate-half form of the HF ecosystem (Su et al. 2021), with the
// frequency scalings of its config files. Angles, cos and sin are computed in fp64 and applied in
// fp32 (fp64 for fp64 inputs).
//
//   inv_freq_i = theta^(-2i/R), R = rotated width; angle = position * inv_freq_i * 1
//   y[..., i]       = x[i] cos - x[i + R/2] sin
//   y[..., i + R/2] = x[i + R/2] cos + x[i] sin
#include <optional>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace strata {
class ConfigVisitor;
}

namespace strata::ops {

struct RopeScaling {
  std::string rope_type = "default";  // default | linear | dynamic | llama3 | yarn
  double factor = 1.0;
  // llama3
  double low_freq_factor = 1.0, high_freq_factor = 4.0;
  // llama3, yarn, dynamic: trained context before scaling
  std::optional<int64_t> original_max_position_embeddings;
  // yarn
  double beta_fast = 32.0, beta_slow = 1.0;
  std::optional<double> attention_factor;
  std::optional<double> mscale, mscale_all_dim;

  void visit(ConfigVisitor& v);
};

// Frequencies and the factor that multiplies cos and sin (1 except yarn). length: for "dynamic" the
// longest position seen so far + 1; otherwise unused.
struct RopeTable {
  std::vector<double> inv_freq;  // [R/2]
  double magnitude = 1.0;
};
RopeTable rope_table(double theta, int64_t width, int64_t max_position_embeddings,
                     const RopeScaling& scaling, int64_t length = 0);

// x [B, T, H, K], positions [B, T] int64. Rotates the first 2 * inv_freq.size() of K features.
Tensor rope(const Tensor& x_BTHK, const Tensor& positions_BT, const RopeTable& table);
Tensor rope_composite(const Tensor& x_BTHK, const Tensor& positions_BT, const RopeTable& table);

}  // namespace strata::ops
