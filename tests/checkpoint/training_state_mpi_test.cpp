// The whole training state through the engine: weights, masters and optimizer state written by one
// layout and read by another are the same bytes, whatever the stages, ZeRO and tensor cuts.
#include <gtest/gtest.h>

#include "core/text.h"
#include "parallel/checkpoint/inspect.h"
#include "parallel/engine/frozen_weights.h"
#include "tests/checkpoint/sample_state.h"
#include "tests/checkpoint/shared_folder.h"
#include "tests/support/run_model.h"

namespace strata::test {
namespace training_state_mpi_test {

using testing::ModelRun;
using testing::RunSetup;

struct Move {
  std::string name;
  int pp, tp, zero, shards;
};

RunSetup setup_of(const Move& move, const std::string& rule, const std::string& keys = "") {
  RunSetup out;
  out.pp = move.pp;
  out.strategy.tp = move.tp;
  out.strategy.zero = move.zero;
  out.strategy.shards = move.shards;
  out.dtype = at::kBFloat16;
  out.rule = rule;
  out.rule_keys = keys;
  return out;
}

// Layouts of `world` ranks, one after the other.
std::vector<Move> moves(int world) {
  std::vector<Move> out;
  for (int pp = 1; pp <= world; pp *= 2) {
    for (int tp = 1; tp * pp <= std::min(world, pp * 2); tp *= 2) {
      for (const int zero : {0, 1, 3}) {
        const int dp = world / pp / tp;
        if (dp == 1 && zero > 0) continue;
        out.push_back({cat("pp", pp, " tp", tp, " zero", zero), pp, tp, zero, 0});
        if (dp == 4 && zero > 0) out.push_back({cat("in halves, zero", zero), pp, tp, zero, 2});
      }
    }
  }
  return out;
}

std::filesystem::path save(ModelRun& run, const std::filesystem::path& root, int64_t step) {
  CheckpointWriter writer(run.manager().pool().job(), sample_request(root, step));
  run.optimizer().save(writer);
  save_frozen(run.manager(), writer);
  return writer.commit();
}

TEST(TrainingState, EveryLayoutWritesTheBytesItRead) {
  const auto job = make_mpi_communicator();
  const SharedFolder folder(*job);
  int64_t step = 0;
  struct Case {
    size_t index;
    std::string rule, keys = "";
  };
  for (const auto& [index, rule, keys] :
       {Case{2, "adamw"}, Case{4, "adamw"}, Case{2, "muon"}, Case{4, "muon"}, Case{2, "soap"},
        Case{4, "galore"}, Case{2, "soap", "tp_mode = gram\none_sided = always\n"},
        Case{4, "galore", "tp_mode = gram\nrank = 4\n"}}) {
    const testing::TinyModel& model = testing::tiny_models()[index];
    step += 1000;
    const std::vector<Move> layouts = moves(job->size());
    std::filesystem::path first;
    {
      ModelRun run(model, setup_of(layouts.back(), rule, keys), make_mpi_communicator());
      for (int64_t s = 0; s < 2; ++s) run.step(s, 0.02);
      first = save(run, folder.path(), ++step);
    }
    const DiffOptions everything{.tolerance = 0, .optim = true};
    for (const Move& move : layouts) {
      SCOPED_TRACE(cat(model.name, " ", rule, " ", move.name));
      ModelRun run(model, setup_of(move, rule, keys), make_mpi_communicator());
      run.optimizer().load(CheckpointReader(first));
      run.manager().weights_changed();
      const auto saved = save(run, folder.path(), ++step);
      if (job->rank() == 0) {
        const DiffReport report = diff_checkpoints(first, saved, everything);
        EXPECT_TRUE(report.same()) << diff_text(report);
      }
      job->barrier();
    }
  }
}

// Weights that are not trained have no optimizer and no master; the checkpoint has them all the
// same.
TEST(TrainingState, FrozenWeightsMoveBetweenLayouts) {
  const auto job = make_mpi_communicator();
  const SharedFolder folder(*job);
  const testing::TinyModel& model = testing::tiny_models()[0];
  const auto frozen_model = [&] {
    auto spec = make_model_from_json(model.config_json, model.name, model.options);
    spec->freeze({"model.embed_tokens.weight", "*.o_proj.weight", "model.layers.1.mlp.*"});
    return std::shared_ptr<const ModelSpec>(std::move(spec));
  };
  const std::vector<Move> layouts = moves(job->size());
  int64_t step = 0;
  std::filesystem::path first;
  {
    ModelRun run(frozen_model(), setup_of(layouts.back(), "adamw"), make_mpi_communicator());
    run.step(0, 0.02);
    first = save(run, folder.path(), ++step);
  }
  const CheckpointReader reader(first);
  for (const ParamMeta& meta : parameter_metas(*frozen_model())) {
    EXPECT_TRUE(reader.contains("/model/" + meta.name)) << meta.name;
    EXPECT_EQ(reader.contains(cat("/optim/", meta.name, "/m")), meta.trainable) << meta.name;
  }
  for (const Move& move : layouts) {
    SCOPED_TRACE(move.name);
    ModelRun run(frozen_model(), setup_of(move, "adamw"), make_mpi_communicator());
    for (const OwnedSlice& slice : run.manager().frozen_slices()) slice.value.detach().zero_();
    run.optimizer().load(reader);
    load_frozen(run.manager(), *make_checkpoint_weights(std::make_shared<CheckpointReader>(first)));
    run.manager().weights_changed();
    const auto saved = save(run, folder.path(), ++step);
    if (job->rank() == 0) {
      const DiffReport report = diff_checkpoints(first, saved, {.tolerance = 0, .optim = true});
      EXPECT_TRUE(report.same()) << diff_text(report);
    }
    job->barrier();
  }
}

}  // namespace training_state_mpi_test
}  // namespace strata::test
