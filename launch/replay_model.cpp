#include "launch/replay_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "core/error.h"
#include "core/text.h"
#include "parallel/engine/weight_source.h"

namespace strata {
namespace replay_model_detail {

using Parameters = std::vector<ReplayParameter>;

ShardSpec shard_of(const Tensor& start, size_t index, int tp) {
  if (tp == 1 || start.dim() != 2) return replicated();
  const bool rows = start.size(0) % tp == 0, cols = start.size(1) % tp == 0;
  if (rows && (index % 2 == 0 || !cols)) return split_out();
  return cols ? split_in() : replicated();
}

// <W, G of the step>, this rank's part of it.
class Product final : public Region {
 public:
  Product(const ReplayParameter& p, size_t index, const ParallelLayout& layout)
      : Region(layout),
        shard_(shard_of(p.start, index, layout.tp_size())),
        gradients_(p.gradients),
        tp_index_(layout.tp_index()),
        tp_size_(layout.tp_size()) {
    weight_ =
        param(p.name, p.start.sizes().vec(), shard_, Init::zeros(), {.kind = ParamKind::Matrix});
  }
  Tensor forward(const Tensor& x_BTC, const Batch& batch) override { return product(x_BTC, batch); }
  Tensor product(const Tensor& x_BTC, const Batch& batch) const {
    const Tensor g = take_part(gradients_[batch.step], shard_, tp_index_, tp_size_);
    const Tensor sum = (weight_ * g.to(weight_.device(), weight_.scalar_type())).sum();
    return sum.expand({x_BTC.size(0), x_BTC.size(1), 1});
  }

 private:
  ShardSpec shard_;
  Tensor weight_, gradients_;
  int tp_index_, tp_size_;
};

// The same outside a region, where every tp rank has all of the parameter.
class WholeProduct final : public Module {
 public:
  WholeProduct(const ReplayParameter& p, const ParallelLayout& layout)
      : Module(layout), gradients_(p.gradients) {
    weight_ = param(p.name, p.start.sizes().vec(), replicated(), Init::zeros(),
                    {.kind = p.start.dim() < 2 ? ParamKind::Vector : ParamKind::Matrix,
                     .view = p.start.dim() == 3 ? MatrixView::Batch : MatrixView::Whole});
  }
  Tensor product(const Tensor& x_BTC, const Batch& batch) const {
    const Tensor g = gradients_[batch.step].to(weight_.device(), weight_.scalar_type());
    return (weight_ * g).sum().expand({x_BTC.size(0), x_BTC.size(1), 1});
  }

 private:
  Tensor weight_, gradients_;
};

class ReplayLayer final : public Layer {
 public:
  ReplayLayer(const ReplayParameter* p, size_t index, bool first, bool last,
              const ParallelLayout& layout)
      : Layer(layout), dtype_(layout.dtype()), first_(first), last_(last) {
    if (p == nullptr) return;
    if (shard_of(p->start, index, layout.tp_size()).cut()) {
      cut_ = add<Product>("", *p, index, layout);
    } else {
      whole_ = add<WholeProduct>("", *p, layout);
    }
  }
  Tensor forward(const Tensor& x, const Batch& batch) override {
    Tensor y = first_ ? at::zeros({batch.rows(), batch.length(), 1},
                                  at::TensorOptions().dtype(dtype_).device(batch.tokens.device()))
                      : x;
    if (cut_) y = y + (*cut_)(y, batch);
    if (whole_) y = y + whole_->product(y, batch);
    if (!last_) return y;
    const Tensor sum = y.to(accumulate_dtype(dtype_)).sum();
    return at::stack({sum, at::zeros_like(sum)});
  }

 private:
  at::ScalarType dtype_;
  bool first_, last_;
  std::shared_ptr<Product> cut_;
  std::shared_ptr<WholeProduct> whole_;
};

class ReplaySpec final : public ModelSpec {
 public:
  explicit ReplaySpec(Parameters parameters) : parameters_(std::move(parameters)) {
    STRATA_CHECK(!parameters_.empty(), "a replay without parameters");
  }
  std::string family() const override { return "replay"; }
  int layer_count() const override { return std::max(3, static_cast<int>(parameters_.size())); }
  std::string layer_name(int layer) const override { return cat("layer ", layer); }
  std::string parameter_prefix(int) const override { return ""; }
  std::string cost_class(int layer) const override { return cat(layer); }
  std::shared_ptr<Layer> make_layer(int layer, const ParallelLayout& layout) const override {
    const auto i = static_cast<size_t>(layer);
    return std::make_shared<ReplayLayer>(i < parameters_.size() ? &parameters_[i] : nullptr, i,
                                         layer == 0, layer == layer_count() - 1, layout);
  }
  Shape boundary(int, int64_t rows, int64_t time) const override { return {rows, time, 1}; }
  double flops_per_token(int, int64_t) const override { return 1; }
  int64_t vocabulary() const override { return 1; }
  std::string foreign_config() const override { return "{}"; }

 private:
  Parameters parameters_;
};

class ReplayWeights final : public WeightSource {
 public:
  explicit ReplayWeights(const Parameters& parameters) {
    for (const ReplayParameter& p : parameters) start_[p.name] = p.start;
  }
  Tensor read(const Parameter& parameter, const Box& box, at::ScalarType dtype) const override {
    return box_view(start_.at(parameter.meta.name), box).to(dtype).contiguous();
  }
  std::string description() const override { return "the start of recorded updates"; }

 private:
  std::map<std::string, Tensor> start_;
};

}  // namespace replay_model_detail

std::shared_ptr<const ModelSpec> make_replay_model(std::vector<ReplayParameter> parameters) {
  return std::make_shared<replay_model_detail::ReplaySpec>(std::move(parameters));
}

std::unique_ptr<WeightSource> make_replay_weights(const std::vector<ReplayParameter>& parameters) {
  return std::make_unique<replay_model_detail::ReplayWeights>(parameters);
}

}  // namespace strata
