#pragma once
#include <string>

#include "optim/update_rule.h"

namespace strata {

// GaLore (Zhao et al. 2024): Adam on gradients projected to a subspace of `rank` directions, found
// anew every update_proj_gap updates. G [p, q] a gradient, r = min(rank, p, q), t = 1 at the first
// update:
//
//   when update_proj_gap divides t - 1: A [p, r] the left singular vectors of G, or B [r, q] the
//   right ones, of its r largest singular values
//              low-rank gradient X    back(X)     proj_type
//     left     A^T G    [r, q]        A X         left, and std for p < q, reverse_std for p >= q
//     right    G B^T    [p, r]        X B         right, and std for p >= q, reverse_std for p < q
//     both     A^T G B^T [r, r]       A X B       full
//   m <- b1 m + (1 - b1) X        v <- b2 v + (1 - b2) X^2
//   W <- W - lr scale sqrt(1 - b2^t) / (1 - b1^t) back(m / (sqrt(v) + eps))
//   W <- W (1 - lr wd)
//
// Moments live in the coordinates of the subspace, so signs of singular vectors matter: the entry
// of largest magnitude is positive (optim/matrix/subspace.h). A gradient that is zero or not finite
// gives no subspace: the old one stays, the first rows or columns of I if there is none.
// A rank above min(p, q) means min(p, q); the first update says so in the log.
//
// tp_mode = gram: a matrix of whose longer side each tp rank has a slab, and whose other side is
// projected, stays where it is (optimizers-distributed.md 2.10): projector and direction of a slab
// need nothing of others, and only a refresh adds up G G^T (or G^T G). Not with svd = full.
//
// State: m, v as X; projector (A or B), for proj_type = full projector_left and projector_right.
struct GaloreConfig {
  std::string proj_type = "std";
  int64_t rank = 128;
  int64_t update_proj_gap = 200;
  double scale = 0.25;
  // What becomes of moments in a new subspace. keep: the same numbers, as the authors do. rotate: m
  // is expressed in the new vectors, v is kept. reset: both begin anew, and t with them.
  std::string on_refresh = "keep";
  std::string svd = "gram";  // SubspaceMethod
  double beta1 = 0.9, beta2 = 0.999;
  double eps = 1e-6;
  double weight_decay = 0;
  std::string tp_mode = "owner";
  void visit(ConfigVisitor& v);
};
std::unique_ptr<UpdateRule> make_galore(const GaloreConfig& config);

}  // namespace strata
