#pragma once
// What models are written in. A module declares parameters by logical size and cut; forward is
// serial-looking code.
//
//   Module   named parameters and children
//   Layer    what the planner plans and the engine runs: forward(x, batch)
//   Region   from a whole residual-stream input to ONE partial sum; its operator() adds the
//   collectives
//
// Boundary rule (Region::operator()), for the values and, backward, for their gradients:
//
//   tp = 1              nothing
//   tp > 1              entry: identity, backward all_reduce; exit: all_reduce, backward identity
//   sequence_parallel   entry: all_gather over time, backward reduce_scatter; exit: the reverse
//
// A region whose only row-cut linears are of low rank makes the exit's sum itself, of the `rank`
// values between their factors instead of the output (structured_linear.h); nothing is left to do
// at the exit then, and forward must hand on what those linears make, or sums of it.
//
// Gradient rule: sum_grad_over_tp = trainable && !cut && tp > 1 && (sequence_parallel || (inside a
// Region && not added after its exit)). Both are applied by the library; authors set neither. A
// bias on a split_in linear is added once, after the exit, by the Region.
//
// A Region in which nothing is declared cut is cut by the rules of auto_split.h. Where these cut
// nothing, all of it is the same work on every rank: no collective, and no gradient is summed.
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/batch.h"
#include "core/ops/attention.h"
#include "core/ops/dropout.h"
#include "parallel/nn/auto_split.h"
#include "parallel/nn/layout.h"
#include "parallel/nn/parameter.h"

namespace strata {

struct ParamOptions {
  ParamKind kind = ParamKind::Vector;
  MatrixView view = MatrixView::Whole;
  bool trainable = true;
  bool fp32 = false;
  bool weight_decay = true;
  double lr_scale = 1.0;
  bool model_wide = false;  // ParamMeta::model_wide; its name is taken as it is, without prefixes
};

// What stands in place of a dense weight (core/ops/monarch.h, low_rank.h). Monarch: parameters
// `blkdiag1` [blocks, q, in_block] and `blkdiag2` [blocks, out_block, q]; BlockDiagonal: `weight`
// [blocks, out_block, in_block]; LowRank: `lowrank_a` [out, rank] and `lowrank_b` [rank, in],
// y = a (b x). How they are cut is said in parallel/nn/structured_linear.h.
struct LinearStructure {
  enum class Kind { Dense, Monarch, BlockDiagonal, LowRank };
  // Reference: uniform by the width of a block. MatchDense: normal, so that outputs vary as those
  // of the dense layer would. ProjectDense: the nearest to the dense layer's initial weight, scaled
  // to its norm. LowRank factors always start as MatchDense.
  enum class Start { Reference, MatchDense, ProjectDense };
  Kind kind = Kind::Dense;
  int64_t blocks = 4;
  bool shuffle = false;  // of the input features; BlockDiagonal only
  Start start = Start::Reference;
  int64_t rank = 0;  // LowRank only
};

struct LinearOptions {
  bool bias = false;
  double init_std = 0.02;
  std::optional<Init> weight_init;  // unset: normal of init_std
  Init bias_init = Init::zeros();
  ParamKind kind = ParamKind::Matrix;
  MatrixView view = MatrixView::Whole;
  LinearRole role = LinearRole::Auto;  // what an undeclared linear reads (auto_split.h)
  LinearStructure structure;
};

struct LinearUse;      // parallel/nn/linear_use.h
struct StructuredUse;  // parallel/nn/structured_linear.h

// y = x W^T + b with W [out, in]; a value handle on parameters of the module that made it.
class Linear {
 public:
  Linear() = default;
  Linear(Tensor weight, Tensor bias, std::shared_ptr<const LinearUse> use = nullptr)
      : weight_(std::move(weight)), bias_(std::move(bias)), use_(std::move(use)) {}
  Linear(std::shared_ptr<const StructuredUse> structured, Tensor bias)
      : bias_(std::move(bias)), structured_(std::move(structured)) {}
  Tensor operator()(const Tensor& x) const;
  const Tensor& weight() const { return weight_; }

 private:
  Tensor weight_, bias_;                  // bias undefined: none, or added after the region's exit
  std::shared_ptr<const LinearUse> use_;  // of an undeclared linear; decided by collect()
  std::shared_ptr<const StructuredUse> structured_;
};

// Normalisations over the whole (uncut) last dimension.
class RmsNorm {
 public:
  RmsNorm() = default;
  RmsNorm(Tensor weight, double eps) : weight_(std::move(weight)), eps_(eps) {}
  Tensor operator()(const Tensor& x) const;

 private:
  Tensor weight_;
  double eps_ = 0;
};
class LayerNorm {
 public:
  LayerNorm() = default;
  LayerNorm(Tensor weight, Tensor bias, double eps)
      : weight_(std::move(weight)), bias_(std::move(bias)), eps_(eps) {}
  Tensor operator()(const Tensor& x) const;

 private:
  Tensor weight_, bias_;
  double eps_ = 0;
};

class Region;

class Module {
 public:
  virtual ~Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  const ParallelLayout& layout() const noexcept { return layout_; }

  struct Owned {
    Parameter* parameter;
    bool in_region;   // below a Region that is cut
    bool after_exit;  // a bias that the Region adds after its exit
  };
  // All parameters below this module in declaration order; names get `prefix`. Called once by the
  // engine.
  std::vector<Owned> collect(const std::string& prefix);
  // This module's full name once collected ("model.layers.3.self_attn"); the prefix of dropout
  // streams.
  const std::string& full_name() const noexcept { return full_name_; }
  std::vector<const Region*> regions() const;  // below this module, itself included

 protected:
  explicit Module(const ParallelLayout& layout);

  // Declares a parameter; the returned handle is filled when the engine attaches storage. Under
  // ZeRO 3 its values are there during forward and backward only, at another address each time:
  // keep no pointer to them and no copy.
  Tensor param(const std::string& name, Shape logical, ShardSpec shard, Init init,
               ParamOptions options = {});
  // Without a ShardSpec (or with automatic(unit)) the cut is found from the region's linears, whose
  // declarations must stand in the order in which forward uses them. Outside regions, and in a
  // region that declares another cut, that means replicated(). So does it for structured linears.
  Linear linear(const std::string& name, int64_t in, int64_t out, ShardSpec shard = automatic(),
                LinearOptions options = {});
  RmsNorm rms_norm(const std::string& name, int64_t width, double eps);
  LayerNorm layer_norm(const std::string& name, int64_t width, double eps, bool bias = true);
  // A child; without a name its parameters are called as if they were this module's.
  template <class M, class... Args>
  std::shared_ptr<M> add(const std::string& name, Args&&... args) {
    auto child = std::make_shared<M>(std::forward<Args>(args)...);
    children_.emplace_back(name, child);
    return child;
  }
  // [B, T] of a batch -> what belongs to the values outside regions: all of it, or under sequence
  // parallelism this rank's equal part of the tokens. T must be a multiple of tp then.
  Tensor own_tokens(const Tensor& x_BT) const;
  // Dropout of residual-stream values (outside regions) [B, T, D]; `site` names it within this
  // module.
  Tensor dropout(const std::string& site, const Tensor& x_BTD, double prob,
                 const Batch& batch) const;

  // What this module remembered of the text before the batch (undefined at its beginning and
  // outside generation), and what it hands to the next batch (nothing happens outside generation).
  Tensor recall(const Batch& batch, const std::string& slot) const;
  void remember(const Batch& batch, const std::string& slot, const Tensor& value) const;
  // All of the text so far: what the slot holds followed by x [B, T, ...], which it holds then too.
  Tensor extend(const Batch& batch, const std::string& slot, const Tensor& x_BT) const;

  // To whoever looks inside an evaluation (probe.h).
  void show(const Batch& batch, const std::string& what, const Tensor& value_BT) const;

  std::vector<Tensor> exit_biases_;

 private:
  friend class Region;
  enum class Place { Outside, Region, Identical };  // Identical: the same work on every rank
  Linear structured_linear(const std::string& name, int64_t in, int64_t out, ShardSpec shard,
                           const LinearOptions& options);
  struct LinearRecord {
    std::string name;
    int64_t in, out;
    ShardSpec asked;
    LinearRole role;
    size_t weight, bias;  // numbers in parameters_; equal: no bias
    size_t second;        // weight, or another one of a structured linear
    std::shared_ptr<LinearUse> use;
    std::shared_ptr<StructuredUse> structured;
  };
  // The bias of a linear; undefined where there is none, or where the region adds it.
  Tensor linear_bias(LinearRecord& record, ShardSpec shard, const Init& init);
  void collect_into(std::vector<Owned>& out, const std::string& prefix, Place place);
  int token_parts() const noexcept;  // equal parts of the tokens outside regions
  // Decides what has to be known of everything below before parameters are collected.
  virtual Place enter(Place outer) { return outer; }
  virtual bool is_region() const noexcept { return false; }

  ParallelLayout layout_;
  std::string full_name_;
  std::vector<std::unique_ptr<Parameter>> parameters_;
  std::vector<bool> after_exit_, identical_;  // by parameter
  std::vector<LinearRecord> linears_;
  std::vector<std::pair<std::string, std::shared_ptr<Module>>> children_;
};

class Layer : public Module {
 public:
  // x: the previous layer's output for this rank's rows (undefined for the first layer, which reads
  // batch.tokens). The last layer returns [2] in the accumulate dtype: {sum of the losses of
  // counted labels, correct predictions}; the second is counted only without gradients
  // (evaluation).
  virtual Tensor forward(const Tensor& x, const Batch& batch) = 0;
  // Last layer only: [B, T, V] of all tokens and the whole vocabulary on every tp rank, accumulate
  // dtype, no gradient. Collective over tp.
  virtual Tensor logits(const Tensor& x);
  // Collective over tp; after every optimizer step or load, where watches_weights().
  virtual void weights_changed() {}
  virtual bool watches_weights() const { return false; }

 protected:
  using Module::Module;
};

// Differentiable collectives over tp for the rare region that needs one inside.
class TensorParallelOps {
 public:
  explicit TensorParallelOps(const ParallelLayout& layout) : layout_(layout) {}
  int size() const noexcept { return layout_.tp_size(); }
  int index() const noexcept { return layout_.tp_index(); }
  Tensor all_reduce(const Tensor& x) const;               // sum forward, sum backward
  Tensor all_gather(const Tensor& x, int64_t dim) const;  // backward: reduce_scatter
  Tensor reduce_scatter(const Tensor& x, int64_t dim) const;

 private:
  ParallelLayout layout_;
};

class Region : public Layer {
 public:
  Tensor operator()(const Tensor& x, const Batch& batch);  // enter, forward, exit, exit biases
  // True: forward is cheap for what it would keep, so under Recompute::Selective only the entered
  // input is kept and forward runs again in the backward. It must then give the same values each
  // time (dropout by the batch's keys does).
  virtual bool recompute_selectively() const { return false; }

  // Once collected: the linears below in declaration order, and how the automatic rules cut them
  // (nullptr where the author declared cuts). For reports.
  const std::vector<LinearNode>& linears() const noexcept { return nodes_; }
  const RegionSplit* split() const noexcept { return split_.get(); }

 protected:
  using Layer::Layer;
  TensorParallelOps tp() const { return TensorParallelOps(layout()); }
  // Key of attention dropout for the `local_heads` of `heads` that this rank holds; off outside
  // training.
  ops::AttentionDropout attention_dropout(double prob, int64_t local_heads, int64_t heads,
                                          const Batch& batch) const;

 private:
  // What is below this region: every linear with its owner, and what else matters to the rules.
  struct Survey {
    struct Found {
      LinearNode node;
      Module* owner;
      size_t index;
    };
    std::vector<Found> linears;
    bool declares_cut = false, other_parameters = false;
  };
  static void survey(Module& module, const std::string& prefix, Survey& out);
  void apply(const Survey::Found& found, const LinearSplit& split);
  void sum_between_factors(const Survey& found);
  Place enter(Place outer) override;
  bool is_region() const noexcept override { return true; }

  std::vector<LinearNode> nodes_;
  std::unique_ptr<const RegionSplit> split_;
  bool summed_ = false;  // what forward returns is no partial sum: sum_between_factors()
};

// The two boundary conversions, also used by the embedding and the head.
Tensor region_enter(const Tensor& x, const ParallelLayout& layout);
Tensor region_exit(const Tensor& partial, const ParallelLayout& layout,
                   SiteOp op = SiteOp::RegionExit);
// The boundary of work that is the same on every rank: nothing, or under sequence parallelism
// all tokens for it and the rank's own tokens of its result. complete_sum makes such a value from a
// partial sum.
Tensor identical_enter(const Tensor& x, const ParallelLayout& layout);
Tensor identical_exit(const Tensor& y, const ParallelLayout& layout);
Tensor complete_sum(const Tensor& partial, const ParallelLayout& layout);

}  // namespace strata
