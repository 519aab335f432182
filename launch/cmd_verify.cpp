// strata verify DIR: runs a model on a folder of reference results, in any layout, and compares
// everything.
#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/config/reader.h"
#include "core/error.h"
#include "core/text.h"
#include "launch/command_line.h"
#include "launch/commands.h"
#include "launch/failure.h"
#include "launch/parity_case.h"
#include "launch/parity_report.h"
#include "launch/run_plan.h"
#include "launch/runtime.h"
#include "launch/verify_ranks.h"
#include "launch/verify_trace.h"
#include "optim/distributed_optimizer.h"
#include "parallel/engine/gather.h"

namespace strata {
namespace cmd_verify_detail {

constexpr int kOutsideTolerance = 10;

struct VerifyConfig {
  TrainSection train;
  PlanSection plan;
  RuntimeSection runtime;
  CommSection comm;
  LogSection log;

  VerifyConfig() {
    train.dtype = "fp64";
    log.level = "warn";
  }
  void visit(ConfigVisitor& v) {
    v.begin_section("train", "");
    v.field("dtype", train.dtype, one_of({"fp32", "bf16", "fp64"}), "compute type");
    v.field("vocabulary_unit", train.vocabulary_unit, at_least(1),
            "granularity of the vocabulary cut");
    v.field("head_chunk_tokens", train.head_chunk_tokens, at_least(1),
            "tokens whose logits are held at a time");
    v.end_section();
    visit_section(v, "plan", "", plan);
    visit_section(v, "runtime", "", runtime);
    visit_section(v, "comm", "", comm);
    visit_section(v, "log", "", log);
  }
};

struct Options {
  std::string folder;
  VerifyConfig config;
  double tolerance = 0;
  bool json = false;
  bool of_updates = false;  // a file of recorded updates instead of a folder

  at::ScalarType dtype() const { return parse_train_dtype(config.train.dtype); }
};

double default_tolerance(const std::string& dtype) {
  if (dtype == "fp64") return 1e-9;
  return dtype == "fp32" ? 1e-4 : 5e-2;
}

// Part of the norm of all gradients below which a gradient counts as zero in exact arithmetic: well
// above the rounding noise of a sum that cancels, well below anything that matters.
double zero_part(const std::string& dtype) {
  if (dtype == "fp64") return 1e-7;
  return dtype == "fp32" ? 1e-4 : 1e-1;
}

bool read_options(const Arguments& arguments, Options& out) {
  CommandLine line(
      "verify", "DIR|FILE [--train.dtype=fp64] [--plan.tp=2 ...] [--tolerance=X] [--json]",
      "Loads config.json and model.safetensors of DIR, runs forward and backward on the batch in\n"
      "expected.safetensors and compares logits, loss and every gradient; where the folder has a "
      "training\n"
      "trace, replays it. FILE is a safetensors file of recorded optimizer updates "
      "(docs/optimizers.md):\n"
      "they are replayed and weights compared after each; or of singular values with the ranks "
      "that "
      "WeLore's\n"
      "authors selected. Works under mpirun in any layout. Exit code 10 when something is outside "
      "the\n"
      "tolerance.");
  line.positional("DIR", 1, 1);
  line.short_for("plan", "FILE", "plan.file", "plan file; short for --plan.file=FILE");
  line.option("tolerance", "X",
              "largest relative error; default 1e-9 (fp64), 1e-4 (fp32), 5e-2 (bf16); of updates, "
              "relative to the distance moved, 1e-10 and 1e-2");
  line.flag("json", "print the result as JSON");
  line.more_help(
      "Keys: train.dtype, train.vocabulary_unit, train.head_chunk_tokens, plan.*, runtime.*, "
      "comm.*, log.*\n");
  if (!line.parse(arguments)) return false;
  ConfigReader reader;
  for (const auto& [key, value] : line.overrides()) reader.add_override(key, value);
  out.config.visit(reader);
  reader.finish();
  out.config.plan.read_file();
  out.folder = line.words()[0];
  out.json = line.has("json");
  out.of_updates = std::filesystem::is_regular_file(out.folder);
  out.tolerance = default_tolerance(out.config.train.dtype);
  if (out.of_updates) out.tolerance = out.config.train.dtype == "fp64" ? 1e-10 : 1e-2;
  if (const auto text = line.value("tolerance")) {
    if (!parse_number(*text, out.tolerance) || !(out.tolerance >= 0)) {
      throw ConfigError("--tolerance", cat('"', *text, '"'), "number >= 0");
    }
  }
  return true;
}

// One comparison, from weights to report.
class Verification {
 public:
  Verification(const Options& options, Runtime& runtime)
      : options_(options), runtime_(runtime), report_(options.tolerance) {}

  int run() {
    prepare();
    compare_step();
    compare_logits();
    if (case_.trace) compare_trace();
    return finish();
  }

 private:
  void prepare() {
    ModelOptions model_options;
    model_options.head_chunk_tokens = options_.config.train.head_chunk_tokens;
    together(runtime_.job(), [&] { case_ = read_parity_case(options_.folder, model_options); });
    PlanSection section = options_.config.plan;
    find_multiples(section);
    batch_ = padded(case_.batch);
    if (section.from_file) section.from_file->plan.global_batch = batch_.rows();
    plan_ = same_everywhere([&] {
      return make_run_plan(section, *case_.model, runtime_.world(), batch_.rows(), batch_.length());
    });
    ManagerOptions manager;
    manager.dtype = options_.dtype();
    manager.device = runtime_.device();
    manager.vocabulary_unit = options_.config.train.vocabulary_unit;
    model_ = ParallelManager::build(case_.model, plan_, runtime_.pool(), manager);
    together(runtime_.job(),
             [&] { source_ = make_safetensors_weights(options_.folder, *case_.model); });
    model_->load_weights(*source_);
  }

  // Rows and tokens are added until the plan's replicas, micro-batches and cuts divide them.
  void find_multiples(const PlanSection& section) {
    if (!section.from_file) {
      const int64_t model_ranks = section.pp * section.tp;
      row_multiple_ = std::max<int64_t>(1, runtime_.world() / model_ranks) * section.microbatches;
      time_multiple_ = section.sequence_parallel ? section.tp : 1;
      return;
    }
    const Plan& plan = section.from_file->plan;
    int64_t replicas = 1;
    for (const LayerStrategy& s : plan.layers) {
      replicas = std::lcm(replicas, int64_t{s.dp});
      if (s.sequence_parallel) time_multiple_ = std::lcm(time_multiple_, int64_t{s.tp});
    }
    row_multiple_ = replicas * plan.microbatches;
  }

  Batch padded(const Batch& batch) const {
    return pad_batch(batch, row_multiple_, time_multiple_, case_.model->causal());
  }

  std::vector<Batch> microbatches(const Batch& batch) const {
    std::vector<Batch> out;
    for (int64_t m = 0; m < plan_.microbatches; ++m) {
      const Range rows = model_->rows_needed(m);
      out.push_back(batch.slice(rows.begin, rows.end));
    }
    return out;
  }

  void compare_step() {
    const StepLoss share = model_->forward_backward(microbatches(batch_));
    Tensor sums = at::zeros({2}, at::TensorOptions().dtype(at::kDouble));
    sums[0] = share.loss_sum;
    sums[1] = static_cast<double>(share.counted);
    runtime_.job().all_reduce(sums, ReduceOp::Sum).wait_host();
    const double counted = sums[1].item<double>();
    if (case_.loss) report_.compare("loss", sums[0].item<double>() / counted, *case_.loss);
    const double scale = std::ldexp(1.0, model_->loss_exponent()) / counted;
    compare_gradients(gather_logical(*model_, [&](const OwnedSlice& s) { return s.grad * scale; }));
  }

  // Of a parameter whose steps are tensors of their own in files.
  void compare_parts(const ForeignTensor& foreign, const Tensor& gradient, double floor) {
    const auto rows = gradient.size(0) / static_cast<int64_t>(foreign.parts.size());
    for (size_t i = 0; i < foreign.parts.size(); ++i) {
      const auto expected = case_.gradients.find(foreign.parts[i]);
      if (expected == case_.gradients.end()) {
        report_.fail("grad." + foreign.parts[i], "computed, but not in expected.safetensors");
        continue;
      }
      report_.compare("grad." + foreign.parts[i],
                      gradient.narrow(0, static_cast<int64_t>(i) * rows, rows), expected->second,
                      floor);
    }
  }

  void compare_gradients(const std::map<std::string, Tensor>& computed) {
    if (!runtime_.first()) return;
    double squares = 0;
    for (const auto& [name, gradient] : case_.gradients)
      squares += gradient.square().sum().item<double>();
    const double floor = std::sqrt(squares) * zero_part(options_.config.train.dtype);
    std::map<std::string, bool> seen;
    for (const auto& [name, gradient] : computed) {
      ForeignTensor foreign = case_.model->foreign(name);
      if (case_.gradients.count(foreign.name) == 0) {
        for (const std::string& alias : case_.model->foreign_aliases(name)) {
          if (case_.gradients.count(alias) > 0) foreign.name = alias;
        }
      }
      for (const std::string& part : foreign.names()) seen[part] = true;
      if (!foreign.parts.empty()) {
        compare_parts(foreign, gradient, floor);
        continue;
      }
      const auto expected = case_.gradients.find(foreign.name);
      if (expected == case_.gradients.end()) {
        report_.fail("grad." + foreign.name, "computed, but not in expected.safetensors");
        continue;
      }
      const Range& rows = foreign.rows;
      const bool inside = !foreign.part() || rows.end <= expected->second.size(0);
      report_.compare(foreign.part()
                          ? cat("grad.", foreign.name, "[", rows.begin, ":", rows.end, "]")
                          : "grad." + foreign.name,
                      foreign.transposed ? gradient.t() : gradient,
                      foreign.part() && inside ? expected->second.narrow(0, rows.begin, rows.size())
                                               : expected->second,
                      floor);
    }
    for (const auto& [name, gradient] : case_.gradients) {
      if (seen.count(name) == 0)
        report_.fail("grad." + name, "expected, but the model has no such parameter");
    }
  }

  void compare_logits() {
    if (!case_.logits.defined()) return;
    Batch whole = padded(case_.batch);
    whole.labels = Tensor();
    Tensor logits = model_->logits(whole).to(at::kCPU, at::kDouble);
    if (!runtime_.first()) return;
    logits = logits.narrow(0, 0, case_.batch.rows()).narrow(1, 0, case_.batch.length());
    report_.compare("logits", logits, case_.logits);
  }

  void compare_trace() {
    const ParityCase::Trace& trace = *case_.trace;
    model_->load_weights(*source_);
    for (Parameter* p : model_->parameters()) p->meta.weight_decay = p->meta.logical.size() >= 2;
    DistributedOptimizer optimizer(*model_, trace_rule(), {.max_grad_norm = 1.0, .audit = true});
    optimizer.load_masters(*source_);
    Tensor loss = at::zeros_like(trace.loss), norm = at::zeros_like(trace.grad_norm);
    for (int64_t step = 0; step < trace.tokens.size(0); ++step) {
      Batch batch;
      batch.tokens = trace.tokens[step];
      batch.labels = trace.labels[step];
      batch.positions = default_positions(batch.rows(), batch.length());
      const StepLoss share = model_->forward_backward(microbatches(padded(batch)));
      const StepReport report = optimizer.step({step, 1e-3}, share);
      loss[step] = report.loss;
      norm[step] = report.grad_norm;
    }
    const double final_norm = parameter_norm(*model_);
    if (!runtime_.first()) return;
    report_.compare("trace.loss", loss, trace.loss);
    report_.compare("trace.grad_norm", norm, trace.grad_norm);
    if (trace.final_param_norm)
      report_.compare("trace.final_param_norm", final_norm, *trace.final_param_norm);
  }

  static std::shared_ptr<const RuleSet> trace_rule() {
    ConfigReader reader;
    for (const auto& [key, value] :
         {std::pair("beta1", "0.9"), {"beta2", "0.95"}, {"eps", "1e-8"}, {"weight_decay", "0.1"}}) {
      reader.add_override(cat("optim.", key), value);
    }
    reader.begin_section("optim", "");
    auto rule = rule_registry().make("adamw", reader);
    reader.end_section();
    reader.finish();
    return std::make_shared<const RuleSet>(std::move(rule));
  }

  int finish() {
    std::string passed = runtime_.first() && report_.passed() ? "1" : "0";
    runtime_.job().broadcast_bytes(passed, 0);
    if (runtime_.first()) print();
    return passed == "1" ? 0 : kOutsideTolerance;
  }

  void print() const {
    if (options_.json) {
      const nlohmann::ordered_json head = {{"folder", options_.folder},
                                           {"model", case_.model->family()},
                                           {"dtype", options_.config.train.dtype},
                                           {"plan", plan_summary(plan_)}};
      const std::string text = head.dump();
      std::cout << text.substr(0, text.size() - 1) << ',' << report_.json_members() << "}\n";
      return;
    }
    std::cout << case_.model->family() << ", " << options_.config.train.dtype << ", "
              << plan_summary(plan_) << '\n'
              << report_.table() << (report_.passed() ? "all" : "NOT all") << " within "
              << number_text(options_.tolerance) << '\n';
  }

  const Options& options_;
  Runtime& runtime_;
  ParityReport report_;
  ParityCase case_;
  Plan plan_;
  Batch batch_;
  int64_t row_multiple_ = 1, time_multiple_ = 1;
  std::unique_ptr<ParallelManager> model_;
  std::unique_ptr<WeightSource> source_;
};

int verify_file(const Options& options, Runtime& runtime) {
  if (options.config.train.dtype == "bf16") {
    throw ConfigError(
        "train.dtype", "bf16", "fp64, fp32",
        " (recorded updates are compared with the weights, which 16 bits would round)");
  }
  ParityReport report(options.tolerance);
  bool ranks = false;
  together(runtime.job(), [&] { ranks = has_spectra(options.folder); });
  if (ranks) {
    together(runtime.job(), [&] { verify_welore_ranks(options.folder, report); });
  } else {
    verify_update_trace(options.folder, options.config.plan, options.dtype(), runtime, report);
  }
  std::string passed = runtime.first() && report.passed() ? "1" : "0";
  runtime.job().broadcast_bytes(passed, 0);
  if (runtime.first() && options.json) {
    const nlohmann::ordered_json head = {{"file", options.folder},
                                         {"dtype", options.config.train.dtype}};
    const std::string text = head.dump();
    std::cout << text.substr(0, text.size() - 1) << ',' << report.json_members() << "}\n";
  } else if (runtime.first()) {
    const std::string what =
        ranks ? "ranks of WeLore" : cat("recorded updates, ", options.config.train.dtype);
    std::cout << what << '\n'
              << report.table() << (report.passed() ? "all" : "NOT all") << " within "
              << number_text(options.tolerance) << (ranks ? "\n" : " of the distance moved\n");
  }
  return passed == "1" ? 0 : kOutsideTolerance;
}

}  // namespace cmd_verify_detail

int cmd_verify(const Arguments& arguments) {
  using namespace cmd_verify_detail;
  Options options;
  if (!read_options(arguments, options)) return 0;
  Runtime runtime({options.config.runtime, options.config.comm, options.config.log, {}});
  if (options.of_updates) return runtime.guard([&] { return verify_file(options, runtime); });
  Verification verification(options, runtime);
  return runtime.guard([&] { return verification.run(); });
}

}  // namespace strata
