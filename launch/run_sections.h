#pragma once
// The sections of a run file that belong to launching and training. Defaults are the members'
// values; visit() says what each key means and allows.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "optim/rule_set.h"
#include "parallel/plan/plan_json.h"

namespace strata {

class ConfigVisitor;

struct RunSection {
  std::string name = "run";
  std::string dir;  // "": runs/<name>
  std::string directory() const { return dir.empty() ? "runs/" + name : dir; }
  void visit(ConfigVisitor& v);
};

struct TrainSection {
  int64_t steps = 1000;
  int64_t batch = 8;  // global rows per step
  std::string dtype = "fp32";
  int64_t seed = 1;
  double label_smoothing = 0;
  double z_loss = 0;
  int64_t head_chunk_tokens = 1024;
  int64_t vocabulary_unit = 128;
  std::string nonfinite = "skip";
  double densify_at = 1;
  int64_t densify_warmup = 200;
  std::vector<std::string> freeze;
  void visit(ConfigVisitor& v);
};

struct OptimSection {
  std::string name = "adamw";
  double lr = 3e-4;
  double max_grad_norm = 1.0;
  std::string clip_scope = "auto";
  bool audit = false;
  RuleSetConfig rules;
  void visit(ConfigVisitor& v);  // without the rule's own keys
};

struct PlanSection {
  std::string file = "none";
  int64_t tp = 1, pp = 1, chunks = 1, zero = 0, shards = 0;
  bool sequence_parallel = false;
  std::string recompute = "none";
  int64_t microbatches = 1;
  std::string schedule = "1f1b";
  std::optional<ParsedPlan> from_file;  // set by read_file()

  // With a file the other keys have no place: giving one is a problem.
  void visit(ConfigVisitor& v);
  // Reads plan.file unless it is "none". Throws ConfigError with everything that is wrong with it.
  void read_file();
  UniformPlan request(int world_size, int64_t global_batch) const;
};

struct CheckpointSection {
  int64_t interval = 500;  // steps; 0: only at the end
  std::string dir;         // "": <run.dir>/checkpoints
  std::string resume = "auto";
  std::string load = "strict";
  std::string init;
  int64_t keep_last = 3, keep_every = 0;
  int64_t max_failures = 3, fallbacks = 3;
  std::string hash = "weights";
  std::string reset_optim = "none";
  void visit(ConfigVisitor& v);
};

struct EvalSection {
  int64_t interval = 0;  // steps; 0: never
  int64_t rows = 64;     // 0: all of the validation data
  void visit(ConfigVisitor& v);
};

struct SampleSection {
  std::string prompt = "\n";
  std::string mask = "[MASK]";
  int64_t tokens = 200;
  double temperature = 0.8;
  int64_t top_k = 0;
  double top_p = 1.0;
  int64_t seed = 1;
  int64_t interval = 0;  // steps; 0: never during training
  void visit(ConfigVisitor& v);
};

struct RuntimeSection {
  std::string backend = "auto";
  std::string device = "auto";
  int64_t threads = 0;  // 0: cores of the node divided by its ranks; 1 when invariant
  std::string deterministic = "off";
  int64_t audit_interval = 500;  // steps; 0: never
  double step_timeout_s = 0;     // 0: max(60 s, 20 x median step)
  bool share_devices = false;
  bool invariant() const { return deterministic == "invariant"; }
  void visit(ConfigVisitor& v);
};

struct CommSection {
  std::string check = "step";
  void visit(ConfigVisitor& v);
};

struct LogSection {
  std::string level = "info";
  std::string ranks = "0";
  int64_t interval = 10;
  bool tensorboard = false;
  void visit(ConfigVisitor& v);
};

struct FaultSection {
  std::string inject;
  void visit(ConfigVisitor& v);
};

}  // namespace strata
