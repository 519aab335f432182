#include "optim/rule_set.h"

#include <algorithm>

#include "core/config/visitor.h"
#include "core/error.h"
#include "core/text.h"

namespace strata {
namespace rule_set_detail {

bool any_match(const std::vector<std::string>& globs, const std::string& name) {
  return std::any_of(globs.begin(), globs.end(),
                     [&](const std::string& glob) { return glob_match(glob, name); });
}

// Why a rule on matrices has no business with a parameter; empty: it may have.
std::string why_companion(const ParamMeta& meta) {
  if (meta.logical.size() < 2) return "a vector";
  if (meta.model_wide) return "shared by all layers";
  switch (meta.kind) {
    case ParamKind::Embedding:
      return "an embedding";
    case ParamKind::Head:
      return "the head";
    case ParamKind::Vector:
      return "a vector";
    case ParamKind::Other:
      return "not a matrix of a linear map";
    case ParamKind::Matrix:
      return "";
  }
  return "";
}

}  // namespace rule_set_detail

void RuleSetConfig::visit(ConfigVisitor& v) {
  v.field("min_matrix_dim", min_matrix_dim, at_least(1),
          "rules on matrices leave those with fewer rows or columns to the companion");
  v.field("exclude", exclude, any_text(),
          "name patterns (* and ?) of parameters that go to the companion of a rule on matrices");
  v.field("include", include, any_text(),
          "name patterns of parameters that go to the rule on matrices whatever they are");
  v.begin_section("aux", "AdamW, the companion of rules on matrices.");
  v.field("lr", aux_lr, non_negative(), "= optim.lr",
          "peak learning rate of what the rule on matrices leaves");
  aux.visit(v);
  v.end_section();
}

RuleSet::RuleSet(std::unique_ptr<UpdateRule> rule) {
  STRATA_CHECK(rule->needs() == UpdateRule::Needs::Slice,
               cat(rule->name(), " works on matrices and needs a companion"));
  rules_.push_back(std::move(rule));
}

RuleSet::RuleSet(std::unique_ptr<UpdateRule> rule, std::unique_ptr<UpdateRule> companion,
                 const RuleSetConfig& config, double lr)
    : config_(config) {
  rules_.push_back(std::move(rule));
  if (rules_[0]->needs() == UpdateRule::Needs::Slice) return;
  STRATA_CHECK(companion->needs() == UpdateRule::Needs::Slice, "a companion works on slices");
  rules_.push_back(std::move(companion));
  if (config.aux_lr && lr > 0) aux_ratio_ = *config.aux_lr / lr;
}

RuleSet::Choice RuleSet::choose(const ParamMeta& meta) const {
  using namespace rule_set_detail;
  if (rules_.size() == 1) return {0, "the only rule"};
  if (any_match(config_.exclude, meta.name)) return {1, "optim.exclude"};
  if (any_match(config_.include, meta.name) && meta.logical.size() >= 2 && !meta.model_wide)
    return {0, "optim.include"};
  if (meta.logical.size() == 1 && !meta.model_wide && rules_[0]->takes_vectors(meta.logical[0]))
    return {0, "a vector"};
  std::string why = why_companion(meta);
  if (!why.empty()) return {1, std::move(why)};
  const std::vector<LogicalMatrix> matrices = logical_matrices(meta);
  const LogicalMatrix& least =
      *std::min_element(matrices.begin(), matrices.end(), [](const auto& a, const auto& b) {
        return std::min(a.rows, a.cols) < std::min(b.rows, b.cols);
      });
  if (std::min(least.rows, least.cols) < config_.min_matrix_dim) {
    return {1, cat(matrices.size() == 1 ? "a matrix of " : "matrices of ", least.rows, " x ",
                   least.cols, ": fewer than ", config_.min_matrix_dim, " rows or columns")};
  }
  if (matrices.size() == 1) return {0, "a matrix"};
  return {0, cat(matrices.size(), " matrices")};
}

MatrixCost RuleSet::matrix_cost() const {
  if (rules_[0]->needs() == UpdateRule::Needs::Slice) return {};
  return [this](const ParamMeta& meta, int64_t rows, int64_t cols) {
    return choose(meta).rule == 0 ? rules_[0]->cost(rows, cols) : 0.0;
  };
}

MatrixSharing RuleSet::matrix_sharing() const {
  if (rules_[0]->needs() == UpdateRule::Needs::Slice) return {};
  return [this](const ParamMeta& meta, int64_t rows, int64_t cols, int cut, int ranks) {
    return choose(meta).rule == 0 ? rules_[0]->shared_cost(rows, cols, cut, ranks) : 0.0;
  };
}

std::vector<std::string> RuleSet::unused_patterns(const std::vector<ParamMeta>& metas) const {
  std::vector<std::string> out;
  const auto check = [&](const char* key, const std::vector<std::string>& globs) {
    for (const std::string& glob : globs) {
      const bool used = std::any_of(metas.begin(), metas.end(), [&](const ParamMeta& meta) {
        return glob_match(glob, meta.name);
      });
      if (!used) {
        out.push_back(cat("optim.", key, ": got ", glob, ", which fits no parameter of the model",
                          metas.empty()
                              ? ""
                              : cat(" (they are called like ", metas[metas.size() / 2].name, ")")));
      }
    }
  };
  check("exclude", config_.exclude);
  check("include", config_.include);
  return out;
}

}  // namespace strata
