#pragma once
// Kernels of linear-attention layers against the same layer composed of batched LibTorch products,
// both in one program. One source per layer returns a Kind; linear_attention.cpp times them.
#include <functional>
#include <string>

#include "core/tensor.h"

namespace strata::bench {

struct Sizes {
  int64_t B, T, H, K, V;
  int64_t tokens() const { return B * T; }
};

// Something to time: inputs are made once, calls leave nothing behind.
struct Contender {
  std::function<void()> forward;
  std::function<void()> forward_backward;
  std::function<Tensor()> output;  // for comparing the contenders
};

struct Kind {
  std::string name;
  std::function<Contender(const Sizes&, at::ScalarType)> ours, peer;  // on equal inputs
};

Kind gla_kind();

// [B, T, H, C] -> [B, H, T/C, C, W], and back from the chunks.
Tensor chunks(const Tensor& x_BTHW, int64_t C);
Tensor join(const Tensor& x_BHNCW);

}  // namespace strata::bench
