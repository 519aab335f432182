// A language model that Strata does not know: attention and a squared-ReLU MLP side by side in one
// block, RMSNorm before them, rotary positions. docs/own-model.md explains it piece by piece.
#include <ATen/TensorOperators.h>
#include <ATen/ops/relu.h>

#include <cmath>

#include "core/config/visitor.h"
#include "core/ops/linear.h"
#include "core/ops/rope.h"
#include "core/text.h"
#include "launch/cli.h"
#include "parallel/nn/embedding.h"
#include "parallel/nn/head.h"

namespace own_model {

using namespace strata;

// The keys of [model] in a run file.
struct Config {
  int64_t vocab_size = 256, hidden_size = 128, intermediate_size = 512;
  int64_t num_hidden_layers = 4, num_attention_heads = 4, max_position_embeddings = 1024;
  double initializer_range = 0.02;

  int64_t head_width() const { return hidden_size / num_attention_heads; }
  void visit(ConfigVisitor& v) {
    v.field("vocab_size", vocab_size, at_least(1), "tokens of the vocabulary");
    v.field("hidden_size", hidden_size, at_least(1), "width of the residual stream");
    v.field("intermediate_size", intermediate_size, at_least(1), "width inside the MLP");
    v.field("num_hidden_layers", num_hidden_layers, at_least(0), "number of blocks");
    v.field("num_attention_heads", num_attention_heads, at_least(1), "heads");
    v.field("max_position_embeddings", max_position_embeddings, at_least(1), "longest context");
    v.field("initializer_range", initializer_range, non_negative(), "deviation of initial weights");
    if (hidden_size % (2 * num_attention_heads) != 0)
      v.problem("num_attention_heads", cat(num_attention_heads), "heads of an even width");
  }
};

// B batch, T time, D width, H heads, K head width, F inner width
class Mixer final : public Region {
 public:
  Mixer(const Config& c, const ParallelLayout& layout) : Region(layout), c_(c) {
    const int64_t D = c.hidden_size, F = c.intermediate_size, K = c.head_width();
    const double std = c.initializer_range;
    q_ = linear("q_proj", D, D, automatic(K), {.init_std = std});
    k_ = linear("k_proj", D, D, automatic(K), {.init_std = std});
    v_ = linear("v_proj", D, D, automatic(K), {.init_std = std});
    o_ = linear("o_proj", D, D, automatic(), {.init_std = std});
    up_ = linear("up_proj", D, F, automatic(), {.init_std = std, .role = LinearRole::Entry});
    down_ = linear("down_proj", F, D, automatic(), {.init_std = std});
  }

  Tensor forward(const Tensor& x_BTD, const Batch& batch) override {
    const int64_t K = c_.head_width();
    const auto table = ops::rope_table(1e4, K, c_.max_position_embeddings, {}, batch.length());
    auto q_BTHK = ops::rope(ops::split_heads(q_(x_BTD), K), batch.positions, table);
    auto k_BTHK = ops::rope(ops::split_heads(k_(x_BTD), K), batch.positions, table);
    auto v_BTHK = ops::split_heads(v_(x_BTD), K);
    auto o_BTHK = ops::causal_attention(q_BTHK, k_BTHK, v_BTHK, batch.segments,
                                        1 / std::sqrt(static_cast<double>(K)));
    auto h_BTF = at::relu(up_(x_BTD));
    return o_(ops::merge_heads(o_BTHK)) + down_(h_BTF * h_BTF);
  }

 private:
  Config c_;
  Linear q_, k_, v_, o_, up_, down_;
};

class Block final : public Layer {
 public:
  Block(const Config& c, const ParallelLayout& layout) : Layer(layout) {
    norm_ = rms_norm("norm", c.hidden_size, 1e-5);
    mixer_ = add<Mixer>("mixer", c, layout);
  }
  Tensor forward(const Tensor& x_BTD, const Batch& batch) override {
    return x_BTD + (*mixer_)(norm_(x_BTD), batch);
  }

 private:
  RmsNorm norm_;
  std::shared_ptr<Mixer> mixer_;
};

class Spec final : public ModelSpec {
 public:
  Spec(const Config& config, const ModelOptions& options) : c_(config), options_(options) {}

  std::string family() const override { return "own"; }
  int layer_count() const override { return static_cast<int>(c_.num_hidden_layers) + 2; }
  std::string layer_name(int layer) const override {
    return is_head(layer) ? "head" : layer == 0 ? "embedding" : cat("blocks.", layer - 1);
  }
  std::string cost_class(int layer) const override {
    return is_head(layer) ? "head" : layer == 0 ? "embedding" : "block";
  }
  std::shared_ptr<Layer> make_layer(int layer, const ParallelLayout& layout) const override {
    const int64_t V = c_.vocab_size, D = c_.hidden_size;
    if (layer == 0)
      return std::make_shared<EmbeddingLayer>(
          V, D, EmbeddingOptions{.init_std = c_.initializer_range}, layout);
    if (!is_head(layer)) return std::make_shared<Block>(c_, layout);
    HeadOptions head{.norm_name = "norm", .weight_name = "weight"};
    head.init_std = c_.initializer_range;
    head.loss = options_.loss;
    head.chunk_tokens = options_.head_chunk_tokens;
    return std::make_shared<HeadLayer>(D, V, head, layout);
  }
  Shape boundary(int, int64_t rows, int64_t time) const override {
    return {rows, time, c_.hidden_size};
  }
  double flops_per_token(int layer, int64_t time) const override {
    const double D = c_.hidden_size, F = c_.intermediate_size, V = c_.vocab_size;
    if (layer == 0) return 0;
    return is_head(layer) ? 2 * D * V : 8 * D * D + 4 * D * F + 4 * D * time;
  }
  int64_t vocabulary() const override { return c_.vocab_size; }
  int64_t max_positions() const override { return c_.max_position_embeddings; }
  std::string foreign_config() const override { return "{\"model_type\": \"own\"}\n"; }

 private:
  bool is_head(int layer) const { return layer == layer_count() - 1; }
  Config c_;
  ModelOptions options_;
};

void add_families(ModelRegistry& registry, const ModelOptions& options) {
  registry.add("own", [options](ConfigVisitor& v) {
    Config config;
    config.visit(v);
    return std::make_unique<Spec>(config, options);
  });
}

}  // namespace own_model

int main(int argc, char** argv) { return strata::run_cli(argc, argv, own_model::add_families); }
