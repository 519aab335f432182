// What this version can run, and what a model's cuts allow. All problems of a plan at once, before
// anything starts.
#include <algorithm>
#include <limits>
#include <map>
#include <tuple>

#include "core/error.h"
#include "core/text.h"
#include "parallel/nn/model_spec.h"
#include "parallel/plan/plan.h"
#include "parallel/plan/schedule.h"

namespace strata {
namespace check_plan_detail {

// "1, 2, 4, 8"; only the small ones of numbers with many.
std::string divisors_text(int64_t number) {
  constexpr size_t kMost = 16;
  constexpr int64_t kLargest = 1 << 16;
  std::vector<std::string> out;
  for (int64_t d = 1; d <= std::min(number, kLargest) && out.size() < kMost; ++d) {
    if (number % d == 0) out.push_back(cat(d));
  }
  if (out.size() == kMost || number > kLargest) out.emplace_back("...");
  return join(out);
}

// What forbids cutting these parameters into tp parts and which degrees they allow; both empty when
// nothing does.
struct TensorLimit {
  std::string allowed, why;
};
TensorLimit tensor_limit(const std::vector<ParamMeta>& metas, int tp,
                         const std::string& layer_name) {
  TensorLimit limit;
  for (const ParamMeta& meta : metas) {
    const std::string why = why_not_divisible(meta.shard, meta.logical, tp);
    if (why.empty()) continue;
    limit.why = cat(" (", meta.name, " of ", layer_name, " ", why, ")");
    break;
  }
  if (limit.why.empty()) return {};
  std::vector<std::string> allowed;
  for (int degree = 1; degree <= std::max(2 * tp, 64); ++degree) {
    const bool fits = std::all_of(metas.begin(), metas.end(), [&](const ParamMeta& meta) {
      return why_not_divisible(meta.shard, meta.logical, degree).empty();
    });
    if (fits) allowed.push_back(cat(degree));
  }
  limit.allowed = join(allowed);
  return limit;
}

class Checker {
 public:
  Checker(const Plan& plan, const ModelSpec& model, int64_t time)
      : plan_(plan), model_(model), time_(time) {}

  std::vector<std::string> check() {
    check_shape();
    if (!problems_.empty()) return problems_;  // the rest would be about another plan
    check_schedule();
    for (int layer = 0; layer < model_.layer_count(); ++layer) {
      check_strategy(layer);
      check_cuts(layer);
    }
    check_shared();
    report_layers();
    return problems_;
  }

 private:
  void add(const std::string& key, const std::string& given, const std::string& allowed,
           const std::string& hint = {}) {
    problems_.push_back(problem_text(key, given, allowed, hint));
  }

  // A problem of a layer; equal ones of further layers are counted.
  void add(int layer, const std::string& field, const std::string& given,
           const std::string& allowed, const std::string& hint = {}) {
    const auto [at, first] = by_layer_.try_emplace({field, given, allowed}, of_layers_.size());
    if (first) of_layers_.push_back({layer, field, given, allowed, hint, 0});
    ++of_layers_[at->second].layers;
  }

  void report_layers() {
    for (const LayerProblem& p : of_layers_) {
      const std::string others =
          p.layers == 1 ? "" : cat(" and ", p.layers - 1, p.layers == 2 ? " other" : " others");
      add(cat("plan.layers[", p.first, "].", p.field), p.given, p.allowed,
          cat(p.hint, "; in ", model_.layer_name(p.first), others));
    }
  }

  // What must hold for the plan to be about this model at all.
  void check_shape() {
    const auto layers = static_cast<size_t>(model_.layer_count());
    if (plan_.layers.size() != layers || plan_.virtual_stage.size() != layers) {
      return add("plan.layers", cat(plan_.layers.size(), " layers"),
                 cat(layers, " (embedding, ", layers - 2, " blocks, head of this model)"));
    }
    if (plan_.stages < 1 || plan_.chunks < 1 || plan_.world_size < 1 ||
        plan_.world_size % plan_.stages != 0) {
      return add(
          "plan.pp", cat(plan_.stages),
          cat("divisors of the ", plan_.world_size, " ranks: ", divisors_text(plan_.world_size)));
    }
    if (plan_.microbatches < 1 || plan_.global_batch < 1 ||
        plan_.global_batch % plan_.microbatches != 0) {
      add("plan.microbatches", cat(plan_.microbatches),
          cat("divisors of train.batch = ", plan_.global_batch, ": ",
              divisors_text(plan_.global_batch)));
    }
    const int64_t parts = int64_t{plan_.stages} * plan_.chunks;
    if (parts > static_cast<int64_t>(layers)) {
      const bool chunked = plan_.chunks > 1;
      return add(chunked ? "plan.pp x plan.chunks" : "plan.pp",
                 chunked ? cat(plan_.stages, " x ", plan_.chunks) : cat(plan_.stages),
                 cat("at most ", layers, " (number of layers, with embedding and head)"));
    }
    int last = -1;
    for (size_t layer = 0; layer < layers; ++layer) {
      const int part = plan_.virtual_stage[layer];
      if (part != last && part != last + 1) {
        return add(cat("plan.virtual_stage[", layer, "]"), cat(part),
                   layer == 0 ? "0" : cat(last, ", ", last + 1),
                   cat(" (stages are consecutive layers, at least one in each); in ",
                       model_.layer_name(static_cast<int>(layer))));
      }
      last = part;
    }
    if (last != parts - 1) {
      add("plan.virtual_stage", cat(last + 1, " parts"),
          cat(parts, " (plan.pp x plan.chunks), at least one layer in each"));
    }
  }

  void check_schedule() {
    const auto microbatches =
        static_cast<int>(std::min<int64_t>(plan_.microbatches, std::numeric_limits<int>::max()));
    const std::string why =
        why_not_schedule(plan_.schedule, plan_.stages, microbatches, plan_.chunks);
    if (why.empty()) return;
    std::vector<std::string> possible;
    for (const std::string_view name : schedule_names()) {
      if (why_not_schedule(name, plan_.stages, microbatches, plan_.chunks).empty())
        possible.emplace_back(name);
    }
    add("plan.schedule", plan_.schedule,
        possible.empty() ? "none with these numbers" : join(possible), cat(" (", why, ")"));
  }

  void check_strategy(int layer) {
    const LayerStrategy& s = strategy(layer);
    if (!degrees_fit(s)) {
      return add(layer, "dp", cat("dp ", s.dp, " x tp ", s.tp),
                 cat("dp x tp = ", plan_.ranks_per_stage()), " (ranks of a stage)");
    }
    if (plan_.rows_per_microbatch() % s.dp != 0) {
      add(layer, "dp", cat(s.dp),
          cat("divisors of the ", plan_.rows_per_microbatch(),
              " rows of a micro-batch: ", divisors_text(plan_.rows_per_microbatch())),
          " (train.batch / plan.microbatches must be a multiple of dp)");
    }
    if (s.zero < 0 || s.zero > 3) add(layer, "zero", cat(s.zero), "0, 1, 2, 3");
    if (s.shards < 0 || (s.shards > 0 && s.dp % s.shards != 0)) {
      add(layer, "shards", cat(s.shards),
          cat("0 (= dp) or divisors of dp = ", s.dp, ": ", divisors_text(s.dp)));
    }
    if (s.sequence_parallel && s.tp > 1 && time_ % s.tp != 0) {
      add(layer, "sequence_parallel", "true", cat("false, or tp in ", divisors_text(time_)),
          cat(" (", time_, " tokens of a row cannot be cut into ", s.tp, ")"));
    }
  }

  void check_cuts(int layer) {
    const int tp = strategy(layer).tp;
    if (tp <= 1 || !degrees_fit(strategy(layer))) return;
    const std::string kind = model_.cost_class(layer);
    auto known = metas_.find(kind);
    if (known == metas_.end()) {
      const auto module = model_.make_layer(layer, meta_layout_);
      std::vector<ParamMeta> metas;
      for (const auto& owned : module->collect("")) metas.push_back(owned.parameter->meta);
      known = metas_.emplace(kind, std::move(metas)).first;
    }
    const TensorLimit limit = tensor_limit(known->second, tp, model_.layer_name(layer));
    if (!limit.why.empty()) add(layer, "tp", cat(tp), limit.allowed, limit.why);
  }

  // One parameter in several layers has one layout.
  void check_shared() {
    for (const SharedParameter& shared : model_.shared_parameters()) {
      if (shared.model_wide) continue;
      const int owner = shared.layers.front();
      const LayerStrategy& first = strategy(owner);
      for (const int layer : shared.layers) {
        const LayerStrategy& s = strategy(layer);
        const auto equal = [&](const char* field, int given, int wanted) {
          if (given == wanted) return;
          add(layer, field, cat(given), cat(wanted),
              cat(" (as in ", model_.layer_name(owner), ": both hold ", shared.name, ")"));
        };
        equal("tp", s.tp, first.tp);
        if (s.tp == first.tp) equal("dp", s.dp, first.dp);
        equal("zero", s.zero, first.zero);
        if (s.zero == first.zero && s.dp == first.dp)
          equal("shards", s.shard_count(), first.shard_count());
      }
    }
  }

  const LayerStrategy& strategy(int layer) const {
    return plan_.layers[static_cast<size_t>(layer)];
  }
  bool degrees_fit(const LayerStrategy& s) const {
    return s.tp >= 1 && s.dp >= 1 && int64_t{s.dp} * s.tp == plan_.ranks_per_stage();
  }

  struct LayerProblem {
    int first = 0;
    std::string field, given, allowed, hint;
    int layers = 0;
  };

  const Plan& plan_;
  const ModelSpec& model_;
  const int64_t time_;
  const ParallelLayout meta_layout_ = ParallelLayout::serial(at::kMeta);
  std::map<std::string, std::vector<ParamMeta>> metas_;  // by cost class
  std::map<std::tuple<std::string, std::string, std::string>, size_t> by_layer_;
  std::vector<LayerProblem> of_layers_;
  std::vector<std::string> problems_;
};

}  // namespace check_plan_detail

std::vector<std::string> check_plan(const Plan& plan, const ModelSpec& model, int64_t time) {
  return check_plan_detail::Checker(plan, model, time).check();
}

}  // namespace strata
