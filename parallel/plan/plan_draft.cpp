#include "parallel/plan/plan_draft.h"

#include <algorithm>

#include "core/error.h"
#include "core/text.h"

namespace strata {
namespace plan_draft_detail {

class Finisher {
 public:
  Finisher(const PlanDraft& draft, const PlanWords& words, std::vector<std::string>& problems)
      : draft_(draft), words_(words), problems_(problems) {}

  Plan finish() {
    Plan plan;
    plan.world_size = static_cast<int>(draft_.devices);
    plan.stages = static_cast<int>(draft_.stages);
    plan.chunks = static_cast<int>(draft_.chunks);
    plan.microbatches = draft_.microbatches;
    plan.global_batch = draft_.batch;
    plan.schedule = draft_.schedule;
    check_numbers();
    fill_layers(plan);
    if (!plan.layers.empty()) fill_stages(plan);
    return plan;
  }

 private:
  void add(const std::string& key, const std::string& given, const std::string& allowed,
           const std::string& hint = {}) {
    problems_.push_back(words_.prefix + problem_text(key, given, allowed, hint));
  }

  void check_numbers() {
    if (draft_.devices % draft_.stages != 0) {
      add(words_.devices, cat(draft_.devices),
          cat("multiples of ", words_.stages, " = ", draft_.stages));
    }
    if (draft_.batch % draft_.microbatches != 0) {
      add(words_.microbatches, cat(draft_.microbatches),
          cat("divisors of ", words_.batch, " = ", draft_.batch));
    }
  }

  void check_degrees(const PlanDraft::Item& item) {
    const LayerStrategy& s = item.strategy;
    if (draft_.devices % draft_.stages != 0) return;
    const int64_t ranks = draft_.devices / draft_.stages;
    if (int64_t{s.dp} * s.tp != ranks) {
      add(item.where, cat(words_.dp, " ", s.dp, " x ", words_.tp, " ", s.tp),
          cat(words_.dp, " x ", words_.tp, " = ", ranks, " (", words_.devices, " / ", words_.stages,
              ")"));
    }
  }

  void fill_layers(Plan& plan) {
    int64_t next = 0;
    bool fits = true;
    for (const PlanDraft::Run& run : draft_.runs) {
      if (run.from != next || run.to < run.from) {
        const std::string given =
            run.to == run.from ? cat(run.from) : cat(run.from, " to ", run.to);
        add(run.where, "blocks " + given, cat("blocks from ", next, " on"),
            run.from > next ? cat(" (", next, " to ", run.from - 1, " are missing)") : "");
        fits = false;
      }
      next = std::max(next, run.to + 1);
      check_degrees(run);
    }
    if (draft_.embed) check_degrees(*draft_.embed);
    if (draft_.head) check_degrees(*draft_.head);
    if (draft_.runs.empty() && (!draft_.embed || !draft_.head)) {
      add(words_.blocks, "no blocks", "at least one, or embed and head");
      return;
    }
    if (!fits) return;
    plan.layers.push_back(draft_.embed ? draft_.embed->strategy : draft_.runs.front().strategy);
    for (const PlanDraft::Run& run : draft_.runs) {
      plan.layers.insert(plan.layers.end(), static_cast<size_t>(run.to - run.from + 1),
                         run.strategy);
    }
    plan.layers.push_back(draft_.head ? draft_.head->strategy : draft_.runs.back().strategy);
  }

  void fill_stages(Plan& plan) {
    const auto layers = static_cast<int64_t>(plan.layers.size());
    const int64_t parts = draft_.stages * draft_.chunks;
    if (parts > layers) {
      add(words_.stages,
          draft_.chunks == 1 ? cat(draft_.stages)
                             : cat(draft_.stages, " x ", draft_.chunks, " chunks"),
          cat("at most ", layers, " (layers, with embedding and head)"));
      return;
    }
    if (!draft_.has_cuts) {
      plan.virtual_stage = even_stages(static_cast<int>(layers), static_cast<int>(parts));
      return;
    }
    if (static_cast<int64_t>(draft_.cuts.size()) != parts - 1) {
      add(words_.cuts, cat(draft_.cuts.size() + 1, " parts"),
          cat(parts, draft_.chunks == 1 ? " (one per stage)" : " (one per stage and chunk)"));
      return;
    }
    int64_t begin = 0;
    int part = 0;
    for (const int64_t end : draft_.cuts) {
      if (end <= begin || end >= layers) {
        add(words_.cuts, cat("part ", part, " of layers ", begin, " to ", end - 1),
            cat("at least one layer in each part, layers 0 to ", layers - 1, " in order"));
        return;
      }
      plan.virtual_stage.insert(plan.virtual_stage.end(), static_cast<size_t>(end - begin), part++);
      begin = end;
    }
    plan.virtual_stage.insert(plan.virtual_stage.end(), static_cast<size_t>(layers - begin), part);
  }

  const PlanDraft& draft_;
  const PlanWords& words_;
  std::vector<std::string>& problems_;
};

}  // namespace plan_draft_detail

Plan finish_plan(const PlanDraft& draft, const PlanWords& words,
                 std::vector<std::string>& problems) {
  return plan_draft_detail::Finisher(draft, words, problems).finish();
}

}  // namespace strata
