#pragma once
// How a structured linear (LinearStructure) is cut over tp and applied. Private to parallel/nn.
//
//                       split_out                       split_in
//   Monarch  blkdiag1   whole on every rank             blocks
//            blkdiag2   rows of every block             columns of every block: a partial sum
//   BlockDiagonal       blocks (own part of a whole x)  blocks (own outputs, zeros elsewhere)
//   LowRank  lowrank_a  rows                            whole on every rank
//            lowrank_b  whole on every rank             columns: a partial sum
//
// LowRank factors are cut wherever a dense weight would be. By columns, the sum over tp is that of
// the `rank` values between the factors, where the region allows it (Region::sum_between_factors):
// less to send whenever rank < out. Under sequence parallelism only the rank's own tokens are then
// multiplied by lowrank_a.
//
// A rank's Monarch outputs are the contiguous features that a dense layer would give it, because
// output sigma L + lambda comes from row sigma of block lambda. So units (heads) must be whole
// numbers of rows: a unit of K features takes lcm(K, L) / L rows. Where a cut is impossible (padded
// sizes, a shuffled input, fused results of a block-diagonal layer) the weight is one unit, which
// check_plan refuses under tp > 1.
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/ops/monarch.h"
#include "parallel/nn/module.h"

namespace strata {

// Initial factors nearest to a dense initial weight, made when first asked for.
struct ProjectedStart {
  std::vector<const std::string*> names;  // of the factors, full once collected
  uint64_t seed = 0;
  int64_t in = 0, out = 0;
  double init_std = 0;
  LinearStructure structure;

  double value(size_t factor, int64_t element);

 private:
  std::once_flag once_;
  std::vector<Tensor> factors_;
};

struct StructuredUse {
  StructuredUse(int64_t in, int64_t out, ShardSpec asked, const LinearStructure& structure,
                const ParallelLayout& layout);

  struct Factor {
    std::string suffix;  // ".blkdiag1"
    Shape logical;
    ShardSpec shard;
    Init init;
    MatrixView view = MatrixView::Batch;
  };
  // Throws ConfigError when the sizes allow no such layer.
  std::vector<Factor> factors(const std::string& name, const LinearOptions& options);
  Init bias_init(const LinearOptions& options) const;

  Tensor apply(const Tensor& x, const Tensor& bias) const;
  bool low_rank() const { return structure_.kind == LinearStructure::Kind::LowRank; }

  std::vector<Tensor> weights;  // filled in by the module
  std::shared_ptr<ProjectedStart> start;
  bool sum_between_factors = false;  // low rank, cut by columns: decided by the region

 private:
  std::vector<Factor> low_rank_factors(const std::string& name, const LinearOptions& options) const;
  void check(const std::string& name) const;
  ShardSpec rows_shard() const;                 // of blkdiag2 under split_out
  ShardSpec blocks_shard(int64_t block) const;  // of block-diagonal weights
  std::vector<Init> initial(const LinearOptions& options);

  int64_t in_, out_;
  ShardSpec asked_;
  LinearStructure structure_;
  ParallelLayout layout_;
  ops::MonarchShape shape_;
};

}  // namespace strata
