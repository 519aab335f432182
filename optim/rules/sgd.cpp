#include "optim/rules/sgd.h"

#include <ATen/TensorOperators.h>

#include "core/config/visitor.h"

namespace strata {

void SgdConfig::visit(ConfigVisitor& v) {
  v.field("momentum", momentum, fraction_below_one(), "momentum; 0: plain gradient descent");
  v.field("nesterov", nesterov, "look-ahead momentum");
  v.field("weight_decay", weight_decay, non_negative(), "decoupled weight decay");
}

namespace sgd_detail {

class Sgd final : public UpdateRule {
 public:
  explicit Sgd(const SgdConfig& config) : c_(config) {}
  std::string name() const override { return "sgd"; }
  Needs needs() const override { return Needs::Slice; }
  double weight_decay() const override { return c_.weight_decay; }
  std::vector<StateSlot> state_slots(const Shape& shape, at::ScalarType dtype) const override {
    if (c_.momentum == 0) return {};
    return {{"momentum", shape, dtype}};
  }
  void update(std::span<Piece> pieces, int64_t) const override {
    for (Piece& piece : pieces) {
      Tensor direction = piece.grad * piece.grad_scale;
      if (c_.momentum != 0) {
        Tensor& m = piece.state[0];
        m.mul_(c_.momentum).add_(direction);
        direction = c_.nesterov ? direction.add(m, c_.momentum) : m;
      }
      apply_direction(piece, direction);
    }
  }

 private:
  SgdConfig c_;
};

}  // namespace sgd_detail

std::unique_ptr<UpdateRule> make_sgd(const SgdConfig& config) {
  return std::make_unique<sgd_detail::Sgd>(config);
}

}  // namespace strata
