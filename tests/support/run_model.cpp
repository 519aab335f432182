#include "tests/support/run_model.h"

#include <ATen/TensorOperators.h>

#include <algorithm>

#include "core/config/reader.h"
#include "core/error.h"
#include "core/text.h"
#include "parallel/engine/gather.h"

namespace strata::testing {

RunSetup RunSetup::serial() const {
  RunSetup out = *this;
  out.strategy = {};
  out.pp = out.chunks = 1;
  out.schedule = "1f1b";
  out.edit = nullptr;
  return out;
}

ModelRun::ModelRun(std::shared_ptr<const ModelSpec> spec, const RunSetup& setup,
                   std::unique_ptr<Communicator> job)
    : spec_(std::move(spec)), setup_(setup) {
  UniformPlan request;
  request.world_size = job->size();
  request.pp = setup.pp;
  request.chunks = setup.chunks;
  request.strategy = setup.strategy;
  request.global_batch = setup.global_batch;
  request.microbatches = setup.microbatches;
  request.schedule = setup.schedule;
  Plan plan = make_uniform_plan(request, spec_->layer_count());
  if (setup.edit) setup.edit(plan);
  auto problems = check_plan(plan, *spec_, setup.length);
  if (setup.canonical) {
    for (const std::string& why : check_canonical(plan)) problems.push_back(why);
  }
  if (!problems.empty()) throw ConfigError(problems);
  pool_ = std::make_unique<CommPool>(std::move(job));
  options_.dtype = setup.dtype;
  options_.seed = 7;
  options_.vocabulary_unit = setup.vocabulary_unit;
  options_.canonical_sums = setup.canonical;
  ConfigReader reader;
  reader.add_ini(cat("[optim]\n", setup.rule_keys), "rule");
  reader.begin_section("optim", "");
  RuleSetConfig rule_config{.min_matrix_dim = 1};
  rule_config.visit(reader);
  auto rule = rule_registry().make(setup.rule, reader);
  reader.end_section();
  STRATA_CHECK(!reader.has_problems(), cat("a test sets unknown keys: ", setup.rule_keys));
  rules_ =
      std::make_shared<const RuleSet>(std::move(rule), make_adamw(rule_config.aux), rule_config, 1);
  DistributedOptimizer::prepare(options_, *rules_);
  manager_ = ParallelManager::build(spec_, plan, *pool_, options_);
  auto source = make_initial_weights(7);
  manager_->load_weights(*source);
  optimizer_options_ = {.max_grad_norm = setup.max_grad_norm,
                        .audit = true,
                        .exact_norm = setup.canonical,
                        .exchange_bytes = setup.exchange_bytes};
  optimizer_ = std::make_unique<DistributedOptimizer>(*manager_, rules_, optimizer_options_);
  optimizer_->load_masters(*source);
}

OptimizerPlan ModelRun::optimizer_plan() const {
  return plan_optimizer(spec_, manager_->plan(), rules_, options_, optimizer_options_);
}

StepLoss ModelRun::forward_backward(int64_t step) {
  std::vector<Batch> microbatches;
  for (int64_t m = 0; m < setup_.microbatches; ++m) {
    const Range rows = manager_->rows_needed(m);
    microbatches.push_back(
        tiny_rows(spec_->vocabulary(), rows.begin, rows.end, setup_.length, step, setup_.packed));
  }
  return manager_->forward_backward(microbatches);
}

StepReport ModelRun::step(int64_t step, double lr) {
  const StepLoss loss = forward_backward(step);
  return optimizer_->step({step, lr}, loss);
}

std::map<std::string, Tensor> ModelRun::weights() const {
  return gather_logical(*manager_, [](const OwnedSlice& s) { return s.value; });
}

std::map<std::string, Tensor> ModelRun::gradients() const {
  const double scale = optimizer_->gradient_scale();
  return gather_logical(*manager_, [&](const OwnedSlice& s) { return s.grad * scale; });
}

double relative_error(const Tensor& a, const Tensor& b, const Tensor& reference) {
  const double difference = (a.to(at::kDouble) - b.to(at::kDouble)).norm().item<double>();
  const double size = reference.to(at::kDouble).norm().item<double>();
  return size > 0 ? difference / size : difference;
}

bool zero_but_for_rounding(const std::string& parameter) {
  return parameter.find(".0.hc_attn.") != std::string::npos;
}

double gradient_error(const std::string& name, const Tensor& a, const Tensor& reference,
                      double norm_of_all) {
  if (!zero_but_for_rounding(name)) return relative_error(a, reference, reference);
  const double size = std::max(reference.to(at::kDouble).norm().item<double>(), 1e-3 * norm_of_all);
  return (a.to(at::kDouble) - reference.to(at::kDouble)).norm().item<double>() / size;
}

}  // namespace strata::testing
