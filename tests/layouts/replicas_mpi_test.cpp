// One element of one rank's copy is changed: the audit names the tensor and the rank. Whatever is
// copied somewhere in a layout is tried.
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/text.h"
#include "optim/replica_audit.h"
#include "tests/support/mpi_main.h"
#include "tests/support/run_model.h"

namespace strata::testing {
namespace replicas_detail {

const TinyModel& model_named(const std::string& part) {
  for (const TinyModel& model : tiny_models()) {
    if (model.name.find(part) != std::string::npos) return model;
  }
  throw InternalError("no tiny model " + part);
}

RunSetup setup_of(int pp, int tp, int zero, int shards = 0) {
  RunSetup s;
  s.pp = pp;
  s.strategy.tp = tp;
  s.strategy.zero = zero;
  s.strategy.shards = shards;
  s.rule = "adamw";
  s.dtype = at::kBFloat16;
  return s;
}

// "" when all copies agree; the same on every rank.
std::string verdict(ModelRun& run) {
  std::string text;
  try {
    check_replicas(run.manager(), run.optimizer());
  } catch (const DesyncError& error) {
    text = error.what();
  }
  for (const std::string& other : run.manager().pool().job().all_gather_bytes(text))
    EXPECT_EQ(other, text);
  return text;
}

// Changes the last bit of an element on one rank, and looks.
std::string after_flip(ModelRun& run, int rank, const Tensor& values) {
  const bool mine = test::world_rank() == rank;
  EXPECT_TRUE(!mine || values.defined());
  auto* bytes = mine ? static_cast<uint8_t*>(values.mutable_data_ptr()) : nullptr;
  const int64_t at = mine ? (values.numel() / 2) * values.element_size() : 0;
  if (mine) bytes[at] ^= 1;
  const std::string text = verdict(run);
  if (mine) bytes[at] ^= 1;
  EXPECT_EQ(verdict(run), "");
  return text;
}

Tensor weight(ModelRun& run, const std::string& name) {
  for (Parameter* p : run.manager().parameters()) {
    if (p->meta.name == name) return p->value.detach();
  }
  return {};
}

Tensor piece(ModelRun& run, const std::string& name, const std::string& slot) {
  Tensor out;
  run.optimizer().for_tensors([&](const OptimizerTensor& t) {
    if (t.meta->name == name && t.slot == slot && !out.defined()) out = t.values;
  });
  return out;
}

void expect_found(const std::string& text, const std::string& start, const std::string& end) {
  EXPECT_EQ(text.find("Copies of " + start), 0u) << text;
  EXPECT_NE(text.find(end), std::string::npos) << text;
}

}  // namespace replicas_detail

using namespace replicas_detail;

TEST(Replicas, LayoutsThatTrainedAgree) {
  const int world = test::world_size();
  for (const TinyModel& model : {tiny_models()[0], tiny_models()[2]}) {
    for (int pp = 1; pp <= std::min(2, world); ++pp) {
      for (const int tp : {1, 2}) {
        if (pp * tp > world || world > 4) continue;
        for (const int zero : {0, 1, 3}) {
          SCOPED_TRACE(cat(model.name, " pp ", pp, " tp ", tp, " zero ", zero));
          ModelRun run(model, setup_of(pp, tp, zero), make_mpi_communicator());
          for (int64_t step = 0; step < 3; ++step) run.step(step, 0.02);
          EXPECT_EQ(verdict(run), "");
        }
      }
    }
  }
}

TEST(Replicas, DataParallelCopies) {
  const int world = test::world_size();
  if (world == 1 || world > 4) return;
  ModelRun run(model_named("llama_bias"), setup_of(1, 1, 0), make_mpi_communicator());
  run.step(0, 0.02);
  const std::string name = "model.layers.0.self_attn.q_proj.weight";
  const std::string right = world == 2 ? "Which of them is right cannot be told"
                                       : "Most copies agree: rank 1 has a wrong one";
  expect_found(after_flip(run, 1, weight(run, name)), name + " [", right);
  expect_found(after_flip(run, 1, piece(run, name, "master")), "master of " + name, right);
  expect_found(after_flip(run, 1, piece(run, name, "v")), "v of " + name, right);
  const std::string two = world == 2 ? "rank 0 | rank 1" : "ranks 0, 2, 3 | rank 1";
  expect_found(after_flip(run, 1, piece(run, name, "m")), "m of " + name, two);
}

TEST(Replicas, WeightsThatTensorRanksShare) {
  const int world = test::world_size();
  if (world == 1 || world > 4) return;
  ModelRun run(model_named("llama_bias"), setup_of(1, 2, 0), make_mpi_communicator());
  expect_found(after_flip(run, 0, weight(run, "model.norm.weight")), "model.norm.weight [",
               world == 2 ? "rank 0 | rank 1" : "rank 0 has a wrong one");
  // A cut weight has copies over data parallel ranks only.
  const std::string cut = after_flip(run, 0, weight(run, "model.layers.0.mlp.up_proj.weight"));
  if (world == 2) {
    EXPECT_EQ(cut, "");
  } else {
    expect_found(cut, "model.layers.0.mlp.up_proj.weight", "rank 0 | rank 2");
  }
}

TEST(Replicas, WhatZeroGathersAndWhatItRepeats) {
  const int world = test::world_size();
  if (world == 1 || world > 4) return;
  const std::string name = "model.layers.1.mlp.down_proj.weight";
  for (const int zero : {1, 2}) {
    ModelRun run(model_named("llama_bias"), setup_of(1, 1, zero), make_mpi_communicator());
    run.step(0, 0.02);
    expect_found(after_flip(run, world - 1, weight(run, name)), name, cat("rank ", world - 1));
  }
  if (world != 4) return;
  // Two copies of two parts: rank 2 repeats what rank 0 does.
  ModelRun run(model_named("llama_bias"), setup_of(1, 1, 3, 2), make_mpi_communicator());
  run.step(0, 0.02);
  for (const OwnedSlice& slice : run.manager().owned_slices()) {
    const std::string part = slice.parameter->meta.name;
    std::string first = part;
    run.manager().pool().job().broadcast_bytes(first, 0);
    expect_found(after_flip(run, 0, slice.value), first, "rank 0 | rank 2");
    break;
  }
}

TEST(Replicas, TiesOfTwoStages) {
  const int world = test::world_size();
  if (world == 1 || world > 4) return;
  ModelRun run(model_named("tied"), setup_of(2, 1, 0), make_mpi_communicator());
  run.step(0, 0.02);
  const std::string name = run.manager().spec().shared_parameters().front().name;
  expect_found(after_flip(run, world - 1, weight(run, name)), name,
               world == 2 ? "rank 0 | rank 1" : "rank 3 has a wrong one");
}

}  // namespace strata::testing
