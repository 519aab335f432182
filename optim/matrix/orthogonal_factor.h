#pragma once
// The orthogonal factor of a matrix.
#include <optional>

#include "core/tensor.h"

namespace strata {

// Q of x = Q R, x [n, k], n >= k, R with a positive diagonal, from the Cholesky factor R of the
// Gram matrix of x's columns, scaled to length 1. Up to two rounds; before each, how far Q^T Q is
// from I is measured: under 100 rounding errors nothing is left to do. The second round begins at
// 0.1 or less, which it squares away; four vectors of signs probe its result (is_orthogonal).
//
// Nothing where that does not do: columns that are zero, not finite or, scaled, nearly dependent.
// Householder's algorithm takes any.
std::optional<Tensor> orthogonal_factor_by_gram(const Tensor& x);

// Q of x = Q R by Householder's algorithm, with LAPACK's signs; R is not formed. On CPUs LAPACK
// finds the reflections of a few columns at a time, products apply them to the rest (compact WY
// form, Schreiber and Van Loan 1989).
Tensor orthogonal_factor_by_reflections(const Tensor& x);

// Whether |Q^T Q - I| of q [n, k] is at most `bound` as far as four vectors of signs show it, at a
// small part of the cost of Q^T Q: an error of that size in one entry moves them by as much. False
// for a q that is not finite.
bool is_orthogonal(const Tensor& q, double bound = 1e-3);

}  // namespace strata
