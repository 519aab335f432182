#pragma once
#include "optim/update_rule.h"

namespace strata {

// Gradient descent with momentum, torch's form: m <- momentum m + g (m = g at the first update), W
// <- W - lr m. No epsilon and no normalisation, so a wrong gradient shows in the weights: the
// oracle of the layout tests.
struct SgdConfig {
  double momentum = 0.9;
  bool nesterov = false;
  double weight_decay = 0.0;
  void visit(ConfigVisitor& v);
};
std::unique_ptr<UpdateRule> make_sgd(const SgdConfig& config);

}  // namespace strata
