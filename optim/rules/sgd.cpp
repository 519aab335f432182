#include "optim/rules/sgd.h"

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
  bool accepts(const ParamMeta&) const override { return true; }
  Needs needs(const ParamMeta&) const override { return Needs::Slice; }
  double weight_decay() const override { return c_.weight_decay; }
  std::vector<StateSlot> state_slots(const ParamMeta&, const Shape& shape,
                                     at::ScalarType dtype) const override {
    if (c_.momentum == 0) return {};
    return {{"momentum", shape, dtype}};
  }
  bool update(const ParamMeta&, const Tensor&, const Tensor& grad, std::span<Tensor> state,
              const StepInfo&, Tensor& delta) const override {
    if (c_.momentum == 0) {
      delta.copy_(grad);
      return true;
    }
    Tensor& m = state[0];
    m.mul_(c_.momentum).add_(grad);
    delta.copy_(m);
    if (c_.nesterov) delta.mul_(c_.momentum).add_(grad);
    return true;
  }

 private:
  SgdConfig c_;
};

}  // namespace sgd_detail

std::unique_ptr<UpdateRule> make_sgd(const SgdConfig& config) {
  return std::make_unique<sgd_detail::Sgd>(config);
}

}  // namespace strata
