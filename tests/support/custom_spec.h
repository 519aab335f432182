#pragma once
// A tiny Llama whose blocks are replaced: for tests of modules and of users' own blocks.
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "tests/support/tiny_models.h"

namespace strata::testing {

class CustomSpec final : public ModelSpec {
 public:
  using MakeBlock = std::function<std::shared_ptr<Layer>(const ParallelLayout&)>;
  // Width of the residual stream: 32.
  explicit CustomSpec(MakeBlock make_block)
      : llama_(make_tiny(tiny_models()[1])), make_block_(std::move(make_block)) {}

  std::string family() const override { return "custom"; }
  int layer_count() const override { return llama_->layer_count(); }
  std::string layer_name(int layer) const override { return llama_->layer_name(layer); }
  std::string parameter_prefix(int layer) const override { return llama_->parameter_prefix(layer); }
  std::string cost_class(int layer) const override { return llama_->cost_class(layer); }
  std::shared_ptr<Layer> make_layer(int layer, const ParallelLayout& layout) const override {
    if (layer == 0 || layer == layer_count() - 1) return llama_->make_layer(layer, layout);
    return make_block_(layout);
  }
  Shape boundary(int layer, int64_t rows, int64_t time) const override {
    return llama_->boundary(layer, rows, time);
  }
  double flops_per_token(int layer, int64_t time) const override {
    return llama_->flops_per_token(layer, time);
  }
  int64_t vocabulary() const override { return llama_->vocabulary(); }
  std::string foreign_config() const override { return llama_->foreign_config(); }

 private:
  std::shared_ptr<const ModelSpec> llama_;
  MakeBlock make_block_;
};

}  // namespace strata::testing
