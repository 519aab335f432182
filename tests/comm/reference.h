#pragma once
// What a collective must give, computed on every rank from all ranks' inputs with LibTorch alone.
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/minimum.h>

#include <cstring>
#include <string>
#include <vector>

#include "core/rng.h"
#include "parallel/comm/communicator.h"

namespace strata::comm_test {

// Depends on seed, rank and element only. Floating values spread over a few powers of two, so that
// the order of a sum shows.
inline Tensor make_input(at::ScalarType dtype, int64_t count, int rank, int seed = 0) {
  const Rng rng(static_cast<uint64_t>(seed), "test", "rank " + std::to_string(rank));
  std::vector<double> values(static_cast<size_t>(count));
  rng.fill_uniform(0, count, values.data());
  Tensor data = at::arange(count, at::TensorOptions().dtype(at::kDouble));
  if (count > 0) std::memcpy(data.data_ptr(), values.data(), sizeof(double) * values.size());
  if (at::isFloatingType(dtype)) return ((data - 0.5) * (data * 9).exp2()).to(dtype);
  if (dtype == at::kBool) return data > 0.5;
  return (data * (dtype == at::kByte ? 256.0 : 2e9)).floor().to(dtype);
}

inline std::vector<Tensor> make_inputs(at::ScalarType dtype, int64_t count, int ranks,
                                       int seed = 0) {
  std::vector<Tensor> inputs;
  for (int r = 0; r < ranks; ++r) inputs.push_back(make_input(dtype, count, r, seed));
  return inputs;
}

// Pairs, then pairs of results, in fp32 (fp64 for fp64), rounded once.
inline Tensor tree_reference(std::vector<Tensor> inputs, ReduceOp op = ReduceOp::Sum) {
  const at::ScalarType dtype = inputs.front().scalar_type();
  const bool widen = dtype == at::kHalf || dtype == at::kBFloat16;
  for (Tensor& t : inputs) t = widen ? t.to(at::kFloat) : t;
  while (inputs.size() > 1) {
    std::vector<Tensor> next;
    for (size_t i = 0; i < inputs.size(); i += 2) {
      if (i + 1 == inputs.size()) {
        next.push_back(inputs[i]);
      } else if (op == ReduceOp::Sum) {
        next.push_back(dtype == at::kBool ? inputs[i].logical_or(inputs[i + 1])
                                          : inputs[i] + inputs[i + 1]);
      } else {
        next.push_back(op == ReduceOp::Min ? at::minimum(inputs[i], inputs[i + 1])
                                           : at::maximum(inputs[i], inputs[i + 1]));
      }
    }
    inputs = next;
  }
  return inputs.front().to(dtype);
}

// Equal to the last bit, zeros' signs and NaN included.
inline bool same_bits(const Tensor& a, const Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || !a.sizes().equals(b.sizes())) return false;
  const Tensor x = a.contiguous(), y = b.contiguous();
  return x.nbytes() == 0 || std::memcmp(x.data_ptr(), y.data_ptr(), x.nbytes()) == 0;
}

}  // namespace strata::comm_test
