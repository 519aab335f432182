#pragma once
// A sharded parameter: what it is logically, how it is cut, and this rank's part.
#include <functional>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "parallel/nn/shard.h"

namespace strata {

enum class ParamKind { Matrix, Embedding, Head, Vector, Other };
const char* param_kind_name(ParamKind kind);

// Which logical matrices a rule that works on matrices sees in a parameter.
enum class MatrixView { Whole, Segments, Batch };

struct ParamMeta {
  std::string name;  // "model.layers.3.self_attn.q_proj.weight": unique, the same in every layout
  Shape logical;
  ShardSpec shard;
  ParamKind kind = ParamKind::Matrix;
  MatrixView view = MatrixView::Whole;
  std::vector<int64_t> matrix_rows;  // view Segments: rows of each matrix, alike in every layout
  bool trainable = true;
  bool fp32 = false;  // stored in fp32 also in 16-bit runs (norm weights, biases)
  bool weight_decay = true;
  double lr_scale = 1.0;
  // One small parameter of many layers (ModelSpec::shared_parameters), whole on every rank: its
  // gradient is summed over all of them, so each rank must give its own part of the sum. The layers
  // may differ in strategy.
  bool model_wide = false;
  bool sum_grad_over_tp = false;  // set by the library (gradient rule, module.h)

  int64_t elements() const { return element_count(logical); }
};

// Initial values as a function of the logical element, so every layout starts equal.
struct Init {
  enum class Kind { Zeros, Ones, Constant, Normal, TruncatedNormal, Uniform, Custom };
  Kind kind = Kind::Zeros;
  double
      a = 0,
      b = 0;  // Constant: a; Normal, TruncatedNormal: mean a, standard deviation b; Uniform: [a, b)
  std::function<double(int64_t element)> custom;

  static Init zeros();
  static Init ones();
  static Init constant(double value);
  static Init normal(double stddev, double mean = 0);
  static Init truncated_normal(double stddev, double mean = 0);
  static Init uniform(double low, double high);
  static Init of(std::function<double(int64_t element)> value);  // may draw from an Rng of its own
};

// Elements of `box` of the logical tensor, fp32 (fp64 holding the fp32 value when dtype is fp64).
// Pure.
Tensor initial_values(const ParamMeta& meta, const Init& init, uint64_t seed, const Box& box,
                      at::ScalarType dtype);

struct Parameter {
  ParamMeta meta;
  Init init;
  // This rank's part, compute dtype (or fp32); same TensorImpl for the layer's life. Under ZeRO 3
  // it has memory only while its layer runs: what is always there are the engine's owned slices.
  Tensor value;
  int tp_index = 0, tp_size = 1;

  // Number of consecutive tp ranks over which the gradient is partial and must be summed: all of
  // them by the gradient rule, the holders of the same units for a replicated cut, else 1.
  int grad_sum_ranks() const {
    if (!meta.trainable || meta.model_wide) return 1;  // model-wide: by the engine
    if (meta.sum_grad_over_tp) return tp_size;
    return meta.shard.cut() ? replicas(meta.shard, meta.logical, tp_size) : 1;
  }
  // Of the tp ranks that hold the same elements, the first counts them in the norm.
  bool counts_in_norm() const {
    return meta.model_wide || tp_index % replicas(meta.shard, meta.logical, tp_size) == 0;
  }

  std::vector<LocalBox> boxes() const {
    return local_boxes(meta.shard, meta.logical, tp_index, tp_size);
  }
};

}  // namespace strata
