#pragma once
// Coefficients of Newton-Schulz iterations by name: odd quintic polynomials a x + b x^3 + c x^5
// that, one after another, drive every singular value in (0, 1] towards 1. Values as published; the
// bands are ours, from a dense sweep in double.
//
//   keller5   5 equal steps (Jordan 2024), singular values above 0.01 end in [0.68, 1.13]
//   pe5       Polar Express (Amsel et al. 2025) with a safety factor of 1.02, [0.86, 1.14] above
//             0.002
//   pe8       Polar Express, 8 steps, 1.00 above 0.001
//   quintic5  You, [0.98, 1.03] above 0.01
//   cans5     Chebyshev-optimised (Grishina et al. 2025), [0.88, 1.12] above 0.001
//   dsv4_10   keller5 eight times, then (2, -1.5, 0.5) twice, 1.00 above 0.001
//   exact12   (2, -1.5, 0.5) twelve times, 1.00 above 0.001
//   cubic5    c = 0: two products of three are saved, [0.77, 1.30] above 0.01
//
// aol4, a set of four steps, is refused: it is made for rows scaled by the sums of |X X^T| and
// turns singular values near 1 negative when X is divided by its Frobenius norm (f(1) = -0.99),
// which flips the sign of gradients of rank one.
#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace strata {

using OddPolynomial = std::array<double, 3>;  // a, b, c of a x + b x^3 + c x^5

// What newton_schulz() does to a matrix.
struct NewtonSchulz {
  std::vector<OddPolynomial> steps;
  double pre = 1;      // the norm is multiplied by this: safety of rounded iterates
  double eps = 1e-20;  // floor of the norm: the authors', where a set depends on it
  bool clamp = false;  // divide by max(pre |X|_F, eps) instead of pre |X|_F + eps
};

std::vector<std::string> newton_schulz_sets();
// steps: their number; 0: the set's own. keller5, exact12, dsv4_10, pe8 and cans5 repeat their last
// step, and may have fewer; the steps of pe5, quintic5 and cubic5 belong together. Throws
// ConfigError (keys optim.coefficients and optim.ns_steps) for anything else.
NewtonSchulz newton_schulz_set(const std::string& name, int64_t steps = 0);
// "" or what is allowed instead of so many steps.
std::string allowed_ns_steps(const std::string& name, int64_t steps);

// f(sigma) of all steps one after another.
double compose(const std::vector<OddPolynomial>& steps, double sigma);

// The Polar Express polynomials for singular values in [lower, 1]: each is the best for the
// interval that the ones before leave. safety: all but the last are flattened by 1 + safety,
// because rounding may leave values above 1; cushion: an interval's lower end is taken as at least
// this times its upper end, so that no step is wasted on the smallest values.
std::vector<OddPolynomial> polar_express(double lower, int64_t steps, double safety,
                                         double cushion);

}  // namespace strata
