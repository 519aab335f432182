// Blocks without a single declared cut compute at every dp x tp what one process computes: each
// gradient of the first step to 1e-12 and the weights after ten steps to 1e-11, in fp64.
#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/sigmoid.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "core/error.h"
#include "core/ops/activation.h"
#include "core/ops/attention.h"
#include "core/ops/linear.h"
#include "core/text.h"
#include "tests/support/custom_spec.h"
#include "tests/support/lone_layer.h"
#include "tests/support/mpi_main.h"
#include "tests/support/run_model.h"

namespace strata::testing {
namespace auto_split_detail {

constexpr int64_t kWidth = 32;
const LinearOptions kPlain{.init_std = 0.2};
const LinearOptions kBias{.bias = true, .init_std = 0.2, .bias_init = Init::normal(0.2)};

// B batch, T time, D width, H heads here, K head width
class Attention final : public Region {
 public:
  Attention(int64_t heads, int64_t kv_heads, int64_t head_width, const ParallelLayout& layout)
      : Region(layout), heads_(heads), K_(head_width) {
    q_ = linear("q", kWidth, heads * K_, automatic(K_), kBias);
    k_ = linear("k", kWidth, kv_heads * K_, automatic(K_), kPlain);
    v_ = linear("v", kWidth, kv_heads * K_, automatic(K_), kBias);
    norm_ = rms_norm("head_norm", K_, 1e-5);
    o_ = linear("o", heads * K_, kWidth, automatic(), kBias);
  }
  Tensor forward(const Tensor& x_BTD, const Batch& batch) override {
    auto q_BTHK = norm_(ops::split_heads(q_(x_BTD), K_));
    auto k_BTGK = ops::split_heads(k_(x_BTD), K_), v_BTGK = ops::split_heads(v_(x_BTD), K_);
    return o_(ops::merge_heads(
        ops::causal_attention(q_BTHK, k_BTGK, v_BTGK, batch.segments, 1.0 / std::sqrt(double(K_)),
                              attention_dropout(0.1, q_BTHK.size(2), heads_, batch))));
  }

 private:
  int64_t heads_, K_;
  Linear q_, k_, v_, o_;
  RmsNorm norm_;
};

class GatedMlp final : public Region {
 public:
  GatedMlp(int64_t inner, const ParallelLayout& layout) : Region(layout) {
    gate_ = linear("gate", kWidth, inner, automatic(), kBias);
    up_ = linear("up", kWidth, inner, automatic(), kPlain);
    down_ = linear("down", inner, kWidth, automatic(), kBias);
  }
  Tensor forward(const Tensor& x, const Batch&) override {
    return down_(ops::swiglu(gate_(x), up_(x)));
  }

 private:
  Linear gate_, up_, down_;
};

// Linears one after the other with relu between.
class Chain final : public Region {
 public:
  Chain(const std::vector<int64_t>& widths, const ParallelLayout& layout) : Region(layout) {
    for (size_t i = 0; i + 1 < widths.size(); ++i)
      linears_.push_back(linear(cat("fc", i), widths[i], widths[i + 1], automatic(), kBias));
  }
  Tensor forward(const Tensor& x, const Batch&) override {
    Tensor y = linears_[0](x);
    for (size_t i = 1; i < linears_.size(); ++i) y = linears_[i](at::relu(y));
    return y;
  }

 private:
  std::vector<Linear> linears_;
};

// Attention and MLP beside each other, with one entry and one exit; heads with a low-rank gate.
class Parallel final : public Region {
 public:
  explicit Parallel(const ParallelLayout& layout) : Region(layout) {
    value_ = linear("value", kWidth, kWidth, automatic(kHead), kPlain);
    gate_down_ = linear("gate.0", kWidth, 3, automatic(), kPlain);
    gate_up_ = linear("gate.1", 3, kWidth, automatic(kHead), kBias);
    way_out_ = linear(
        "out", kWidth, kWidth, automatic(),
        {.bias = true, .init_std = 0.2, .bias_init = Init::normal(0.2), .role = LinearRole::Inner});
    up_ = linear("up", kWidth, 48, automatic(), {.init_std = 0.2, .role = LinearRole::Entry});
    down_ = linear("down", 48, kWidth, automatic(), kBias);
  }
  Tensor forward(const Tensor& x, const Batch&) override {
    const Tensor heads = value_(x) * at::sigmoid(gate_up_(gate_down_(x)));
    return way_out_(heads) + down_(at::relu(up_(x)));
  }

 private:
  static constexpr int64_t kHead = 8;
  Linear value_, gate_down_, gate_up_, way_out_, up_, down_;
};

class Block final : public Layer {
 public:
  explicit Block(const ParallelLayout& layout) : Layer(layout) {}
  template <class R, class... Args>
  void append(Args&&... args) {
    const std::string name = cat("part", parts_.size());
    norms_.push_back(rms_norm(name + "_norm", kWidth, 1e-5));
    parts_.push_back(add<R>(name, std::forward<Args>(args)..., layout()));
  }
  Tensor forward(const Tensor& x_BTD, const Batch& batch) override {
    Tensor x = x_BTD;
    for (size_t i = 0; i < parts_.size(); ++i) x = x + (*parts_[i])(norms_[i](x), batch);
    return x;
  }

 private:
  std::vector<RmsNorm> norms_;
  std::vector<std::shared_ptr<Region>> parts_;
};

std::shared_ptr<const ModelSpec> spec_of(std::function<void(Block&)> fill) {
  return std::make_shared<CustomSpec>([fill](const ParallelLayout& layout) {
    auto block = std::make_shared<Block>(layout);
    fill(*block);
    return block;
  });
}

// cut: names within the first block of the parameters that must be cut at this tp.
void expect_serial(const std::shared_ptr<const ModelSpec>& spec, RunSetup setup,
                   const std::set<std::string>& cut) {
  const std::string what = cat("tp ", setup.strategy.tp);
  ModelRun serial(spec, setup.serial(), make_self_communicator());
  ModelRun parallel(spec, setup, make_mpi_communicator());
  std::set<std::string> found;
  const std::string prefix = "model.layers.0.";
  for (Parameter* p : parallel.manager().parameters()) {
    if (starts_with(p->meta.name, prefix) && p->meta.shard.cut())
      found.insert(p->meta.name.substr(prefix.size()));
  }
  EXPECT_EQ(found, cut) << what;

  const auto compare = [&](const std::map<std::string, Tensor>& whole,
                           const std::map<std::string, Tensor>& here, double limit,
                           const std::string& kind) {
    for (const auto& [name, part] : here) {
      const Tensor& all = whole.at(name);
      EXPECT_LE(relative_error(part, all, all), limit) << what << " " << kind << " " << name;
      EXPECT_GT(all.norm().item<double>(), 0) << what << " " << kind << " " << name;
    }
    EXPECT_EQ(here.size(), parallel.first() ? whole.size() : 0) << what << " " << kind;
  };
  compare(serial.weights(), parallel.weights(), 0, "initial");
  const StepReport a = serial.step(0, 0.01), b = parallel.step(0, 0.01);
  EXPECT_LE(std::abs(a.loss - b.loss), 1e-12 * std::abs(a.loss)) << what;
  EXPECT_LE(std::abs(a.grad_norm - b.grad_norm), 1e-12 * a.grad_norm) << what;
  compare(serial.gradients(), parallel.gradients(), 1e-12, "gradient");
  for (int64_t step = 1; step < 10; ++step) {
    serial.step(step, 0.01);
    parallel.step(step, 0.01);
  }
  compare(serial.weights(), parallel.weights(), 1e-11, "weights");
}

using Cut = std::set<std::string>;

// At every tp of the job; expected(tp) for tp > 1.
void expect_at_all_degrees(std::function<void(Block&)> fill, std::function<Cut(int)> expected) {
  for (int tp = 1; tp <= test::world_size(); tp *= 2) {
    RunSetup setup;
    setup.strategy.tp = tp;
    setup.strategy.recompute = tp == test::world_size() ? Recompute::Full : Recompute::None;
    expect_serial(spec_of(fill), setup, tp == 1 ? Cut() : expected(tp));
  }
}

}  // namespace auto_split_detail

using namespace auto_split_detail;

TEST(AutoSplitRun, AttentionAndGatedMlp) {
  expect_at_all_degrees(
      [](Block& block) {
        block.append<Attention>(8, 4, 6);
        block.append<GatedMlp>(24);
      },
      [](int) {
        return Cut{"part0.q.weight",  "part0.q.bias",     "part0.k.weight",    "part0.v.weight",
                   "part0.v.bias",    "part0.o.weight",   "part1.gate.weight", "part1.gate.bias",
                   "part1.up.weight", "part1.down.weight"};
      });
}

// Six heads on four ranks: the attention is the same work on all of them and counted once.
TEST(AutoSplitRun, HeadsThatDoNotDivide) {
  expect_at_all_degrees(
      [](Block& block) {
        block.append<Attention>(6, 2, 4);
        block.append<GatedMlp>(24);
      },
      [](int tp) {
        Cut cut{"part1.gate.weight", "part1.gate.bias", "part1.up.weight", "part1.down.weight"};
        if (tp == 2) {
          cut.insert({"part0.q.weight", "part0.q.bias", "part0.k.weight", "part0.v.weight",
                      "part0.v.bias", "part0.o.weight"});
        }
        return cut;
      });
}

TEST(AutoSplitRun, NothingDivides) {
  expect_at_all_degrees([](Block& block) { block.append<Attention>(3, 3, 4); },
                        [](int) { return Cut(); });
}

TEST(AutoSplitRun, ChainsOfLinears) {
  expect_at_all_degrees(
      [](Block& block) {
        block.append<Chain>(std::vector<int64_t>{kWidth, kWidth, kWidth});
        block.append<Chain>(std::vector<int64_t>{kWidth, 40, 24, kWidth});      // a whole tail
        block.append<Chain>(std::vector<int64_t>{kWidth, 40, 24, 16, kWidth});  // two pairs
        block.append<Chain>(std::vector<int64_t>{kWidth, kWidth});              // by its input
        block.append<Chain>(std::vector<int64_t>{kWidth, 21, kWidth});          // 21 never divides
      },
      [](int) {
        return Cut{"part0.fc0.weight", "part0.fc0.bias",   "part0.fc1.weight", "part1.fc0.weight",
                   "part1.fc0.bias",   "part1.fc1.weight", "part2.fc0.weight", "part2.fc0.bias",
                   "part2.fc1.weight", "part2.fc2.weight", "part2.fc2.bias",   "part2.fc3.weight",
                   "part3.fc0.weight", "part4.fc0.weight"};
      });
}

TEST(AutoSplitRun, ParallelBranchesWithALowRankGate) {
  expect_at_all_degrees([](Block& block) { block.append<Parallel>(); },
                        [](int) {
                          return Cut{"part0.value.weight", "part0.gate.1.weight",
                                     "part0.gate.1.bias",  "part0.out.weight",
                                     "part0.up.weight",    "part0.down.weight"};
                        });
}

template <class R, class... Args>
LoneLayer::Make maker(const Args&... args) {
  return [args...](const ParallelLayout& layout) { return std::make_shared<R>(args..., layout); };
}

// Tokens are cut over the ranks between regions; a region sees all of them.
template <class R, class... Args>
void expect_sequence_parallel(const std::string& what, const Args&... args) {
  CommPool pool(make_mpi_communicator());
  LoneLayer serial(maker<R>(args...), "region.", {}, nullptr);
  LoneLayer parallel(maker<R>(args...), "region.",
                     {.tp = pool.job().size(), .sequence_parallel = true}, &pool);
  const Tensor x = normal_values({2, 8, kWidth}, 3), dy = normal_values({2, 8, kWidth}, 4);
  const Batch batch;
  const LoneResult here = parallel.run(parallel.own_tokens(x), batch, parallel.own_tokens(dy));
  expect_part_of(parallel, here, serial.run(x, batch, dy), 1e-12, what);
}

TEST(AutoSplitRun, RegionsBetweenCutTokens) {
  expect_sequence_parallel<Attention>("cut heads", int64_t{8}, int64_t{4}, int64_t{6});
  expect_sequence_parallel<Attention>("every rank", int64_t{3}, int64_t{3}, int64_t{4});
  expect_sequence_parallel<GatedMlp>("gated", int64_t{24});
  expect_sequence_parallel<Chain>("tail", std::vector<int64_t>{kWidth, 40, 24, kWidth});
  expect_sequence_parallel<Chain>("pairs", std::vector<int64_t>{kWidth, 40, 24, 16, kWidth});
  expect_sequence_parallel<Parallel>("branches");
}

// Square and gated, with nothing said: taken for up and down, but the second reads the input.
class Unsaid final : public Region {
 public:
  explicit Unsaid(const ParallelLayout& layout) : Region(layout) {
    a_ = linear("a", kWidth, kWidth);
    b_ = linear("b", kWidth, kWidth);
  }
  Tensor forward(const Tensor& x, const Batch&) override { return a_(x) * b_(x); }

 private:
  Linear a_, b_;
};

TEST(AutoSplitRun, AWrongReadingIsAnErrorAndNoNumber) {
  CommPool pool(make_mpi_communicator());
  const int tp = pool.job().size();
  LoneLayer alone(maker<Unsaid>(), "region.", {.tp = tp}, &pool);
  const Tensor x = at::ones({1, 2, kWidth}, at::kDouble);
  if (tp == 1) {
    alone.forward(x, {});
    return;
  }
  try {
    alone.forward(x, {});
    ADD_FAILURE() << "no error";
  } catch (const ConfigError& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find(cat("region.b: got an input of 32 features, allowed: ", 32 / tp)),
              std::string::npos)
        << text;
    EXPECT_NE(text.find("LinearRole::Entry"), std::string::npos) << text;
  }
}

}  // namespace strata::testing
