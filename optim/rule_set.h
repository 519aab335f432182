#pragma once
// Which rule updates which parameter. A rule on flat slices takes all of them. A rule on matrices
// takes what is worth it and leaves the rest to a companion (AdamW); the first line that fits
// decides (optimizers.md 1.3):
//
//   optim.exclude          a name on this list: companion
//   optim.include          a name on this list, of two dimensions or more: matrix rule
//   a vector, if the matrix rule takes such: matrix rule
//   embedding, head, vector, short convolution, mixing logits (ParamKind): companion
//   a matrix with fewer than optim.min_matrix_dim rows or columns: companion
//   everything else: matrix rule
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "optim/rules/adamw.h"
#include "optim/update_rule.h"
#include "parallel/engine/matrix_owners.h"

namespace strata {

struct RuleSetConfig {
  std::vector<std::string> exclude, include;  // globs of parameter names
  int64_t min_matrix_dim = 64;
  std::optional<double> aux_lr;  // peak learning rate of the companion; unset: that of the rule
  AdamWConfig aux;
  void visit(ConfigVisitor& v);  // within [optim]
};

class RuleSet {
 public:
  // One rule on slices for everything.
  explicit RuleSet(std::unique_ptr<UpdateRule> rule);
  // lr: peak rate of `rule`, which the companion's is a multiple of.
  RuleSet(std::unique_ptr<UpdateRule> rule, std::unique_ptr<UpdateRule> companion,
          const RuleSetConfig& config, double lr);

  size_t size() const noexcept { return rules_.size(); }
  const UpdateRule& rule(size_t i) const { return *rules_.at(i); }
  double lr_ratio(size_t i) const { return i == 0 ? 1 : aux_ratio_; }

  struct Choice {
    size_t rule = 0;
    std::string why;  // "an embedding", "matrices of 16 x 512: fewer than 64 rows or columns"
  };
  Choice choose(const ParamMeta& meta) const;  // pure
  // For ManagerOptions: what choose() gives a rule on matrices, at that rule's cost, and what it
  // can share. The set must outlive them.
  MatrixCost matrix_cost() const;
  MatrixSharing matrix_sharing() const;
  // Patterns that fit no parameter, one sentence each.
  std::vector<std::string> unused_patterns(const std::vector<ParamMeta>& metas) const;

 private:
  std::vector<std::unique_ptr<UpdateRule>> rules_;
  RuleSetConfig config_;
  double aux_ratio_ = 1;
};

}  // namespace strata
