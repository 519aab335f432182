#pragma once
// What one run is: every section of a run file (docs/config.md lists the keys). Reading checks
// everything that can be checked without other ranks and reports all problems at once.
//
//   RunConfig config = read_run_config({.path = "run.ini", .overrides = {{"optim.lr", "1e-3"}}});
//
// Keys of [model] and [optim] depend on model.name and optim.name: the families and rules read them
// through their registries. A RunConfig is a plain value; `ini` is the effective configuration as a
// run file that reads back equal.
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "data/source.h"
#include "data/tokenizer.h"
#include "launch/run_sections.h"
#include "models/register.h"
#include "optim/distributed_optimizer.h"
#include "optim/schedules.h"

namespace strata {

class ConfigReader;

using Overrides = std::vector<std::pair<std::string, std::string>>;  // "optim.lr", "1e-3"

struct RunConfig {
  RunSection run;
  DataConfig data;
  TrainSection train;
  std::string model_name = "llama";
  OptimSection optim;
  ScheduleConfig sched;
  PlanSection plan;
  CheckpointSection ckpt;
  EvalSection eval;
  SampleSection sample;
  RuntimeSection runtime;
  CommSection comm;
  LogSection log;
  FaultSection fault;

  std::shared_ptr<const ModelSpec> model;        // of [model]; set by reading
  std::shared_ptr<const DataSource> train_data;  // opened while reading, unless that was not needed
  std::string ini;                               // effective configuration; set by reading
  ExtraFamilies families;                        // known besides the built-in ones

  // All sections, in the order of docs/config.md. A reader fills the struct and `model`.
  void visit(ConfigVisitor& v);
  // The same without the keys that only one model family or update rule has.
  void visit_settings(ConfigVisitor& v);

  uint64_t data_seed() const {
    return static_cast<uint64_t>(data.seed >= 0 ? data.seed : train.seed);
  }
  ModelOptions model_options() const;

 private:
  friend class RunConfigReader;
  void visit_before_model(ConfigVisitor& v);
  void visit_model(ConfigVisitor& v, bool with_products = true);
  void visit_after_model(ConfigVisitor& v, bool with_products = true);
};

struct RunInput {
  enum class Data {
    Open,           // train_data is wanted; the vocabulary is checked against it
    ForVocabulary,  // opened only when model.vocab_size is not given
  };
  std::string path;  // run file; empty: overrides and defaults only
  Overrides overrides;
  Data data = Data::Open;
  ExtraFamilies families = {};  // known besides the built-in ones
};

// Throws ConfigError with every problem of the whole input; DataError when the data cannot be
// opened.
RunConfig read_run_config(const RunInput& input);

// The update rules of [optim], read again from config.ini.
std::shared_ptr<const RuleSet> make_rules(const RunConfig& config);
OptimizerOptions optimizer_options(const RunConfig& config);

// docs/config.md: all sections, then the keys of every model family and update rule.
std::string config_markdown(const ExtraFamilies& families = {});
// The same as one JSON object, "section.key" -> type, default, allowed, help.
std::string config_json(const ExtraFamilies& families = {});

}  // namespace strata
