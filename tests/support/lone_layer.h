#pragma once
// One layer (or region) without an engine: its parameters hold their initial values, its gradients
// are completed as an engine completes them. For comparing layouts module by module.
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "parallel/comm/pool.h"
#include "parallel/nn/module.h"

namespace strata::testing {

struct LoneResult {
  Tensor y;   // detached
  Tensor dx;  // undefined without x
  std::map<std::string, Tensor>
      gradients;  // this rank's parts, summed over tp where they are partial
};

class LoneLayer {
 public:
  using Make = std::function<std::shared_ptr<Layer>(const ParallelLayout&)>;
  // pool: its job is the tp group (replicas of cut weights: groups created here, so construction is
  // collective); nullptr: one process.
  LoneLayer(const Make& make, const std::string& prefix, LayerStrategy strategy, CommPool* pool,
            at::ScalarType dtype = at::kDouble);

  Layer& layer() { return *layer_; }
  const std::vector<Parameter*>& parameters() const { return parameters_; }
  Tensor forward(const Tensor& x, const Batch& batch);  // a region with its collectives
  LoneResult run(const Tensor& x, const Batch& batch, const Tensor& dy);
  // This rank's tokens of [B, T, ...] outside regions.
  Tensor own_tokens(const Tensor& whole) const;

 private:
  ParallelLayout layout_;
  std::shared_ptr<Layer> layer_;
  std::vector<Parameter*> parameters_;
};

// Standard normal values of a shape, the same on every rank.
Tensor normal_values(const Shape& shape, uint64_t seed, at::ScalarType dtype = at::kDouble);

// y, dx and every gradient of `parallel` are this rank's part of those of `serial`.
void expect_part_of(const LoneLayer& layer, const LoneResult& parallel, const LoneResult& serial,
                    double limit, const std::string& what);

}  // namespace strata::testing
