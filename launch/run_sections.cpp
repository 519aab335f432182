#include "launch/run_sections.h"

#include "core/config/visitor.h"
#include "core/error.h"
#include "core/io/file.h"
#include "core/text.h"
#include "parallel/plan/schedule.h"

namespace strata {

void RunSection::visit(ConfigVisitor& v) {
  Allowed<std::string> name_text{
      "1 to 64 of A-Z a-z 0-9 . _ -", [](const std::string& text) {
        if (text.empty() || text.size() > 64 || text[0] == '.') return false;
        return text.find_first_not_of(
                   "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") ==
               std::string::npos;
      }};
  v.field("name", name, name_text, "name of the run, in logs and checkpoints");
  v.field("dir", dir, path_text(),
          "run directory: config.ini, metrics.jsonl, checkpoints; empty: runs/<name>");
}

void TrainSection::visit(ConfigVisitor& v) {
  v.field("steps", steps, at_least(1), "optimizer steps of the whole run");
  v.field("batch", batch, at_least(1), "rows per step over all ranks");
  v.field("dtype", dtype, one_of({"fp32", "bf16", "fp64"}),
          "compute type; bf16 keeps fp32 masters");
  v.field("seed", seed, at_least(0), "initial weights and dropout");
  v.field("label_smoothing", label_smoothing, fraction_below_one(),
          "part of the target spread over the vocabulary");
  v.field("z_loss", z_loss, non_negative(), "weight of the squared log-partition function");
  v.field("head_chunk_tokens", head_chunk_tokens, at_least(1),
          "tokens whose logits are held at a time");
  v.field("vocabulary_unit", vocabulary_unit, at_least(1),
          "granularity in which the vocabulary is cut over tp");
  v.field("nonfinite", nonfinite, one_of({"skip", "stop"}),
          "a loss or gradient that is not finite: skip the step (three in a row or 20 of 1000 end "
          "the run), or stop at the first");
  v.field("densify_at", densify_at, number_between(0, 1),
          "part of the steps after which structured linears (model.linear) become dense; 1: never");
  v.field("densify_warmup", densify_warmup, at_least(0),
          "steps of linear warm-up after that, because the new weights have no optimizer state");
  v.field("freeze", freeze, any_text(),
          "names or globs of parameters that are not trained, as *.mlp.up_proj.weight");
}

void OptimSection::visit(ConfigVisitor& v) {
  v.field("lr", lr, non_negative(), "peak learning rate");
  v.field("max_grad_norm", max_grad_norm, non_negative(),
          "gradients are scaled down to this norm; 0: no clipping");
  v.field("clip_scope", clip_scope, one_of({"auto", "all", "companion"}),
          "whose gradients clipping scales: all, or those that a rule on matrices leaves to its "
          "companion, by their own norm; auto: companion for muon, else all");
  v.field("audit", audit, "count every element of the norm at every step, not only at the first");
  rules.visit(v);
}

void PlanSection::visit(ConfigVisitor& v) {
  v.field("file", file, path_text(),
          "plan file (docs/plan.md): every layer's own strategy, instead of the keys below; none: "
          "those");
  if (file == "auto") {
    v.problem("file", "\"auto\"", "none, or the path of a plan file",
              " (plans are not searched in this version)");
  }
  if (file != "none") {
    for (const char* key : {"tp", "pp", "chunks", "zero", "shards", "sequence_parallel",
                            "recompute", "microbatches", "schedule"}) {
      v.forbid(key, cat("nothing while plan.file = ", file, " (the file says it)"));
    }
    return;
  }
  std::vector<std::string> schedules;
  for (const std::string_view name : schedule_names()) schedules.emplace_back(name);
  v.field("tp", tp, between(1, 1 << 16), "tensor degree: ranks that share each cut weight");
  v.field("pp", pp, between(1, 1 << 16), "pipeline stages; dp = ranks / (pp * tp)");
  v.field("chunks", chunks, between(1, 1 << 16),
          "model chunks per stage; 2 or more with plan.schedule = interleaved");
  v.field("zero", zero, between(0, 3),
          "what is cut over dp: 1 optimizer state, 2 gradients, 3 parameters");
  v.field("shards", shards, between(0, 1 << 24),
          "into how many parts plan.zero cuts, a divisor of dp; the others are copies. 0: dp");
  v.field("sequence_parallel", sequence_parallel, "cut tokens over tp between regions");
  v.field("recompute", recompute, one_of({"none", "selective", "full"}),
          "full: activations of a layer are computed again backward; selective: those that are "
          "large and cheap");
  v.field("microbatches", microbatches, at_least(1), "parts in which a step's batch is run");
  v.field("schedule", schedule, one_of(schedules), "order of micro-batches over pipeline stages");
}

void PlanSection::read_file() {
  from_file.reset();
  if (file == "none") return;
  std::string text;
  try {
    text = io::read_text(file);
  } catch (const StorageError&) {
    throw ConfigError("plan.file", cat('"', file, '"'), "none, or a file that can be read");
  }
  from_file = parse_plan(text, file);
}

UniformPlan PlanSection::request(int world_size, int64_t global_batch) const {
  UniformPlan out;
  out.world_size = world_size;
  out.pp = static_cast<int>(pp);
  out.chunks = static_cast<int>(chunks);
  out.strategy.tp = static_cast<int>(tp);
  out.strategy.zero = static_cast<int>(zero);
  out.strategy.shards = static_cast<int>(shards);
  out.strategy.sequence_parallel = sequence_parallel;
  out.strategy.recompute = parse_recompute(recompute).value_or(Recompute::None);
  out.global_batch = global_batch;
  out.microbatches = microbatches;
  out.schedule = schedule;
  return out;
}

void CheckpointSection::visit(ConfigVisitor& v) {
  v.field("interval", interval, at_least(0), "steps between checkpoints; 0: only at the end");
  v.field("dir", dir, path_text(), "where checkpoints are; empty: <run.dir>/checkpoints");
  v.field("resume", resume, path_text(),
          "auto: the newest valid checkpoint, if any; none: start anew; or the folder of one "
          "checkpoint");
  v.field("load", load, one_of({"strict", "partial", "weights-only"}),
          "strict: everything must fit; partial: weights that fit, others initial; weights-only: "
          "no optimizer, step 0");
  v.field("init", init, path_text(),
          "safetensors file or folder that gives the first weights; empty: random ones");
  v.field("keep_last", keep_last, at_least(1), "newest checkpoints that are kept");
  v.field("keep_every", keep_every, at_least(0),
          "checkpoints of steps divisible by this are kept too; 0: none");
  v.field("max_failures", max_failures, at_least(1),
          "failed saves in a row that end the run (exit code 9)");
  v.field("fallbacks", fallbacks, at_least(0),
          "damaged checkpoints that resume = auto passes over");
  v.field("hash", hash, one_of({"weights", "off"}),
          "store a hash of the weights that does not depend on the layout");
  v.field("reset_optim", reset_optim, one_of({"none", "matrix", "all"}),
          "resume with fresh optimizer state: of rules on matrices, or of all parameters");
  if (load != "strict" && resume == "auto") {
    v.problem("load", load, "strict while ckpt.resume = auto",
              " (name the checkpoint in ckpt.resume: a warm start is "
              "never implicit)");
  }
  if (load != "strict" && !init.empty())
    v.problem("init", init, "nothing while ckpt.load is " + load);
}

void EvalSection::visit(ConfigVisitor& v) {
  v.field("interval", interval, at_least(0), "steps between evaluations; 0: never");
  v.field("rows", rows, at_least(0), "validation rows; 0: all");
}

void SampleSection::visit(ConfigVisitor& v) {
  v.field("prompt", prompt, any_text(), "text to continue, or to fill in (bidirectional families)");
  v.field("mask", mask, any_text(),
          "stands for one hidden token in the prompt of a bidirectional family");
  v.field("tokens", tokens, at_least(1), "tokens to generate");
  v.field("temperature", temperature, non_negative(), "0: always the likeliest token");
  v.field("top_k", top_k, at_least(0), "choose among this many likeliest tokens; 0: all");
  Allowed<double> probability{"number in (0, 1]", [](const double& p) { return p > 0 && p <= 1; }};
  v.field("top_p", top_p, probability,
          "choose among the likeliest tokens that together have this probability");
  v.field("seed", seed, at_least(0), "same seed, same text");
  v.field("interval", interval, at_least(0), "steps between samples during training; 0: never");
}

void RuntimeSection::visit(ConfigVisitor& v) {
  v.field("backend", backend, one_of({"auto", "mpi", "self", "nccl"}),
          "how ranks communicate; auto: self without mpirun, nccl on GPUs where built, else mpi");
  v.field("device", device, one_of({"auto", "cpu", "cuda"}), "auto: cuda when there is one");
  v.field("threads", threads, between(0, 4096),
          "threads per rank; 0: cores of the node divided by its ranks, or 1 when invariant");
  v.field("deterministic", deterministic, one_of({"off", "run", "invariant"}),
          "run: the same run twice gives the same bits (CPU runs always do); invariant: another "
          "layout too (docs/determinism.md)");
  v.field("audit_interval", audit_interval, at_least(0),
          "steps after which ranks compare their copies of weights and optimizer state; 0: never");
  v.field("step_timeout_s", step_timeout_s, non_negative(),
          "seconds after which a step counts as hung; 0: max(60, 20 x median step)");
  v.field("share_devices", share_devices, "allow several ranks on one GPU (backend mpi)");
  if (invariant() && device == "cuda")
    v.problem("device", device, "auto, cpu with runtime.deterministic = invariant");
  if (invariant() && backend == "nccl")
    v.problem("backend", backend, "auto, mpi, self with runtime.deterministic = invariant");
  if (share_devices && backend == "nccl")
    v.problem("share_devices", "true", "false with runtime.backend = nccl");
}

void CommSection::visit(ConfigVisitor& v) {
  v.field("check", check, one_of({"off", "step", "each"}),
          "compare the ranks' sequences of collectives: never, once a step, before each (slow)");
}

void LogSection::visit(ConfigVisitor& v) {
  v.field("level", level, one_of({"debug", "info", "warn", "error"}),
          "least important lines shown");
  v.field("ranks", ranks, one_of({"0", "all"}),
          "whose info lines reach the terminal; logs/rank-N.log has them all");
  v.field("interval", interval, at_least(1), "steps between progress lines");
  v.field("tensorboard", tensorboard,
          "also write TensorBoard event files below <run.dir>/tensorboard");
}

void FaultSection::visit(ConfigVisitor& v) {
  v.field("inject", inject, any_text(),
          "faults to rehearse, for example write:17=ENOSPC,kill@rename:2");
}

}  // namespace strata
