#include "launch/trainer.h"

#include <ATen/ops/full.h>

#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/log.h"
#include "core/memory_meter.h"
#include "core/text.h"
#include "data/tokenizer.h"
#include "launch/densify.h"
#include "launch/desync.h"
#include "launch/failure.h"
#include "launch/optimizer_report.h"
#include "launch/run_plan.h"
#include "launch/sampler.h"
#include "optim/replica_audit.h"
#include "parallel/engine/converted_weights.h"
#include "parallel/engine/frozen_weights.h"
#include "parallel/nn/auto_split_report.h"

namespace strata {
namespace trainer_detail {

constexpr int kPreempted = 75;

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

bool due(int64_t step, int64_t interval) { return interval > 0 && step % interval == 0; }

// A sample on one line of the log.
std::string printable(const std::string& text) {
  std::string out;
  for (const char c : text) out += c == '\n' ? std::string("\\n") : std::string(1, c);
  return out;
}

}  // namespace trainer_detail

Trainer::Trainer(const RunConfig& config, Runtime& runtime)
    : config_(config), runtime_(runtime), checkpoints_(config, runtime), spec_(config.model) {}
Trainer::~Trainer() = default;

int Trainer::run() {
  check_alike();
  choose_model();
  build();
  open_validation();
  restore();
  open_records();
  start_reading();
  forecast_memory();
  while (!done()) {
    if (densify_due()) densify();
    StepRecord step = train_step();
    const Request request = agree_on_request(last_report_);
    evaluate_if_due(step);
    sample_if_due(step.step);
    record(step);
    check_finite();
    save_if_due(request);
    if (request == Request::Stop && !done()) return finish(trainer_detail::kPreempted);
  }
  return finish(0);
}

// Before anything large is allocated: all ranks run the same program on the same configuration and
// data.
void Trainer::check_alike() {
  Facts facts = binary_facts();
  for (auto& fact : config_facts(config_.ini)) facts.push_back(std::move(fact));
  for (auto& fact : plan_facts(config_.plan)) facts.push_back(std::move(fact));
  facts.emplace_back("data fingerprint", config_.train_data->fingerprint());
  for (auto& fact : environment_facts()) facts.push_back(std::move(fact));
  check_same_everywhere(runtime_.job(), facts);
}

// A run that goes on after train.densify_at is one of a dense model.
void Trainer::choose_model() {
  if (densify_step(config_) < 0 || config_.ckpt.load != "strict") return;
  const std::filesystem::path newest = checkpoints_.find();
  together(runtime_.job(), [&] { spec_ = model_of(config_, newest); });
}

bool Trainer::densify_due() const {
  const int64_t at = densify_step(config_);
  return at >= 0 && position_.step >= at && spec_ == config_.model;
}

// Structured linears become dense ones that compute the same. The new weights are made from a
// checkpoint, so that every rank reads just what it will hold.
void Trainer::densify() {
  if (checkpoints_.newest_step() != position_.step) save();
  if (checkpoints_.newest_step() != position_.step) {
    throw_agreed(StorageError(cat("train.densify_at: the checkpoint of step ", position_.step,
                                  " could not be saved, and the dense weights are made from it.")));
  }
  runtime_.enter(Watchdog::Phase::Load, "densify", position_.step);
  const std::filesystem::path directory = checkpoints_.root() / checkpoints_.newest();
  const std::shared_ptr<const ModelSpec> structured = spec_;
  optimizer_.reset();
  model_.reset();
  spec_ = dense_model(config_);
  build();
  std::shared_ptr<const CheckpointReader> reader;
  together(runtime_.job(), [&] { reader = std::make_shared<CheckpointReader>(directory); });
  const auto stored = make_checkpoint_weights(reader);
  const bool shuffled = nlohmann::json::parse(structured->foreign_config()).value("shuffle", false);
  const auto dense = make_converted_weights(*stored, *structured, {.shuffled = shuffled});
  together(runtime_.job(), [&] {
    optimizer_->load_converted(*dense, *reader);
    load_frozen(*model_, *dense);
  });
  model_->weights_changed();
  flops_per_step_ = flops_per_step(*spec_, config_.train.batch, config_.data.sequence_length);
  log::info("step ", position_.step, ": linears are dense from here on; ",
            model_->logical_elements(), " parameters");
}

void Trainer::build() {
  memory_meter::install();
  plan_ = same_everywhere([&] {
    Plan plan = make_run_plan(config_.plan, *spec_, runtime_.world(), config_.train.batch,
                              config_.data.sequence_length);
    if (!config_.runtime.invariant()) return plan;
    std::vector<std::string> problems = check_canonical(plan);
    if (!problems.empty()) throw ConfigError(std::move(problems));
    return plan;
  });
  log::info("plan: ", plan_summary(plan_));
  if (config_.runtime.invariant()) {
    log::info("deterministic: equal bits in every layout of ",
              plan_.rows_per_microbatch() / plan_.layers[0].dp,
              " rows per rank and micro-batch, tp ", plan_.layers[0].tp, " and ",
              runtime_.threads(), runtime_.threads() == 1 ? " thread" : " threads", " a rank");
  }
  for (const std::string& note : auto_split_notes(*spec_, plan_))
    log::info("tensor parallelism: ", note);
  log::info("data: ", config_.train_data->description());
  if (runtime_.op_log() != nullptr) {
    std::vector<std::string> names;
    for (int l = 0; l < spec_->layer_count(); ++l) names.push_back(spec_->layer_name(l));
    runtime_.op_log()->set_layer_names(names);
  }
  ManagerOptions options;
  options.dtype = parse_train_dtype(config_.train.dtype);
  options.device = runtime_.device();
  options.seed = static_cast<uint64_t>(config_.train.seed);
  options.vocabulary_unit = config_.train.vocabulary_unit;
  options.canonical_sums = config_.runtime.invariant();
  const auto rules = make_rules(config_);
  same_everywhere([&] {
    auto problems = rules->unused_patterns(parameter_metas(*spec_));
    if (!problems.empty()) throw ConfigError(std::move(problems));
    return 0;
  });
  DistributedOptimizer::prepare(options, *rules);
  model_ = ParallelManager::build(spec_, plan_, runtime_.pool(), options);
  optimizer_ = std::make_unique<DistributedOptimizer>(*model_, rules, optimizer_options(config_));
  log::info("model: ", config_.model_name, ", ", spec_->layer_count() - 2, " blocks, ",
            model_->logical_elements(), " parameters; ", config_.train.dtype, " on ",
            runtime_.device().str(), ", ", runtime_.threads(),
            runtime_.threads() == 1 ? " thread" : " threads", " a rank");
  if (rules->size() == 1) return;
  std::string table = rule_table(assign_rules(*spec_, *rules, options.dtype));
  table.pop_back();
  for (const std::string& line : split(table, '\n')) log::info("optimizer: ", line);
}

void Trainer::open_validation() {
  together(runtime_.job(), [&] {
    if (config_.eval.interval > 0)
      valid_data_ = make_data_source(config_.data, Split::Valid, config_.data_seed());
    if (config_.eval.interval > 0 || config_.sample.interval > 0)
      tokenizer_ = make_data_tokenizer(config_.data);
    if (config_.sample.interval > 0 && !tokenizer_) {
      throw ConfigError(
          "sample.interval", cat(config_.sample.interval), "0",
          cat(" (the tokenizer of data.source = ", config_.data.source, " is not known)"));
    }
  });
}

void Trainer::restore() {
  runtime_.enter(Watchdog::Phase::Load, "load");
  position_ = checkpoints_.start(*model_, *optimizer_, config_.train_data->fingerprint());
  skips_ = SkipPolicy(position_.skipped);
  if (done()) {
    log::info("step ", position_.step, " of train.steps = ", config_.train.steps,
              " is done already");
  }
}

void Trainer::open_records() {
  runtime_.enter(Watchdog::Phase::Start, "start");
  flops_per_step_ = flops_per_step(*spec_, config_.train.batch, config_.data.sequence_length);
  if (!done())
    peak_flops_ =
        measure_peak(runtime_.job(), runtime_.device(), parse_train_dtype(config_.train.dtype));
  together(runtime_.job(), [&] {
    if (!runtime_.first()) return;
    const RunDirectory& directory = runtime_.directory();
    io::write_text_atomic(directory.file("config.ini"), config_.ini);
    io::write_text_atomic(directory.file("plan.json"), plan_json(plan_, *spec_));
    metrics_.emplace(directory.file("metrics.jsonl"), position_.step);
    if (config_.log.tensorboard)
      tensorboard_.emplace(directory.file("tensorboard"), position_.step + 1);
    write_status("training");
  });
  if (!done())
    log::info("matrix products reach ", number_text(std::round(peak_flops_ / 1e8) / 10),
              " GFLOP/s");
}

// Step s of this run needs the samples that follow those already consumed, whatever the batch was
// before.
void Trainer::start_reading() {
  if (done()) return;
  const int64_t batch = config_.train.batch, first = position_.step, consumed = position_.samples;
  std::vector<Range> ranges;
  for (int64_t m = 0; m < plan_.microbatches; ++m) ranges.push_back(model_->rows_needed(m));
  const auto requests = [=](int64_t step) {
    std::vector<Prefetcher::Request> out;
    const int64_t start = consumed + (step - first) * batch;
    for (const Range& range : ranges) out.push_back({start + range.begin, start + range.end});
    return out;
  };
  prefetcher_ = std::make_unique<Prefetcher>(*config_.train_data, requests, first);
}

// The contents of the batch do not matter, its shape does.
void Trainer::forecast_memory() {
  if (done() || !runtime_.device().is_cpu()) return;
  const Range rows = model_->rows_needed(0);
  memory_.forecast(*model_, *optimizer_, config_.train_data->rows(0, rows.size()));
}

StepRecord Trainer::train_step() {
  using trainer_detail::now_s;
  const double begin = now_s();
  runtime_.enter(timer_.median_s() == 0 ? Watchdog::Phase::FirstStep : Watchdog::Phase::Step,
                 "step", position_.step);
  std::vector<Batch> batches = prefetcher_->next(position_.step);
  for (Batch& batch : batches) batch.step = position_.step;
  take_request_files();
  const bool attention = std::max(file_request_, pending_request()) != Request::None;
  const double lr =
      learning_rate(config_.sched, config_.optim.lr, position_.step, config_.train.steps) *
      densify_warmup(config_, position_.step);
  const StepLoss loss = model_->forward_backward(batches);
  const double decay = weight_decay_factor(config_.sched, position_.step, config_.train.steps);
  last_report_ = optimizer_->step({position_.updates, lr, decay}, loss, attention);
  if (config_.comm.check != "off") check_sequences(runtime_.pool());
  memory_.measured(runtime_.job());

  ++position_.step;
  position_.updates += last_report_.skipped ? 0 : 1;
  position_.samples += config_.train.batch;
  position_.tokens += batch_tokens();
  position_.loss = last_report_.loss;
  position_.grad_norm = last_report_.grad_norm;
  StepRecord out;
  out.step = position_.step;
  out.loss = last_report_.loss;
  out.grad_norm = last_report_.grad_norm;
  out.skipped = last_report_.skipped;
  out.lr = lr;
  out.tokens = position_.tokens;
  out.samples = position_.samples;
  out.seconds = now_s() - begin;
  out.tokens_per_s = static_cast<double>(batch_tokens()) / out.seconds;
  out.flops_utilisation = peak_flops_ > 0 ? flops_per_step_ / out.seconds / peak_flops_ : 0;
  out.data_wait_s = prefetcher_->waited_s() - data_waited_s_;
  out.reduction_wait_s = model_->exposed_reduction_s();
  out.memory_bytes = peak_memory_bytes();
  data_waited_s_ = prefetcher_->waited_s();
  timer_.add(out.seconds);
  return out;
}

// A request can arrive at any rank; the step's control sum says that some rank has one, and only
// then they compare.
Request Trainer::agree_on_request(const StepReport& report) {
  if (!report.stop) return Request::None;
  const auto mine = static_cast<int64_t>(std::max(file_request_, pending_request()));
  Tensor most = at::full({1}, mine, at::TensorOptions().dtype(at::kLong));
  runtime_.job().all_reduce(most, ReduceOp::Max, {0, SiteOp::Control}).wait_host();
  file_request_ = Request::None;
  save_done();
  return static_cast<Request>(most.item<int64_t>());
}

void Trainer::take_request_files() {
  if (!runtime_.first()) return;
  for (const auto& [name, request] :
       {std::pair("STOP", Request::Stop), std::pair("SAVE", Request::Save)}) {
    std::error_code error;
    if (std::filesystem::remove(runtime_.directory().file(name), error)) {
      log::info("file ", name, " found");
      file_request_ = std::max(file_request_, request);
    }
  }
}

void Trainer::evaluate_if_due(StepRecord& step) {
  if (!valid_data_ || !(trainer_detail::due(step.step, config_.eval.interval) || done())) return;
  const auto alive = [&] { runtime_.enter(Watchdog::Phase::Evaluate, "evaluate", step.step); };
  step.eval = evaluate(*model_, *valid_data_, config_.eval.rows,
                       tokenizer_ ? tokenizer_->bytes_per_token() : 0, alive);
  log::info(eval_line(*step.eval, step.step));
}

void Trainer::sample_if_due(int64_t step) {
  if (!trainer_detail::due(step, config_.sample.interval)) return;
  const auto alive = [&](int32_t) {
    runtime_.enter(Watchdog::Phase::Evaluate, "sample", step);
    return true;
  };
  alive(0);
  const SampleSection& s = config_.sample;
  const SamplingOptions options{s.temperature, s.top_k, s.top_p, static_cast<uint64_t>(s.seed)};
  const std::vector<int32_t> ids = generate(*model_, tokenizer_->encode(s.prompt), s.tokens,
                                            config_.data.sequence_length, options, 0, alive);
  log::info("sample at step ", step, ": ",
            trainer_detail::printable(s.prompt + tokenizer_->decode(ids)));
}

void Trainer::record(const StepRecord& step) {
  if (!runtime_.first()) return;
  metrics_->append(step);
  if (tensorboard_) {
    Scalars scalars = {{"train/loss", step.loss},
                       {"train/grad_norm", step.grad_norm},
                       {"train/lr", step.lr},
                       {"speed/tokens_per_s", step.tokens_per_s},
                       {"speed/mfu", step.flops_utilisation}};
    if (step.eval)
      scalars.insert(scalars.end(),
                     {{"eval/loss", step.eval->loss}, {"eval/accuracy", step.eval->accuracy}});
    tensorboard_->add(step.step, scalars);
  }
  if (step.step == 1 || done() || step.skipped || step.eval ||
      trainer_detail::due(step.step, config_.log.interval)) {
    log::info(step_line(step, config_.train.steps, timer_.median_s()));
  }
  if (step.skipped) {
    log::warn("step ", step.step, " was skipped: ", skip_reason());
  }
}

std::string Trainer::skip_reason() const {
  return cat(last_report_.non_finite ? last_report_.non_finite->text() : "no label counts",
             " (samples ", position_.samples - config_.train.batch, " to ", position_.samples - 1,
             ")");
}

// The weights are those before the step in any case; the question is whether to go on.
void Trainer::check_finite() {
  const bool borne = skips_.add(position_.step, last_report_.skipped);
  position_.skipped = skips_.skipped();
  constexpr const char* kHelp =
      " The weights are those before. Try a smaller optim.lr, a longer sched.warmup, or "
      "train.dtype = fp32.";
  if (!borne) {
    throw_agreed(
        NumericError(cat("Too many steps were skipped: the last, step ", position_.step,
                         ", because ", skip_reason(), "; ", skips_.skipped().size(), " within ",
                         SkipPolicy::kWindow, " steps (allowed: fewer than ", SkipPolicy::kInARow,
                         " in a row and ", SkipPolicy::kWithin, " in all).", kHelp)));
  }
  if (last_report_.non_finite && config_.train.nonfinite == "stop") {
    throw_agreed(NumericError(
        cat("Step ", position_.step, ": ", skip_reason(), "; train.nonfinite = stop.", kHelp)));
  }
}

// A checkpoint holds one of the copies: they are compared before it is written.
void Trainer::audit_if_due(bool saving) {
  const int64_t interval = config_.runtime.audit_interval;
  if (interval == 0 || !(saving || trainer_detail::due(position_.step, interval))) return;
  runtime_.enter(Watchdog::Phase::Evaluate, "audit", position_.step);
  same_everywhere([&] {
    check_replicas(*model_, *optimizer_);
    return 0;
  });
}

void Trainer::save_if_due(Request request) {
  const bool due = trainer_detail::due(position_.step, config_.ckpt.interval) || done();
  const bool saving =
      (due || request != Request::None) && checkpoints_.newest_step() != position_.step;
  audit_if_due(saving);
  if (saving) save();
}

void Trainer::save() {
  runtime_.enter(Watchdog::Phase::Save, "save", position_.step);
  const double begin = trainer_detail::now_s();
  write_status("saving");
  if (checkpoints_.save(position_, *model_, *optimizer_, config_.train_data->fingerprint())) {
    log::info("saved ", checkpoints_.newest(), " in ",
              duration_text(trainer_detail::now_s() - begin));
  }
  write_status("training");
}

int Trainer::finish(int code) {
  runtime_.enter(Watchdog::Phase::Exit, "exit", position_.step);
  prefetcher_.reset();
  const bool saved = checkpoints_.newest_step() == position_.step;
  if (!saved) {
    throw_agreed(StorageError(
        cat("The last checkpoint, of step ", position_.step, ", could not be saved; the newest is ",
            checkpoints_.newest().empty() ? "none" : checkpoints_.newest(), ".")));
  }
  write_status(code == 0 ? "finished" : "preempted", code);
  log::info(code == 0 ? "finished at step " : "stopped on request, everything is saved, at step ",
            position_.step);
  runtime_.flush_log();
  runtime_.job().barrier();
  return code;
}

void Trainer::write_status(const std::string& state, int code) const {
  if (!runtime_.first()) return;
  runtime_.directory().write_status({.state = state,
                                     .step = position_.step,
                                     .steps = config_.train.steps,
                                     .exit_code = code,
                                     .checkpoint = checkpoints_.newest(),
                                     .message = {}});
}

}  // namespace strata
