// strata plan check|show
#include <cmath>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "core/config/reader.h"
#include "core/error.h"
#include "core/io/file.h"
#include "core/text.h"
#include "launch/command_line.h"
#include "launch/commands.h"
#include "launch/optimizer_report.h"
#include "launch/run_config.h"
#include "launch/run_plan.h"
#include "parallel/plan/border_traffic.h"
#include "parallel/plan/plan_string.h"
#include "parallel/plan/schedule.h"
#include "parallel/plan/simulate.h"

namespace strata {
namespace cmd_plan_detail {

using Json = nlohmann::ordered_json;

constexpr int kRefused = 2;

// A plan, and as far as it is known what it is for.
struct Subject {
  PlanSection section;
  std::string name;  // of the plan, in messages
  std::string model_name;
  std::shared_ptr<const ModelSpec> model;  // nullptr without --model
  std::optional<int64_t> batch;
  int64_t time = 0;              // tokens per row; 0: not known
  int64_t value_bytes = 0;       // of an activation; 0: not known
  int devices = 0;               // 0: not given
  std::optional<RunConfig> run;  // of a run file

  int ranks() const { return section.from_file ? section.from_file->plan.world_size : devices; }
  int64_t rows() const {
    if (batch) return *batch;
    return section.from_file ? section.from_file->plan.global_batch : TrainSection().batch;
  }
  // As it would be run. Throws ConfigError.
  Plan checked() const { return make_run_plan(section, *model, ranks(), rows(), time); }
  Plan unchecked() const {
    if (section.from_file) return section.from_file->plan;
    return make_uniform_plan(section.request(ranks(), rows()), model->layer_count());
  }
};

int64_t bytes_of(const std::string& dtype) { return dtype == "fp64" ? 8 : dtype == "fp32" ? 4 : 2; }

// A run file says everything; a config.json only what the model is.
void read_model(const CommandLine& line, const ExtraFamilies& families, Subject& subject) {
  subject.model_name = *line.value("model");
  if (!ends_with(subject.model_name, ".json")) {
    const RunConfig config = read_run_config({.path = subject.model_name,
                                              .overrides = line.overrides(),
                                              .data = RunInput::Data::ForVocabulary,
                                              .families = families});
    subject.model = config.model;
    subject.batch = config.train.batch;
    subject.time = config.data.sequence_length;
    subject.value_bytes = bytes_of(config.train.dtype);
    subject.section = config.plan;
    subject.run = config;
    return;
  }
  std::string text;
  try {
    text = io::read_text(subject.model_name);
  } catch (const StorageError&) {
    throw ConfigError("--model", subject.model_name, "a run file or config.json that can be read");
  }
  subject.model = make_model_from_json(text, subject.model_name);
  ConfigReader reader;
  for (const auto& [key, value] : line.overrides()) reader.add_override(key, value);
  reader.begin_section("train", "");
  reader.field("batch", subject.batch, at_least(1), "", "");
  reader.end_section();
  reader.begin_section("data", "");
  reader.field("sequence_length", subject.time, at_least(1), "");
  reader.end_section();
  visit_section(reader, "plan", "", subject.section);
  reader.finish();
  subject.section.read_file();
}

ParsedPlan read_plan_word(const std::string& word) {
  if (looks_like_plan_string(word) && !std::filesystem::exists(word))
    return {parse_plan_string(word), {}};
  PlanSection section;
  section.file = word;
  section.read_file();
  return *section.from_file;
}

Subject read_subject(const CommandLine& line, const ExtraFamilies& families) {
  Subject subject;
  const bool named = !line.words().empty();
  if (!named && !line.has("model")) {
    throw ConfigError("strata plan", "no PLAN",
                      "a plan file, a plan string, or --model with --devices and --plan keys");
  }
  for (const auto& [key, value] : line.overrides()) {
    if (named && starts_with(key, "plan."))
      throw ConfigError("--" + key, value, cat("nothing beside the plan ", line.words()[0]));
    if (!line.has("model"))
      throw ConfigError("--" + key, value, "--model RUN.ini or config.json with it");
  }
  if (line.has("model")) read_model(line, families, subject);
  if (named) {
    subject.section = {};
    subject.section.from_file = read_plan_word(line.words()[0]);
    subject.name = looks_like_plan_string(line.words()[0]) ? "plan" : line.words()[0];
    subject.section.file = subject.name;
  } else {
    subject.name = subject.section.from_file ? subject.section.file : "plan of --plan keys";
  }
  if (const auto text = line.value("devices")) {
    int64_t devices = 0;
    if (!parse_integer(*text, devices) || devices < 1 || devices > 1 << 24)
      throw ConfigError("--devices", cat('"', *text, '"'), "integer from 1 to 16777216");
    subject.devices = static_cast<int>(devices);
    if (subject.ranks() != devices)
      throw ConfigError("--devices", *text, cat(subject.ranks(), " (", subject.name, ")"));
  } else if (!subject.section.from_file) {
    throw ConfigError("--devices", "nothing", "the number of ranks, with --plan keys");
  }
  return subject;
}

std::string model_text(const Subject& subject) {
  return cat(subject.model_name, " (", subject.model->family(), ", ",
             subject.model->layer_count() - 2, " blocks)");
}

// What read_subject() reads, and the form of the answer.
void offer_subject(CommandLine& line) {
  line.positional("PLAN", 0, 1);
  line.option("model", "FILE", "run file, or config.json of a model family");
  line.option("devices", "N", "number of ranks");
  line.flag("json", "print the result as JSON");
}

int check(const Arguments& arguments) {
  CommandLine line("plan check",
                   "[PLAN] --model RUN.ini|config.json [--devices N] [--json] "
                   "[--section.key=value]...",
                   "Says whether a model can be trained by a plan, or everything that stands in "
                   "the way. PLAN is a plan file\n"
                   "or a plan string; without it the plan is that of --plan.* keys on --devices N "
                   "ranks. Exit code 0: it can,\n"
                   "2: it cannot, or something could not be read.");
  offer_subject(line);
  if (!line.parse(arguments)) return 0;
  if (!line.has("model"))
    throw ConfigError("--model", "nothing", "the run file or config.json of the model");
  std::vector<std::string> problems;
  Subject subject;
  std::optional<Plan> plan;
  try {
    subject = read_subject(line, arguments.families);
    plan = subject.checked();
  } catch (const ConfigError& error) {
    if (!line.has("json")) throw;
    problems = error.problems();
  }
  if (line.has("json")) {
    Json out = {{"model", *line.value("model")}, {"good", problems.empty()}};
    if (plan) out["plan"] = plan_string(*plan);
    out["problems"] = problems;
    std::cout << out.dump(2) << '\n';
    return problems.empty() ? 0 : kRefused;
  }
  std::cout << subject.name << ": good for " << model_text(subject) << "\n  " << plan_summary(*plan)
            << "\n  " << plan_string(*plan) << '\n';
  return 0;
}

// --------------------------------------------------------------------------------------- show

std::vector<std::string> layer_names(const Subject& subject, const Plan& plan) {
  const auto layers = static_cast<int>(plan.layers.size());
  if (subject.model && subject.model->layer_count() != layers) {
    throw ConfigError(subject.name, cat(layers, " layers"),
                      cat(subject.model->layer_count(), " (", subject.model_name, ")"));
  }
  std::vector<std::string> names;
  for (int l = 0; l < layers; ++l) {
    if (subject.model) {
      names.push_back(subject.model->layer_name(l));
    } else {
      names.push_back(l == 0 ? "embedding" : l == layers - 1 ? "head" : cat("block ", l - 1));
    }
  }
  return names;
}

// Nothing when the plan's schedule does not exist for its numbers, or is too long for a picture.
std::optional<Simulation> simulated(const Plan& plan, std::string& why_not) {
  constexpr int64_t kMostOperations = 100000;
  if (plan.microbatches * plan.stages * plan.chunks > kMostOperations) {
    why_not = cat("not shown: ", plan.microbatches * plan.stages * plan.chunks, " operations");
    return std::nullopt;
  }
  const auto microbatches = static_cast<int>(plan.microbatches);
  why_not = why_not_schedule(plan.schedule, plan.stages, microbatches, plan.chunks);
  if (!why_not.empty()) return std::nullopt;
  return simulate(make_schedule(plan.schedule, plan.stages, microbatches, plan.chunks),
                  unit_costs(plan.chunks));
}

// Tokens per row for shares of a micro-batch, when nobody gave them: every cut fits.
int64_t any_time(const Plan& plan) {
  int64_t time = 1;
  for (const LayerStrategy& s : plan.layers) {
    const int64_t next = std::lcm(time, int64_t{s.tp});
    if (next <= 1 << 30) time = next;
  }
  return time;
}

class Shown {
 public:
  explicit Shown(const Subject& subject)
      : subject_(subject),
        plan_(subject.unchecked()),
        names_(layer_names(subject, plan_)),
        time_(subject.time > 0 ? subject.time : any_time(plan_)),
        simulation_(simulated(plan_, why_not_)),
        borders_(border_traffic(plan_, time_)) {}

  std::string text() const {
    std::string out = cat(plan_summary(plan_), '\n', plan_string(plan_), "\n\n",
                          plan_table(plan_, names_), "\nSchedule ", plan_.schedule);
    if (!simulation_) return cat(out, ": ", why_not_, '\n', borders_text());
    std::vector<std::string> peaks;
    for (const int peak : simulation_->peak_live) peaks.push_back(cat(peak));
    out += cat(", with a forward of 1 and a backward of 2: takes ",
               number_text(simulation_->makespan), ", idle ", percent(simulation_->bubble_share()),
               "; at most ", join(peaks), plan_.chunks > 1 ? " chunk" : "",
               " activations held by stage\n", timeline_text(*simulation_));
    return out + borders_text();
  }

  Json json() const {
    Json out = {{"summary", plan_summary(plan_)},
                {"string", plan_string(plan_)},
                {"plan", Json::parse(subject_.model ? plan_json(plan_, *subject_.model)
                                                    : plan_json(plan_))}};
    if (simulation_) {
      out["schedule"] = {{"makespan", simulation_->makespan},
                         {"idle_share", simulation_->bubble_share()},
                         {"peak_live", simulation_->peak_live}};
    }
    Json borders = Json::array();
    for (const BorderTraffic& border : borders_) {
      Json entry = {{"before", names_[static_cast<size_t>(border.layer)]},
                    {"forward_share", share(border.forward)},
                    {"backward_share", share(border.backward)}};
      if (const auto bytes = token_bytes(border.layer)) {
        entry["forward_bytes"] = border.forward * *bytes;
        entry["backward_bytes"] = border.backward * *bytes;
      }
      borders.push_back(entry);
    }
    out["layout_changes"] = borders;
    return out;
  }

 private:
  static std::string percent(double share) {
    return cat(number_text(std::round(share * 1000) / 10), " %");
  }
  double share(int64_t tokens) const {
    return static_cast<double>(tokens) / static_cast<double>(plan_.rows_per_microbatch() * time_);
  }
  // Of the activation in front of a layer; nothing when it is not known.
  std::optional<int64_t> token_bytes(int layer) const {
    if (!subject_.model || subject_.time == 0 || subject_.value_bytes == 0) return std::nullopt;
    int64_t values = 1;
    for (const int64_t extent : subject_.model->boundary(layer - 1, 1, 1)) values *= extent;
    return values * subject_.value_bytes;
  }
  std::string amount(int layer, int64_t tokens) const {
    const auto bytes = token_bytes(layer);
    return cat(percent(share(tokens)),
               bytes ? cat(" (", bytes_text(static_cast<double>(tokens * *bytes)), ")") : "");
  }

  std::string borders_text() const {
    if (borders_.empty()) return {};
    std::string out =
        "\nThe layout changes before these layers; of a micro-batch's activation the busiest rank "
        "receives\n";
    for (const BorderTraffic& border : borders_) {
      out += cat("  ", names_[static_cast<size_t>(border.layer)], ": ",
                 amount(border.layer, border.forward), " forward, ",
                 amount(border.layer, border.backward), " backward\n");
    }
    return out;
  }

  const Subject& subject_;
  Plan plan_;
  std::vector<std::string> names_;
  int64_t time_;
  std::string why_not_;
  std::optional<Simulation> simulation_;
  std::vector<BorderTraffic> borders_;
};

// What --optimizer adds. Checks the plan first: ranks of one that cannot be run cannot be built.
struct ShownOptimizer {
  std::vector<RuleAssignment> rules;
  OptimizerPlan plan;

  explicit ShownOptimizer(const Subject& subject) {
    if (!subject.run) {
      throw ConfigError("--optimizer", subject.model ? subject.model_name : "no --model",
                        "--model RUN.ini with it, for the keys of [optim]");
    }
    const RunConfig& run = *subject.run;
    const auto rule_set = make_rules(run);
    const at::ScalarType dtype = parse_train_dtype(run.train.dtype);
    if (auto problems = rule_set->unused_patterns(parameter_metas(*subject.model));
        !problems.empty())
      throw ConfigError(std::move(problems));
    rules = assign_rules(*subject.model, *rule_set, dtype);
    ManagerOptions manager;
    manager.dtype = dtype;
    manager.vocabulary_unit = run.train.vocabulary_unit;
    plan =
        plan_optimizer(subject.model, subject.checked(), rule_set, manager, optimizer_options(run));
  }
};

int show(const Arguments& arguments) {
  CommandLine line("plan show",
                   "[PLAN] [--model RUN.ini|config.json] [--devices N] [--optimizer] [--json] "
                   "[--section.key=value]...",
                   "Prints a plan: its layers, the schedule of its stages, and what moves where "
                   "neighbouring layers are cut\n"
                   "differently. PLAN is a plan file or a plan string; without it the plan is that "
                   "of --plan.* keys on\n"
                   "--devices N ranks. Does not ask whether the plan can be run (plan check does). "
                   "Exit code 0, or 2 when\n"
                   "something could not be read. --optimizer (with a run file, for plans that can "
                   "be run): the rule, the\n"
                   "reason and the state of every parameter, who updates which matrix, and what "
                   "travels for that.");
  offer_subject(line);
  line.flag("optimizer", "show what the optimizer does instead");
  if (!line.parse(arguments)) return 0;
  const Subject subject = read_subject(line, arguments.families);
  if (line.has("optimizer")) {
    const ShownOptimizer optimizer(subject);
    std::cout << (line.has("json") ? optimizer_json(optimizer.rules, optimizer.plan).dump(2) + "\n"
                                   : cat(rule_table(optimizer.rules), "\n",
                                         optimizer_plan_text(optimizer.plan)));
    return 0;
  }
  const Shown shown(subject);
  std::cout << (line.has("json") ? shown.json().dump(2) + "\n" : shown.text());
  return 0;
}

}  // namespace cmd_plan_detail

int cmd_plan(const Arguments& arguments) {
  using namespace cmd_plan_detail;
  const std::string verb = take_verb("plan", arguments, {"check", "show"});
  if (verb == "check") return check(after_verb(arguments));
  if (verb == "show") return show(after_verb(arguments));
  return 0;
}

}  // namespace strata
