#pragma once
// The mathematics of one parameter's update. A rule knows matrices, never ranks: the
// DistributedOptimizer gives it the slice or the whole logical matrix it asked for.
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/registry.h"
#include "core/tensor.h"
#include "parallel/nn/parameter.h"

namespace strata {

class ConfigVisitor;

struct StepInfo {
  int64_t step = 0;  // number of updates applied before this one
  double lr = 0;     // schedule value at this step, without the parameter's lr_scale
  double decay = 1;  // factor of the rule's weight decay
};

struct StateSlot {
  std::string name;  // "m", "v", "momentum": path /optim/<parameter>/<name>
  Shape shape;
  at::ScalarType dtype;
};

class UpdateRule {
 public:
  enum class Needs { Slice, Matrix };  // any flat piece of a tensor; or the whole logical matrix
  virtual ~UpdateRule() = default;
  virtual std::string name() const = 0;
  virtual bool accepts(const ParamMeta& meta) const = 0;
  virtual Needs needs(const ParamMeta& meta) const = 0;
  // State of a piece of `shape` whose masters have type `dtype`; zero initialised.
  virtual std::vector<StateSlot> state_slots(const ParamMeta& meta, const Shape& shape,
                                             at::ScalarType dtype) const = 0;
  // Fills `delta` (shape and dtype of param) with the direction, without learning rate and decay;
  // false: no update this step. param and grad in the accumulate dtype, the gradient already scaled
  // and clipped.
  virtual bool update(const ParamMeta& meta, const Tensor& param, const Tensor& grad,
                      std::span<Tensor> state, const StepInfo& info, Tensor& delta) const = 0;
  // Weight decay coefficient; W -= lr * decay * W before the update (decoupled).
  virtual double weight_decay() const = 0;
  // Relative cost of one update, for balancing owners.
  virtual double cost(const ParamMeta& meta, const Shape& shape) const;
};

using RuleRegistry = Registry<UpdateRule, ConfigVisitor&>;
// Rules that exist, by optim.name. The visitor reads the rule's keys in the current section
// ([optim]).
RuleRegistry rule_registry();

}  // namespace strata
