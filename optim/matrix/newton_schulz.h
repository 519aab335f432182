#pragma once
// Orthogonalisation by Newton-Schulz iteration (optimizers.md 3.3): every singular value x of
// X / (pre |X|_F) goes through odd polynomials a x + b x^3 + c x^5 that drive it towards 1.
//
//   X <- X / (pre |X|_F + eps)      or / max(pre |X|_F, eps)
//   for each (a, b, c):   A = X X^T    B = b A + c A A    X <- a X + B X
//
// X is transposed first where it has more rows than columns. Products of equal factors are
// symmetric: only blocks on and below the diagonal are computed. Long matrices (n >= 2 m) iterate
// their m x m Gram matrix instead and multiply X once, with a restart before the third step, which
// keeps rounding small (Dao-AILab, gram-newton-schulz).
#include <array>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace strata {

struct NewtonSchulz {
  std::vector<std::array<double, 3>> steps;  // (a, b, c)
  double pre = 1;
  double eps = 1e-20;
  bool clamp = false;  // max(pre |X|_F, eps) instead of pre |X|_F + eps
};

// Coefficient sets by name:
//   keller5   5 equal steps (Jordan), the range [0.68, 1.13]
//   pe5, pe8  Polar Express (Amsel et al. 2025), [0.86, 1.14] and 1.00
//   quintic5  You, [0.98, 1.03]
//   cans5     Chebyshev-optimised (Grishina et al. 2025), [0.88, 1.12]
//   exact12   (2, -1.5, 0.5) twelve times, 1.00
//   cubic5    without the quintic term, [0.77, 1.30]
std::vector<std::string> newton_schulz_sets();
// count: steps; 0 the set's own number. More than it has: the last repeats. Throws InternalError
// for a name that is not in newton_schulz_sets().
NewtonSchulz newton_schulz_set(const std::string& name, int count = 0);

// The optimal polynomials for singular values in [lower, 1] (Polar Express): safety divides all but
// the last by powers of 1 + safety; cushion bounds how small a value may be taken for.
std::vector<std::array<double, 3>> polar_express(double lower, int steps, double safety,
                                                 double cushion);

// X [rows, cols], fp32 or fp64 (16 bits: computed so, normalised in fp32). A new tensor of X's type
// and shape. Zero gives zero.
Tensor newton_schulz(const Tensor& x, const NewtonSchulz& how);
// The same without symmetric products and Gram iteration: the oracle of tests.
Tensor newton_schulz_plain(const Tensor& x, const NewtonSchulz& how);

// X X^T for X [m, n]: the lower half in blocks, mirrored.
Tensor symmetric_product(const Tensor& x);

}  // namespace strata
