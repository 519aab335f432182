#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <vector>

#include "bench/linear_attention.h"
#include "core/ops/gla.h"
#include "core/rng.h"

namespace strata::bench {

namespace gla_bench_detail {

struct Inputs {
  Tensor q, k, v, g, grad;
  std::vector<Tensor> leaves() const { return {q, k, v, g}; }
};

Tensor normal(const Shape& shape, const std::string& name) {
  Tensor x = at::zeros(shape, at::TensorOptions().dtype(at::kFloat));
  Rng(0, "init", name).fill_normal(0, x.numel(), x.mutable_data_ptr<float>());
  return x;
}

Inputs make_inputs(const Sizes& n, at::ScalarType dtype) {
  const auto leaf = [](const Tensor& x) { return x.detach().requires_grad_(); };
  return {leaf(normal({n.B, n.T, n.H, n.K}, "q").to(dtype)),
          leaf(normal({n.B, n.T, n.H, n.K}, "k").to(dtype)),
          leaf(normal({n.B, n.T, n.H, n.V}, "v").to(dtype)),
          leaf(at::log_sigmoid(normal({n.B, n.T, n.H, n.K}, "g")) / 16),
          normal({n.B, n.T, n.H, n.V}, "grad").to(dtype)};
}

Tensor ours(const Inputs& in) {
  const double scale = 1 / std::sqrt(static_cast<double>(in.q.size(-1)));
  return ops::gla(in.q, in.k, in.v, in.g, {}, {}, scale).o_BTHV;
}

// Chunks of 64 tokens; keys are divided by their decays, so only mild ones are possible.
Tensor composed(const Inputs& in) {
  constexpr int64_t C = 64;
  const auto dtype = in.q.scalar_type();
  const double scale = 1 / std::sqrt(static_cast<double>(in.q.size(-1)));
  const Tensor q = chunks(in.q, C), k = chunks(in.k, C), v = chunks(in.v, C);
  const Tensor b = at::cumsum(chunks(in.g, C), -2), last = b.narrow(-2, C - 1, 1);
  const Tensor queries = (q.to(at::kFloat) * (b.exp() * scale)).to(dtype);
  const Tensor keys = (k.to(at::kFloat) * (-b).exp()).to(dtype);
  const Tensor ends = (k.to(at::kFloat) * (last - b).exp()).to(dtype);
  const Tensor update = at::matmul(ends.transpose(-1, -2), v).to(at::kFloat);
  const std::vector<Tensor> decays = last.exp().transpose(-1, -2).unbind(2),
                            updates = update.unbind(2);
  std::vector<Tensor> states;
  Tensor state = at::zeros_like(updates[0]);
  for (size_t n = 0; n < updates.size(); ++n) {
    states.push_back(state);
    state = state * decays[n] + updates[n];
  }
  const Tensor later = at::ones({C, C}, at::TensorOptions().dtype(at::kBool)).tril().logical_not();
  const Tensor scores = at::matmul(queries, keys.transpose(-1, -2)).masked_fill(later, 0);
  return join(at::matmul(scores, v) + at::matmul(queries, at::stack(states, 2).to(dtype)));
}

template <Tensor (*layer)(const Inputs&)>
Contender contender(const Sizes& n, at::ScalarType dtype) {
  const Inputs in = make_inputs(n, dtype);
  return {[in] {
            const at::NoGradGuard no_grad;
            layer(in);
          },
          [in] {
            for (const Tensor& x : in.leaves()) x.mutable_grad() = Tensor();
            layer(in).backward(in.grad);
          },
          [in] { return layer(in).detach(); }};
}

}  // namespace gla_bench_detail

Tensor chunks(const Tensor& x_BTHW, int64_t C) {
  const int64_t B = x_BTHW.size(0), T = x_BTHW.size(1), H = x_BTHW.size(2), W = x_BTHW.size(3);
  return x_BTHW.transpose(1, 2).reshape({B, H, T / C, C, W});
}

Tensor join(const Tensor& x) {
  return x.reshape({x.size(0), x.size(1), x.size(2) * x.size(3), x.size(4)}).transpose(1, 2);
}

Kind gla_kind() {
  using namespace gla_bench_detail;
  return {"gla", contender<ours>, contender<composed>};
}

}  // namespace strata::bench
