#pragma once
#include <optional>

#include "optim/matrix/newton_schulz.h"
#include "optim/update_rule.h"

namespace strata {

// Muon (Jordan et al. 2024): momentum whose matrix is replaced by the nearest orthogonal one.
//   M <- mu M + (1 - mu) G      U = nesterov ? (1 - mu) G + mu M : M
//   W <- (1 - lr wd) W - lr s(p, q) NS(U)            NS: optim/matrix/newton_schulz.h
//   s = 0.2 sqrt(max(p, q))   match_rms: updates as large as AdamW's, one learning rate for both
//       sqrt(max(1, p / q))   original
//       1                     none
// for every logical matrix of p outputs and q inputs. Momentum is the exponential average (EMA);
// the heavy-ball form is 1 / (1 - mu) times it and gives the same updates.
struct MuonConfig {
  double momentum = 0.95;
  bool nesterov = true;
  std::string coefficients = "keller5";
  int64_t ns_steps = 0;       // 0: as many as the set has
  std::optional<double> eps;  // unset: the set's own
  std::string eps_mode = "add";
  std::string scale = "match_rms";
  std::string ns_dtype = "auto";
  double weight_decay = 0.1;
  void visit(ConfigVisitor& v);
};
std::unique_ptr<UpdateRule> make_muon(const MuonConfig& config);
// With polynomials of one's own instead of config.coefficients, ns_steps, eps and eps_mode.
std::unique_ptr<UpdateRule> make_muon(const MuonConfig& config, const NewtonSchulz& how);

}  // namespace strata
