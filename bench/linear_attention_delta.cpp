#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cumsum.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/log_sigmoid.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>
#include <vector>

#include "bench/linear_attention.h"
#include "core/ops/delta_product.h"
#include "core/rng.h"

namespace strata::bench {

namespace delta_bench_detail {

constexpr int64_t kSteps = 2;  // per token

struct Inputs {
  Tensor q, k, v, gate, beta, grad;
  std::vector<Tensor> leaves() const { return {q, k, v, gate, beta}; }
};

Tensor normal(const Shape& shape, const std::string& name) {
  Tensor x = at::zeros(shape, at::TensorOptions().dtype(at::kFloat));
  Rng(0, "init", name).fill_normal(0, x.numel(), x.mutable_data_ptr<float>());
  return x;
}

Inputs make_inputs(const Sizes& n, at::ScalarType dtype) {
  const auto leaf = [](const Tensor& x) { return x.detach().requires_grad_(); };
  const int64_t M = n.T * kSteps;
  const Tensor k = normal({n.B, M, n.H, n.K}, "k");
  return {leaf(normal({n.B, n.T, n.H, n.K}, "q").to(dtype)),
          leaf((k / k.norm(2, {3}, true)).to(dtype)),
          leaf(normal({n.B, M, n.H, n.V}, "v").to(dtype)),
          leaf(at::log_sigmoid(normal({n.B, n.T, n.H}, "gate"))),
          leaf(at::sigmoid(normal({n.B, M, n.H}, "beta")) * 2.0),
          normal({n.B, n.T, n.H, n.V}, "grad").to(dtype)};
}

Tensor ours(const Inputs& in) {
  const double scale = 1 / std::sqrt(static_cast<double>(in.q.size(-1)));
  return ops::delta_product({in.q * scale, in.k, in.v, in.gate, in.beta, {}, {}}).o_BTHV;
}

// Chunks of 64 tokens: a triangular system per chunk, solved for values and keys at once, then one
// state after the other.
Tensor composed(const Inputs& in) {
  constexpr int64_t C = 64, M = C * kSteps;
  const auto dtype = in.q.scalar_type();
  const double scale = 1 / std::sqrt(static_cast<double>(in.q.size(-1)));
  const double never = -std::numeric_limits<double>::infinity();
  const Tensor q = chunks(in.q, C), k = chunks(in.k, M), v = chunks(in.v, M);
  const Tensor beta = chunks(in.beta.unsqueeze(-1), M);
  const Tensor b = at::cumsum(chunks(in.gate.unsqueeze(-1), C), -2), last = b.narrow(-2, C - 1, 1);
  const Tensor steps = b.repeat_interleave(kSteps, -2);
  const Tensor row = at::arange(M, at::kLong), token = row.floor_divide(kSteps);
  const Tensor here = at::arange(C, at::kLong).unsqueeze(1);

  const Tensor later = row.unsqueeze(1) <= row.unsqueeze(0);
  const Tensor system = at::matmul(k, k.transpose(-1, -2)).to(at::kFloat) * beta *
                            (steps - steps.transpose(-1, -2)).masked_fill(later, never).exp() +
                        at::eye(M);
  const Tensor right =
      at::cat({v.to(at::kFloat) * beta, k.to(at::kFloat) * (beta * steps.exp())}, -1);
  const Tensor solved = at::linalg_solve_triangular(system, right, false, true, true);
  const std::vector<Tensor> U = solved.narrow(-1, 0, v.size(-1)).unbind(2),
                            W = solved.narrow(-1, v.size(-1), k.size(-1)).to(dtype).unbind(2);
  const Tensor scores =
      (at::matmul(q, k.transpose(-1, -2)).to(at::kFloat) * scale *
       (b - steps.transpose(-1, -2)).masked_fill(here < token.unsqueeze(0), never).exp())
          .to(dtype);
  const Tensor queries = (q.to(at::kFloat) * (b.exp() * scale)).to(dtype);
  const std::vector<Tensor> ends =
      (k.to(at::kFloat) * (last - steps).exp()).to(dtype).transpose(-1, -2).unbind(2);
  const std::vector<Tensor> decays = last.exp().unbind(2);
  std::vector<Tensor> states, updates;
  Tensor state = at::zeros({q.size(0), q.size(1), q.size(4), v.size(4)}, U[0].options());
  for (size_t n = 0; n < U.size(); ++n) {
    states.push_back(state);
    updates.push_back((U[n] - at::matmul(W[n], state.to(dtype)).to(at::kFloat)).to(dtype));
    state = state * decays[n] + at::matmul(ends[n], updates[n]).to(at::kFloat);
  }
  return join(at::matmul(queries, at::stack(states, 2).to(dtype)) +
              at::matmul(scores, at::stack(updates, 2)));
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

}  // namespace delta_bench_detail

Kind delta_kind() {
  using namespace delta_bench_detail;
  return {"delta2", contender<ours>, contender<composed>};
}

}  // namespace strata::bench
