#include "parallel/nn/structured_linear.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/ops/linear.h"
#include "core/rng.h"
#include "core/text.h"

namespace strata {

using Kind = LinearStructure::Kind;
using Start = LinearStructure::Start;

double ProjectedStart::value(size_t factor, int64_t element) {
  std::call_once(once_, [&] {
    // The dense layer's own initial values, under the name that it would have.
    std::string name = *names.front();
    name = name.substr(0, name.rfind('.')) + ".weight";
    Tensor dense = at::empty({out, in}, at::TensorOptions().dtype(at::kFloat));
    Rng(seed, "init", name).fill_normal(0, dense.numel(), dense.mutable_data_ptr<float>());
    dense = dense.to(at::kDouble) * init_std;
    Tensor near;
    if (structure.kind == Kind::Monarch) {
      const auto f = ops::project_to_monarch(dense, structure.blocks);
      factors_ = {f.w1_KQP, f.w2_LSR};
      near = ops::monarch_to_dense(f.w1_KQP, f.w2_LSR, out, in);
    } else {
      factors_ = {ops::project_to_block_diagonal(dense, structure.blocks, structure.shuffle)};
      near = factors_[0];
    }
    const double size = near.norm().item<double>();
    const double scale = size > 0 ? dense.norm().item<double>() / size : 1;
    for (Tensor& f : factors_)
      f = (f * std::pow(scale, 1 / static_cast<double>(factors_.size()))).contiguous();
  });
  return factors_.at(factor).const_data_ptr<double>()[element];
}

StructuredUse::StructuredUse(int64_t in, int64_t out, ShardSpec asked,
                             const LinearStructure& structure, const ParallelLayout& layout)
    : in_(in),
      out_(out),
      asked_(std::move(asked)),
      structure_(structure),
      layout_(layout),
      shape_(ops::monarch_shape(in, out, std::max<int64_t>(1, structure.blocks))) {}

void StructuredUse::check(const std::string& name) const {
  const int64_t blocks = structure_.blocks;
  if (blocks < 1 || blocks > std::min(in_, out_)) {
    throw ConfigError(
        "linear_blocks", cat(blocks),
        cat("1 to ", std::min(in_, out_), " for ", name, " (", in_, " to ", out_, " features)"));
  }
  if (structure_.kind == Kind::Monarch && in_ == out_ && blocks < 3) {
    throw ConfigError("linear_blocks", cat(blocks), cat("at least 3 for ", name),
                      cat(" (it is square, ", in_, " to ", out_,
                          ": with fewer blocks it has as many parameters as a dense layer)"));
  }
  if (structure_.shuffle && structure_.kind != Kind::BlockDiagonal)
    throw ConfigError("linear_shuffle", "true", "false", " (only linear = blockdiag shuffles)");
}

// Rows of every block: unit and segments of the outputs in rows.
ShardSpec StructuredUse::rows_shard() const {
  const int64_t L = structure_.blocks;
  const bool padded = shape_.out_block * L != out_;
  bool whole = !padded;
  for (const int64_t segment : asked_.segments) whole = whole && segment % L == 0;
  ShardSpec spec{.dim = 1, .unit = shape_.out_block};  // one unit: no cut
  if (!whole) return spec;
  spec.unit = std::lcm(asked_.unit, L) / L;
  spec.replicate = asked_.replicate;
  for (const int64_t segment : asked_.segments) spec.segments.push_back(segment / L);
  const auto fits = [&](int64_t rows) { return rows % spec.unit == 0; };
  const bool even = spec.segments.empty()
                        ? fits(shape_.out_block)
                        : std::all_of(spec.segments.begin(), spec.segments.end(), fits);
  return even ? spec : ShardSpec{.dim = 1, .unit = shape_.out_block};
}

ShardSpec StructuredUse::blocks_shard(int64_t block) const {
  const int64_t blocks = structure_.blocks;
  const bool by_input = asked_.dim == 1;
  const bool padded =
      by_input ? shape_.in_block * blocks != in_ : shape_.out_block * blocks != out_;
  const int64_t unit = std::lcm(asked_.unit, block) / block;
  const bool possible =
      !padded && asked_.segments.empty() && !(by_input && structure_.shuffle) && blocks % unit == 0;
  return {.dim = 0, .unit = possible ? unit : blocks};
}

std::vector<Init> StructuredUse::initial(const LinearOptions& options) {
  const auto uniform = [](int64_t fan) {
    const double limit = 1 / std::sqrt(static_cast<double>(fan));
    return Init::uniform(-limit, limit);
  };
  const auto p = static_cast<double>(shape_.in_block), q = static_cast<double>(shape_.middle_block);
  const bool two = structure_.kind == Kind::Monarch;
  const auto in = static_cast<double>(in_);
  switch (structure_.start) {
    case Start::Reference:
      if (two) return {uniform(shape_.in_block), uniform(shape_.middle_block)};
      return {uniform(shape_.in_block)};
    case Start::MatchDense:
      if (two)
        return {Init::normal(1 / std::sqrt(p)), Init::normal(options.init_std * std::sqrt(in / q))};
      return {Init::normal(options.init_std * std::sqrt(in / p))};
    case Start::ProjectDense:
      break;
  }
  start = std::make_shared<ProjectedStart>();
  start->seed = layout_.seed();
  start->in = in_;
  start->out = out_;
  start->init_std = options.init_std;
  start->structure = structure_;
  const auto part = [from = start](size_t factor) {
    return Init::of([from, factor](int64_t element) { return from->value(factor, element); });
  };
  if (two) return {part(0), part(1)};
  return {part(0)};
}

// The product's entries vary as those of the dense weight would: rank terms of variance
// init_std^2 in / rank times 1 / in.
std::vector<StructuredUse::Factor> StructuredUse::low_rank_factors(
    const std::string& name, const LinearOptions& options) const {
  const int64_t rank = structure_.rank, most = std::min(in_, out_);
  if (rank < 1 || rank > most) {
    throw ConfigError("linear_ranks", cat(rank),
                      cat("1 to ", most, " for ", name, " (", in_, " to ", out_, " features)"));
  }
  const auto in = static_cast<double>(in_), k = static_cast<double>(rank);
  const bool by_input = asked_.cut() && asked_.dim == 1, by_output = asked_.cut() && !by_input;
  return {{".lowrank_a",
           {out_, rank},
           by_output ? asked_ : replicated(),
           Init::normal(options.init_std * std::sqrt(in / k)),
           options.view},
          {".lowrank_b",
           {rank, in_},
           by_input ? asked_ : replicated(),
           Init::normal(1 / std::sqrt(in)),
           MatrixView::Whole}};
}

std::vector<StructuredUse::Factor> StructuredUse::factors(const std::string& name,
                                                          const LinearOptions& options) {
  if (low_rank()) return low_rank_factors(name, options);
  check(name);
  const std::vector<Init> init = initial(options);
  const int64_t blocks = structure_.blocks, q = shape_.middle_block;
  if (structure_.kind == Kind::BlockDiagonal) {
    const ShardSpec shard =
        !asked_.cut() ? replicated()
                      : blocks_shard(asked_.dim == 1 ? shape_.in_block : shape_.out_block);
    return {{".weight", {blocks, shape_.out_block, shape_.in_block}, shard, init[0]}};
  }
  ShardSpec first = replicated(), second = replicated();
  if (asked_.cut() && asked_.dim == 1) {
    first = blocks_shard(shape_.in_block);
    second = split(2);
  } else if (asked_.cut()) {
    second = rows_shard();
  }
  return {{".blkdiag1", {blocks, q, shape_.in_block}, first, init[0]},
          {".blkdiag2", {blocks, shape_.out_block, q}, second, init[1]}};
}

Init StructuredUse::bias_init(const LinearOptions& options) const {
  if (low_rank() || structure_.start != Start::Reference) return options.bias_init;
  const double limit = 1 / std::sqrt(static_cast<double>(out_));  // by its own number, as there
  return Init::uniform(-limit, limit);
}

Tensor StructuredUse::apply(const Tensor& x, const Tensor& bias) const {
  if (low_rank()) {
    Tensor h = ops::linear(x, weights[1], Tensor());
    if (sum_between_factors) h = region_exit(h, layout_);
    return ops::linear(h, weights[0], bias);
  }
  const bool cut = asked_.cut() && layout_.tp_size() > 1;
  const bool by_input = cut && asked_.dim == 1, by_output = cut && asked_.dim == 0;
  Tensor y;
  if (structure_.kind == Kind::Monarch) {
    const int64_t here = by_output ? weights[1].size(1) * structure_.blocks : out_;
    y = ops::monarch(x, weights[0], weights[1], here);
  } else {
    const Tensor& w = weights[0];
    const int64_t padded = structure_.blocks * shape_.in_block;
    Tensor in = structure_.shuffle ? ops::shuffle_features(x, structure_.blocks, padded) : x;
    const int64_t first = layout_.tp_index() * w.size(0);  // of the blocks held here
    if (by_output) {
      if (in.size(-1) != padded) in = at::constant_pad_nd(in, {0, padded - in.size(-1)});
      in = in.narrow(-1, first * w.size(2), w.size(0) * w.size(2));
    }
    y = ops::block_diagonal(in, w, cut ? w.size(0) * w.size(1) : out_);
    if (by_input) {
      const int64_t before = first * w.size(1), all = structure_.blocks * w.size(1);
      y = at::constant_pad_nd(y, {before, all - before - y.size(-1)}).narrow(-1, 0, out_);
    }
  }
  return bias.defined() ? y + bias.to(y.scalar_type()) : y;
}

}  // namespace strata
