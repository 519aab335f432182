#include "parallel/nn/auto_split.h"

#include <algorithm>

#include "core/text.h"

namespace strata {

const char* linear_cut_name(LinearCut cut) {
  switch (cut) {
    case LinearCut::Whole:
      return "whole";
    case LinearCut::Column:
      return "column";
    case LinearCut::Row:
      return "row";
  }
  return "?";
}

int64_t RegionSplit::features_per_token() const {
  int64_t sum = 0;
  for (const RegionCollective& c : collectives) sum += c.features;
  return sum;
}

namespace auto_split_detail {

// What each linear reads, and who reads it.
struct Paths {
  std::vector<std::vector<size_t>> sources;  // earlier linears; empty: the region's input
  std::vector<std::vector<size_t>> readers;
  std::string problem;  // "": found for all
};

bool makes(const LinearNode& node, int64_t width) {
  if (node.segments.empty()) return node.out == width;
  return std::count(node.segments.begin(), node.segments.end(), width) > 0;
}

Paths find_paths(std::span<const LinearNode> nodes) {
  const int64_t entry = nodes[0].in;
  Paths paths;
  paths.sources.resize(nodes.size());
  paths.readers.resize(nodes.size());
  std::vector<int> depth(nodes.size(), 0);  // linears between the input and this one
  for (size_t i = 0; i < nodes.size(); ++i) {
    const LinearNode& node = nodes[i];
    // Earlier linears of this width; of those, the ones as deep as the latest: they are merged.
    std::vector<size_t> matches;
    for (size_t j = i; j-- > 0;) {
      if (makes(nodes[j], node.in) && (matches.empty() || depth[j] == depth[matches[0]]))
        matches.push_back(j);
    }
    const bool from_entry = node.in == entry && node.role != LinearRole::Inner;
    bool from_inner = !matches.empty() && node.role != LinearRole::Entry;
    if (!from_entry && !from_inner) {
      paths.problem = cat(node.name, " reads ", node.in, " features; the region's input has ",
                          entry, ", and no earlier linear makes them");
      return paths;
    }
    if (from_entry && from_inner) {
      // A wrong guess must not pass unnoticed: a cut result has too few features for a reader of
      // whole ones, and the reverse; a sum that is not complete looks like a whole input.
      for (size_t j : matches) {
        if (depth[j] > 0 && nodes[j].unit == 1) {
          paths.problem = cat(node.name, " may read the region's input or the result of ",
                              nodes[j].name, ": declare .role = LinearRole::Entry or Inner");
          return paths;
        }
      }
      // What leads back to the width of the input reads what was made from it.
      from_inner = node.unit == 1 && node.out == entry;
    }
    if (from_inner) {
      paths.sources[i] = matches;
      depth[i] = depth[matches[0]] + 1;
      for (size_t j : matches) paths.readers[j].push_back(i);
    }
  }
  return paths;
}

// One run of the rules. A problem makes the whole region whole.
class Splitter {
 public:
  Splitter(std::span<const LinearNode> nodes, bool other_parameters, int tp)
      : nodes_(nodes), other_parameters_(other_parameters), tp_(tp) {
    split_.linears.resize(nodes.size());
  }

  RegionSplit run() {
    if (tp_ == 1) return split_;
    if (nodes_.empty()) return everywhere("it has no linears");
    paths_ = find_paths(nodes_);
    if (!paths_.problem.empty()) return everywhere(paths_.problem);
    for (size_t i = 0; i < nodes_.size(); ++i) {
      const std::string problem = choose(i);
      if (!problem.empty()) return everywhere(problem);
    }
    const std::string problem = close();
    if (!problem.empty()) return everywhere(problem);
    list_collectives();
    return split_;
  }

 private:
  enum class State { Whole, Cut, Mixed };

  RegionSplit everywhere(const std::string& reason) {
    RegionSplit out;
    const auto whole = [](const LinearSplit& linear) { return linear.cut == LinearCut::Whole; };
    if (std::all_of(split_.linears.begin(), split_.linears.end(), whole)) out.notes = split_.notes;
    out.linears.resize(nodes_.size());
    for (LinearSplit& linear : out.linears) {
      linear.identical = true;
      linear.why = "the region is computed on every rank";
    }
    out.notes.push_back(cat("computed on every rank: ", reason));
    return out;
  }

  // Heads that are cut by their reader's wish need a whole input; so does a declared replicated().
  bool needs_whole_input(size_t i) const {
    if (nodes_[i].whole) return true;
    if (nodes_[i].unit == 1 || paths_.sources[i].empty()) return false;
    return std::none_of(paths_.sources[i].begin(), paths_.sources[i].end(),
                        [&](size_t j) { return nodes_[j].unit > 1; });
  }

  State state_before(size_t i) const {
    size_t columns = 0;
    for (size_t j : paths_.sources[i]) columns += split_.linears[j].cut == LinearCut::Column;
    if (columns == 0) return State::Whole;
    return columns == paths_.sources[i].size() ? State::Cut : State::Mixed;
  }

  ShardSpec column_of(size_t i) const { return split_out(nodes_[i].unit, nodes_[i].segments); }

  // "": chosen.
  std::string choose(size_t i) {
    const LinearNode& node = nodes_[i];
    LinearSplit& out = split_.linears[i];
    const Shape shape = {node.out, node.in};
    const State state = state_before(i);
    if (state == State::Mixed)
      return cat(node.name, " reads results of which some are cut and some are not");
    if (state == State::Cut) {
      row(i);
      out.why = cat("reads what ", nodes_[paths_.sources[i].back()].name, " cut");
      return "";
    }
    if (node.whole) {
      out.why = "declared replicated()";
      return "";
    }
    for (size_t reader : paths_.readers[i]) {
      if (needs_whole_input(reader)) {
        out.why = cat(nodes_[reader].name, " needs all of its result");
        return "";
      }
    }
    const bool last = i + 1 == nodes_.size();
    const bool row_fits = why_not_divisible(split_in(), shape, tp_).empty();
    if (last) {
      // A column here would leave a cut result, which is no partial sum.
      if (!paths_.sources[i].empty() || !row_fits) {
        out.why = "the last linear, and its input is whole";
        return "";
      }
      row(i);
      out.takes_own = true;
      out.why = "reads the region's input and makes its result";
      return "";
    }
    const std::string misfit = why_not_divisible(column_of(i), shape, tp_);
    if (misfit.empty()) {
      out.cut = LinearCut::Column;
      out.shard = column_of(i);
      out.why = node.unit > 1 ? cat("heads of ", node.unit) : "reads whole features";
      return "";
    }
    const std::string reason =
        cat(node.name, " ", node.unit > 1 ? misfit : cat("makes ", node.out, " features"),
            ", not divisible by ", tp_);
    if (node.unit > 1) return reason;
    if (row_fits && !paths_.readers[i].empty()) {
      row(i);
      out.takes_own = true;
      out.why = "its output does not divide";
      split_.notes.push_back(cat(reason, ": cut by its input instead"));
      return "";
    }
    out.why = "neither dimension divides";
    split_.notes.push_back(cat(reason, ": computed on every rank"));
    return "";
  }

  void row(size_t i) {
    LinearSplit& out = split_.linears[i];
    out.cut = LinearCut::Row;
    out.shard = split_in();
    for (size_t j : paths_.sources[i]) {
      out.shard.unit = std::max(out.shard.unit, nodes_[j].unit);
    }
  }

  // Where partial sums are completed.
  std::string close() {
    const size_t n = nodes_.size();
    size_t tail = n;  // linears from here on are the same on every rank
    if (split_.linears[n - 1].cut == LinearCut::Whole) {
      while (tail > 0 && split_.linears[tail - 1].cut == LinearCut::Whole) --tail;
      if (tail == 0) return "no linear of it can be cut";
      const std::string problem = close_tail(tail);
      if (!problem.empty()) return problem;
    }
    for (size_t i = 0; i < n; ++i) {
      LinearSplit& linear = split_.linears[i];
      if (linear.cut != LinearCut::Row) continue;
      const auto& readers = paths_.readers[i];
      if (readers.empty()) {
        if (nodes_[i].out != nodes_[n - 1].out)
          return cat("nothing reads the ", nodes_[i].out, " features of ", nodes_[i].name);
        continue;
      }
      linear.after = readers[0] >= tail ? AfterLinear::Exit : AfterLinear::Sum;
    }
    split_.cut = true;
    split_.partial = tail == n;
    return "";
  }

  // The linears from `tail` on are whole. They may be the same work on every rank only when nothing
  // but completed sums reaches them.
  std::string close_tail(size_t tail) {
    const std::string& name = nodes_[tail].name;
    if (other_parameters_)
      return cat(name, " would be whole behind cut linears, in a region with other parameters");
    for (size_t i = tail; i < nodes_.size(); ++i) {
      if (paths_.sources[i].empty()) return cat(nodes_[i].name, " is whole beside cut linears");
      for (size_t j : paths_.sources[i]) {
        if (j < tail && split_.linears[j].cut != LinearCut::Row)
          return cat(nodes_[i].name, " is whole beside cut linears");
      }
      split_.linears[i].identical = true;
    }
    int64_t sum = 0;
    for (size_t i = 0; i < tail; ++i) {
      if (split_.linears[i].cut != LinearCut::Row) continue;
      const auto& readers = paths_.readers[i];
      if (readers.empty() || (readers[0] < tail && readers.back() >= tail))
        return cat("the result of ", nodes_[i].name, " is used beside ", name);
      if (readers[0] >= tail) sum += nodes_[i].out;
    }
    split_.notes.push_back(cat(name, " is computed on every rank: cutting it by its output would ",
                               "cost an all_reduce of ", sum, " values per token backward and an ",
                               "all_gather of ", nodes_.back().out, " forward"));
    return "";
  }

  void list_collectives() {
    auto add = [&](bool backward, const std::string& where, int64_t features) {
      split_.collectives.push_back({backward, where, features});
    };
    add(true, "entry", nodes_[0].in);
    for (size_t i = 0; i < nodes_.size(); ++i) {
      const AfterLinear after = split_.linears[i].after;
      if (after == AfterLinear::Nothing) continue;
      add(false, cat("after ", nodes_[i].name), nodes_[i].out);
      if (after == AfterLinear::Sum) add(true, cat("after ", nodes_[i].name), nodes_[i].out);
    }
    if (split_.partial) add(false, "exit", nodes_.back().out);
  }

  std::span<const LinearNode> nodes_;
  bool other_parameters_;
  int tp_;
  Paths paths_;
  RegionSplit split_;
};

}  // namespace auto_split_detail

RegionSplit split_region(std::span<const LinearNode> linears, bool other_parameters, int tp) {
  return auto_split_detail::Splitter(linears, other_parameters, tp).run();
}

}  // namespace strata
