#include "optim/matrix/random_signs.h"

#include <ATen/ops/empty.h>

namespace strata {

Tensor random_signs(int64_t rows, int64_t cols, const Rng& random) {
  const Tensor out = at::empty({rows, cols}, at::TensorOptions().dtype(at::kFloat));
  float* to = out.mutable_data_ptr<float>();
  for (int64_t i = 0; i < rows * cols; i += 32) {
    const uint32_t bits = random.word(static_cast<uint64_t>(i / 32));
    for (int64_t k = 0; k < 32 && i + k < rows * cols; ++k)
      to[i + k] = (bits >> k & 1) != 0 ? 1.F : -1.F;
  }
  return out;
}

}  // namespace strata
