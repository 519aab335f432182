#include "optim/rules/muon.h"

#include <ATen/TensorOperators.h>

#include <algorithm>
#include <cmath>

#include "core/config/visitor.h"
#include "core/error.h"
#include "optim/matrix/newton_schulz.h"

namespace strata {

void MuonConfig::visit(ConfigVisitor& v) {
  v.field("momentum", momentum, fraction_below_one(), "decay of the averaged gradient");
  v.field("nesterov", nesterov, "look ahead by one gradient");
  std::vector<std::string> sets = newton_schulz_sets();
  v.field("coefficients", coefficients, one_of(sets),
          "polynomials of the orthogonalisation: keller5 (the original), pe5 and pe8 (Polar "
          "Express), quintic5, cans5, exact12, cubic5");
  v.field("ns_steps", ns_steps, between(0, 64), "their number; 0: as many as the set has");
  v.field("eps", eps, positive(), "that of the set", "added to the norm before orthogonalisation");
  v.field("eps_mode", eps_mode, one_of({"add", "clamp"}),
          "add eps to the norm, or take the larger of both");
  v.field("scale", scale, one_of({"match_rms", "original", "none"}),
          "size of an update of p x q: 0.2 sqrt(max(p, q)), sqrt(max(1, p / q)), or 1");
  v.field("ns_dtype", ns_dtype, one_of({"auto", "fp32", "bf16", "fp16"}),
          "type of the orthogonalisation; auto: that of the masters on CPUs, fp16 on GPUs");
  v.field("weight_decay", weight_decay, non_negative(),
          "decoupled weight decay, by the learning rate without the scale");
}

namespace muon_detail {

class Muon final : public UpdateRule {
 public:
  Muon(const MuonConfig& config, const NewtonSchulz& how) : c_(config), how_(how) {}
  std::string name() const override { return "muon"; }
  Needs needs() const override { return Needs::Matrix; }
  double weight_decay() const override { return c_.weight_decay; }
  std::vector<StateSlot> state_slots(const Shape& shape, at::ScalarType dtype) const override {
    return {{"momentum", shape, dtype}};
  }
  double cost(int64_t rows, int64_t cols) const override {
    const double m = static_cast<double>(std::min(rows, cols)),
                 n = static_cast<double>(std::max(rows, cols));
    return static_cast<double>(how_.steps.size()) * (4 * m * m * n + 2 * m * m * m);
  }
  void update(std::span<Piece> pieces, int64_t) const override {
    for (Piece& piece : pieces) update_one(piece);
  }

 private:
  void update_one(Piece& piece) const {
    STRATA_CHECK(piece.weights.dim() == 2, "muon updates matrices");
    Tensor& m = piece.state[0];
    m.mul_(c_.momentum).add_(piece.grad, (1 - c_.momentum) * piece.grad_scale);
    Tensor u = m;
    if (c_.nesterov) u = (m * c_.momentum).add_(piece.grad, (1 - c_.momentum) * piece.grad_scale);
    const at::ScalarType type = ns_type(u);
    Tensor direction;
    if (type == u.scalar_type()) {
      direction = newton_schulz(u, how_);
    } else {
      // Normalised before it is rounded, so that 16 bits cannot overflow.
      const double norm = std::sqrt(u.to(at::kDouble).square().sum().item<double>());
      const Tensor unit = norm > 0 ? u / norm : u;
      direction = newton_schulz(unit.to(type), how_).to(u.scalar_type());
    }
    apply_direction(piece, direction.mul_(scale(piece.weights.size(0), piece.weights.size(1))));
  }

  double scale(int64_t rows, int64_t cols) const {
    const double p = static_cast<double>(rows), q = static_cast<double>(cols);
    if (c_.scale == "match_rms") return 0.2 * std::sqrt(std::max(p, q));
    return c_.scale == "original" ? std::sqrt(std::max(1.0, p / q)) : 1.0;
  }

  at::ScalarType ns_type(const Tensor& u) const {
    if (u.scalar_type() == at::kDouble) return at::kDouble;
    if (c_.ns_dtype == "bf16") return at::kBFloat16;
    if (c_.ns_dtype == "fp16" || (c_.ns_dtype == "auto" && u.is_cuda())) return at::kHalf;
    return u.scalar_type();
  }

  MuonConfig c_;
  NewtonSchulz how_;
};

}  // namespace muon_detail

std::unique_ptr<UpdateRule> make_muon(const MuonConfig& config) {
  NewtonSchulz how = newton_schulz_set(config.coefficients, static_cast<int>(config.ns_steps));
  if (config.eps) how.eps = *config.eps;
  how.clamp = config.eps_mode == "clamp";
  return make_muon(config, how);
}

std::unique_ptr<UpdateRule> make_muon(const MuonConfig& config, const NewtonSchulz& how) {
  return std::make_unique<muon_detail::Muon>(config, how);
}

}  // namespace strata
