#pragma once
#include "optim/update_rule.h"

namespace strata {

// AdamW (Loshchilov and Hutter 2019), torch's formula, t = 1 at the first update:
//   m <- b1 m + (1 - b1) g      v <- b2 v + (1 - b2) g^2
//   W <- W (1 - lr wd) - lr (m / (1 - b1^t)) / (sqrt(v) / sqrt(1 - b2^t) + eps)
// One pass over memory per update, in fp32 (fp64 for fp64 masters).
struct AdamWConfig {
  double beta1 = 0.9, beta2 = 0.95;
  double eps = 1e-10;
  double weight_decay = 0.1;
  void visit(ConfigVisitor& v);
};
std::unique_ptr<UpdateRule> make_adamw(const AdamWConfig& config);

}  // namespace strata
