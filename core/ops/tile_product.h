#pragma once
// fp32 products of large matrices on the processor's matrix unit (AMX, tiles of bfloat16 summed in
// fp32), for those who know that shapes do not depend on the layout of the run. Operands are cut
// into three bfloat16 parts, which hold all 24 bits; the six products of parts above 2^-24 are
// summed, which is as accurate as a product in fp32. Parts below 2^-126 count as zero: elements
// under 1e-33 lose digits. A value that is not finite makes its row and column not finite.
#include "core/tensor.h"

namespace strata::ops {

// Whether this processor and system have it.
bool has_tile_product();
// Whether tile_product_out takes these: has_tile_product(), fp32 on the CPU, and large enough to
// gain. By type and shape alone.
bool takes_tile_product(const Tensor& a, const Tensor& b);

struct TileProduct {
  double alpha = 1, beta = 0;
  bool symmetric = false;  // a b is: blocks on and below the diagonal are computed and mirrored
};

// to = alpha a b + beta add, fp32. a [M, K], b [K, N], also transposed views; `to` and `add` have
// dense rows; `to` may be any of the others. `add` is only read where beta is not 0. Sums are made
// in the same order whatever M, N and the threads are.
void tile_product_out(const Tensor& to, const Tensor& a, const Tensor& b,
                      const TileProduct& how = {}, const Tensor& add = {});

}  // namespace strata::ops
