#pragma once
// Where the linears of a region are cut when its author declares no cut (module.h: linear() without
// a ShardSpec). A pure function of the linears in the order in which forward applies them:
//
//   whole input --column--> own features --row--> partial sum --(all_reduce)--> whole input ...
//
// A linear that reads whole features is cut by its output (column); one that reads cut features by
// its input (row). Linears that read the same thing (gate and up; q, k and v) get the same cut.
// What a linear reads is found from the widths: the region's input, or what an earlier linear made.
// Three things cannot be found that way and are said by the author:
//
//   automatic(K)                  the output consists of heads of K features that stay whole
//   automatic(1, {F, F})          the output is several results in one, each cut by itself
//   .role = LinearRole::Entry     reads the region's input, although an earlier result is as wide
//   .role = LinearRole::Inner     reads an earlier result, although the region's input is as wide
//
// The author's promise: between linears, forward works on each feature by itself (on each head by
// itself behind automatic(K)), and the region returns its last linear's result, or a sum of such.
//
// What does not fit falls back, with a note: to the other dimension (the rank takes its own
// features of a whole input), else the linear, or the whole region, is computed on every rank. A
// region never becomes wrong by that, only slower.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "parallel/nn/shard.h"

namespace strata {

enum class LinearRole { Auto, Entry, Inner };

struct LinearNode {
  std::string name;  // within the region
  int64_t in = 0, out = 0;
  LinearRole role = LinearRole::Auto;
  int64_t unit = 1;               // output features that stay together
  std::vector<int64_t> segments;  // of the output; empty: one
  bool whole = false;             // declared replicated()
};

enum class LinearCut { Whole, Column, Row };
const char* linear_cut_name(LinearCut cut);  // "whole", "column", "row"

// What happens to the result of one linear. Sum: all_reduce forward and backward, so that a later
// linear of the region can be cut again. Exit: all_reduce forward only; everything behind it is the
// same on every rank.
enum class AfterLinear { Nothing, Sum, Exit };

struct LinearSplit {
  LinearCut cut = LinearCut::Whole;
  ShardSpec shard;         // of the weight [out, in]
  bool takes_own = false;  // Row on whole features: only the rank's own are read
  AfterLinear after = AfterLinear::Nothing;
  bool identical = false;  // the same work on every rank: its gradients are complete everywhere
  std::string why;
};

struct RegionCollective {
  bool backward = false;
  std::string where;     // "entry", "exit", or "after NAME"
  int64_t features = 0;  // an all_reduce of so many values per token
};

struct RegionSplit {
  bool cut = false;      // false: the whole region is computed on every rank, without collectives
  bool partial = false;  // its result is a partial sum, for region_exit
  std::vector<LinearSplit> linears;  // one per node
  std::vector<RegionCollective> collectives;
  std::vector<std::string> notes;  // every fallback, as sentences

  int64_t features_per_token() const;  // of all collectives together
};

// other_parameters: the region has further trainable parameters that are not cut (norms of heads);
// then no tail of it can be identical work, because nobody knows where they are used.
// tp = 1 gives whole linears and no notes.
RegionSplit split_region(std::span<const LinearNode> linears, bool other_parameters, int tp);

}  // namespace strata
