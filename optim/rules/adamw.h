#pragma once
#include "optim/update_rule.h"

namespace strata {

// AdamW (Loshchilov and Hutter 2019), torch's formula, t = 1 at the first update:
//   m <- b1 m + (1 - b1) g      v <- b2 v + (1 - b2) g^2
//   W <- W (1 - lr wd) - lr (m / (1 - b1^t)) / (sqrt(v) / sqrt(1 - b2^t) + eps)
// One pass over memory per update, in fp32 (fp64 for fp64 masters): scaling of the gradient,
// moments, decay, weights and their 16-bit copy.
struct AdamWConfig {
  double beta1 = 0.9, beta2 = 0.95;
  double eps = 1e-10;
  double weight_decay = 0.1;
  // Where eps is added: post_bc to the corrected root as above; pre_bc to sqrt(v), which makes it
  // eps / sqrt(1 - b2^t) (the authors of SOAP and GaLore).
  std::string eps_mode = "post_bc";
  // Not keys of a run file; what recorded traces of other authors need.
  DecayOrder decay_order = DecayOrder::Before;
  bool skip_first = false;  // SOAP's authors: the first gradient is only looked at
  void visit(ConfigVisitor& v);
};
std::unique_ptr<UpdateRule> make_adamw(const AdamWConfig& config);

}  // namespace strata
