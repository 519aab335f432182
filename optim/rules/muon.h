#pragma once
#include <optional>
#include <string>

#include "optim/matrix/newton_schulz.h"
#include "optim/update_rule.h"

namespace strata {

// Muon (Jordan et al. 2024): momentum, whose matrix is replaced by the nearest orthogonal one.
//
//   M <- mu M + (1 - mu) G      U = nesterov ? mu M + (1 - mu) G : M
//   W <- (1 - lr wd) W - lr s NS(U)            NS: optim/matrix/newton_schulz.h
//
// for every logical matrix W of p outputs and q inputs; s by `scale`:
//   match_rms  0.2 sqrt(max(p, q))   updates as large as AdamW's: one learning rate and decay do
//                                    for both (Liu et al. 2025, Moonlight)
//   original   sqrt(max(1, p / q))
//   spectral   sqrt(p / q)           a bounded change of outputs of bounded inputs
//   none       1
// Decay sees lr without s. Momentum is the exponential average; the heavy-ball form of other
// programs is 1 / (1 - mu) times it and gives the same updates but for eps.
//
// tp_mode = gram: where tp cuts the longer side, its ranks keep their slabs and orthogonalise them
// together (newton_schulz_slabs.h): exact, no gradient travels, and what is added up does not grow
// with the longer side. Less traffic than an owner for matrices more than about 4 P times as long
// as wide; it also spreads one large matrix over all ranks.
//
// State: momentum [p, q]. Pieces that are vectors are refused: they belong to a companion.
struct MuonConfig {
  double momentum = 0.95;
  bool nesterov = true;
  std::string coefficients = "keller5";
  int64_t ns_steps = 0;       // 0: as many as the set has
  std::optional<double> eps;  // unset: the set's own
  std::string eps_mode = "add";
  std::string scale = "match_rms";
  std::string ns_dtype = "auto";
  std::string tp_mode = "owner";
  double weight_decay = 0.1;
  void visit(ConfigVisitor& v);
};
std::unique_ptr<UpdateRule> make_muon(const MuonConfig& config);
// With polynomials of one's own instead of config.coefficients, ns_steps, eps and eps_mode.
std::unique_ptr<UpdateRule> make_muon(const MuonConfig& config, const NewtonSchulz& how);

}  // namespace strata
