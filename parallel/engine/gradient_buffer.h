#pragma once
// Gradients of a group of parameters of one layer in one flat buffer, accumulated over
// micro-batches and summed over data-parallel replicas (parallel-runtime.md 5):
//
//   ZeRO 0     whole buffer; all_reduce over dp after the last micro-batch
//   ZeRO 1     whole buffer; reduce_scatter into the own part of it after the last micro-batch
//   ZeRO 2, 3  each micro-batch's gradient goes into scratch memory, is reduce_scattered and added
//              to the own part, which is all that is kept
//
// Reductions run beside the backward of other layers; settle() waits for them. With hybrid sharding
// and for gradients that are partial over tp ranks, finish() sums the own part once more.
//
// Canonical order (runtime.deterministic = invariant, ZeRO 0 and 1): micro-batches are summed as a
// binary tree, so that with a power-of-two number of them per rank, all ranks together form the
// tree that one process would.
#include <memory>
#include <vector>

#include "parallel/engine/flat_layout.h"
#include "parallel/nn/layout.h"
#include "parallel/nn/parameter.h"

namespace strata {

class GradientBuffer;

// Whole buffers that the groups of one communicator use in turn; a buffer whose reduction is still
// running is waited for.
class ScratchRing {
 public:
  // Collective over shards. elements: of the largest group.
  ScratchRing(Communicator& shards, int64_t elements, int64_t part, at::ScalarType dtype);
  struct Slot {
    Tensor whole, part;
    GradientBuffer* user = nullptr;
  };
  Slot& next();
  int64_t bytes() const;

 private:
  std::vector<Slot> slots_;
  size_t next_ = 0;
};

class GradientBuffer {
 public:
  struct Options {
    at::ScalarType dtype = at::kFloat;
    int sum_ranks = 1;       // consecutive tp ranks over which these gradients are partial
    bool canonical = false;  // tree over micro-batches
  };
  // Collective over the layer's groups.
  GradientBuffer(const ParallelLayout& layout, const FlatLayout& flat, const Options& options);

  const Tensor& own() const noexcept { return own_; }  // flat; complete after finish()
  const FlatLayout& flat() const noexcept { return flat_; }
  int level() const noexcept { return layout_.zero(); }
  int64_t bytes() const;

  void begin_step() { fresh_ = true, depth_.clear(); }
  // Takes one micro-batch's gradients out of the parameters' .grad(). Collective over shards() at
  // ZeRO 2 and 3, which need a ring.
  void add(const std::vector<Parameter*>& parameters, ScratchRing* ring);
  void reduce();       // Collective, after the last add(); ZeRO 0 and 1 start their sum
  void settle();       // waits for what add() and reduce() started
  void start_final();  // Collective: sums over copies and tp; settle() afterwards

 private:
  void write(const Tensor& to, const std::vector<Parameter*>& parameters, bool sum) const;
  Work scatter(const Tensor& part, const Tensor& whole) const;
  void add_canonical(const std::vector<Parameter*>& parameters);
  void add_scattered(const std::vector<Parameter*>& parameters, ScratchRing& ring);

  ParallelLayout layout_;
  FlatLayout flat_;
  Communicator* partial_;
  Options options_;
  Tensor whole_, own_;
  bool fresh_ = true;           // nothing was added in this step
  std::vector<int64_t> depth_;  // canonical: how many micro-batches each of levels_ holds
  std::vector<Tensor> levels_;  // canonical: the first is whole_
  Work in_flight_;
  ScratchRing::Slot* slot_ = nullptr;  // whose part is to be added when the work is done
  bool add_part_ = false;
};

}  // namespace strata
