#pragma once
#include <string>

#include "optim/update_rule.h"

namespace strata {

// SOAP (Vyas et al. 2024): Adam in the eigenbasis of Shampoo's factors. G [p, q] a gradient, bs =
// shampoo_beta, f = precondition_frequency.
//
//   first update:  L = (1 - bs) G G^T, R = (1 - bs) G^T G; Q_L, Q_R their eigenvectors, largest
//                  eigenvalue first. Weights stay as they are, without decay too.
//   update t = 1, 2, ... after it:
//     g = Q_L^T G Q_R
//     m <- b1 m + (1 - b1) g        v <- b2 v + (1 - b2) g^2
//     W <- W - lr sqrt(1 - b2^t) / (1 - b1^t) Q_L (m / (sqrt(v) + eps)) Q_R^T
//     W <- W (1 - lr wd)
//     L <- bs L + (1 - bs) G G^T    R <- bs R + (1 - bs) G^T G
//     when f divides t: Q <- Q of the QR decomposition of S Q, S the factor, the columns of Q and
//     v sorted by diag(Q^T S Q) first, largest first (one step of orthogonal iteration); m is
//     taken along, m <- (Qnew^T Qold) m (Qold^T Qnew).
//
// A side without a factor has Q = I, and so has one of size 1; with neither it is Adam, one update
// late. Signs of eigenvectors change nothing. Factors and bases have the type of the weights. A
// decomposition that fails (not finite, or Q^T Q away from I by 1e-3) is repeated in fp64; if that
// fails too the old basis stays, and the third time in a row is a NumericError naming the
// parameter.
//
// merge_dims: a matrix of at most max_precond_dim elements is one row of them. precondition_1d:
// vectors of at most max_precond_dim elements are rows too, instead of the companion's.
//
// A factor that the gradients so far do not span (of a vector, or of the longer side of a matrix,
// in the first updates) has no unique basis: rounding decides what the rest of it is, so that
// layouts agree no better than different programs do.
//
// tp_mode = gram: a matrix with one factor, whose other side is the longer one and cut by tp, stays
// where it is (optimizers-distributed.md 2.9): each rank has its slab of m and v, L (or R) and its
// basis are on all of them, and G G^T is added up. Not with tiles or normalize_grads.
//
// With `stagger` matrix i of a parameter refreshes in a phase that its name and i decide.
//
// State: m, v [p, q]; with a left factor L, Q_L [p, p], with a right one R, Q_R [q, q]; with any
// failed_refreshes [1], the failures in a row. With block > 0 all of this holds for tiles of
// block x block (smaller at the edges); their factors lie one after another, row of tiles by row of
// tiles, in one dimension.
struct SoapConfig {
  double beta1 = 0.95, beta2 = 0.95;
  double shampoo_beta = -1;  // below 0: beta2
  double eps = 1e-8;
  int64_t precondition_frequency = 10;
  // Which sides have a factor. auto: those of at most max_precond_dim; never: both, whatever their
  // size; always: the smaller one, the left one of a square, if it is at most max_precond_dim.
  std::string one_sided = "auto";
  int64_t max_precond_dim = 10000;
  bool merge_dims = false;
  bool precondition_1d = false;
  int64_t block = 0;             // tiles of block x block with factors of their own; 0: whole
  bool normalize_grads = false;  // scale each direction to a root mean square of 1
  bool correct_bias = true;
  std::string tp_mode = "owner";
  // Matrices refresh in different updates: at t + h instead of t, h from the parameter's name.
  bool stagger = false;
  double weight_decay = 0.01;
  void visit(ConfigVisitor& v);
};
std::unique_ptr<UpdateRule> make_soap(const SoapConfig& config);

}  // namespace strata
