#pragma once
// The subspace of a matrix's largest singular values.
#include <string>

#include "core/rng.h"
#include "core/tensor.h"

namespace strata {

// gram: eigenvectors of x x^T or x^T x, whichever is smaller, in the type of x. Exact but for
// directions far below the largest one: singular values under about 1e-8 of it in fp64, 5e-4 in
// fp32. full: a singular value decomposition in fp64. randomized: `rank` + 8 vectors of random
// signs, multiplied three times by the smaller of x x^T and x^T x (subspace iteration; Halko,
// Martinsson and Tropp 2011), then the best of what they span; only where both sides of x are at
// least 4 rank, gram otherwise.
enum class SubspaceMethod { Gram, Full, Randomized };
SubspaceMethod parse_subspace_method(const std::string& name);  // "gram", "full", "randomized"

// Left singular vectors of x [M, N] for its `rank` <= min(M, N) largest singular values, largest
// first: columns [M, rank] in the type of x. Each column's
// entry of largest magnitude is positive (of equal ones, the first), so that methods, libraries and
// devices agree. Right ones: of x.t(). random: only read by randomized. Undefined when there is no
// such subspace: x is zero or not finite, or LAPACK fails.
Tensor leading_vectors(const Tensor& x, int64_t rank, SubspaceMethod method, const Rng& random);
// The same from x x^T alone, of an x [M, N >= M] of length 1; not by SubspaceMethod::Full.
Tensor leading_vectors_of_gram(const Tensor& gram, int64_t rank, SubspaceMethod method,
                               const Rng& random);

}  // namespace strata
