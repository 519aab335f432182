// Memory, counted to the byte: what ZeRO leaves on a rank (parallel-runtime.md 5.1), what layers
// keep from forward to backward, and the forecast of a step's peak.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <iostream>

#include "core/memory_meter.h"
#include "core/text.h"
#include "parallel/engine/memory_forecast.h"
#include "tests/support/mpi_main.h"
#include "tests/support/run_model.h"

namespace strata::testing {
namespace memory_detail {

TinyModel llama(int64_t width, int64_t blocks) {
  return {"llama",
          cat(R"({"model_type": "llama", "vocab_size": 256, "hidden_size": )", width,
              R"(, "intermediate_size": )", width * 5 / 2, R"(, "num_hidden_layers": )", blocks,
              R"(, "num_attention_heads": 4, "max_position_embeddings": 256})"),
          {}};
}

int64_t parameters(const TinyModel& model) {
  int64_t n = 0;
  for (const ParamMeta& meta : parameter_metas(*make_tiny(model))) n += meta.elements();
  return n;
}

double ratio(int64_t a, double b) { return static_cast<double>(a) / b; }

}  // namespace memory_detail

using namespace memory_detail;

TEST(Memory, ZeroReachesItsFormulas) {
  memory_meter::install();
  const TinyModel model = llama(256, 8);
  const auto n = static_cast<double>(parameters(model));
  const int ranks = test::world_size();
  for (int zero = 0; zero <= 3; ++zero) {
    const int64_t before = memory_meter::live_bytes();
    RunSetup setup;
    setup.dtype = at::kBFloat16;
    setup.rule = "adamw";
    setup.strategy.zero = zero;
    setup.length = 16;
    setup.global_batch = 2 * std::max(4, ranks);
    ModelRun run(model, setup, make_mpi_communicator());
    for (int64_t step = 0; step < 2; ++step) run.step(step, 1e-3);
    const BufferBytes bytes = run.manager().buffer_bytes();
    const int64_t passing = bytes.scratch + bytes.gathered;  // of the largest layers
    const int64_t held = memory_meter::live_bytes() - before - passing;
    const double cut = zero == 0 ? 1 : ranks;
    const double formula = (zero == 3 ? 2 / cut : 2) + (zero >= 2 ? 4 / cut : 4) + 12 / cut;
    if (run.first()) {
      std::cout << std::fixed << std::setprecision(2) << "ZeRO " << zero << ": " << ratio(held, n)
                << " bytes a parameter, formula " << formula << "; beside it " << ratio(passing, n)
                << " for gradients and weights on their way\n";
    }
    EXPECT_NEAR(ratio(held, n * formula), 1, 0.1) << "ZeRO " << zero;
    EXPECT_EQ(passing > 0, zero >= 2 && ranks > 1);
  }
}

// Nothing but the outputs of layers, which are the inputs of the next.
TEST(Memory, FullRecomputationKeepsOneTensorPerLayerAndMicrobatch) {
  memory_meter::install();
  const TinyModel model = llama(64, 4);
  const auto spec = make_tiny(model);
  RunSetup setup;
  setup.strategy.recompute = Recompute::Full;
  setup.length = 64;
  setup.microbatches = 1;
  setup.global_batch = 4 * test::world_size();
  ModelRun run(model, setup, make_mpi_communicator());
  run.step(0, 1e-3);
  const Range rows = run.manager().rows_needed(0);
  const Batch batch = tiny_rows(256, rows.begin, rows.end, setup.length, 0, false);
  const MemoryForecast full = run.manager().forecast_memory(batch);
  const int64_t boundary = rows.size() * setup.length * 64 * 8;
  const int layers = spec->layer_count();
  EXPECT_EQ(full.in_flight, 1);
  // The last layer's output is the loss.
  EXPECT_NEAR(static_cast<double>(full.activations), static_cast<double>((layers - 1) * boundary),
              1024);
  setup.strategy.recompute = Recompute::None;
  ModelRun plain(model, setup, make_mpi_communicator());
  EXPECT_GT(plain.manager().forecast_memory(batch).activations, 4 * full.activations);
}

TEST(Memory, ForecastIsThePeak) {
  memory_meter::install();
  const int world = test::world_size();
  const TinyModel model = llama(128, 6);
  struct Case {
    std::string name;
    int pp, tp, zero;
    bool tokens;
    Recompute recompute;
  };
  for (const Case& c : {Case{"dp", 1, 1, 0, false, Recompute::None},
                        Case{"zero 3", 1, 1, 3, false, Recompute::None},
                        Case{"tp sp", 1, std::min(world, 4), 1, world > 1, Recompute::Selective},
                        Case{"pp", world, 1, 0, false, Recompute::None},
                        Case{"pp full", world, 1, 0, false, Recompute::Full}}) {
    const int64_t before = memory_meter::live_bytes();
    RunSetup setup;
    setup.dtype = at::kFloat;
    setup.rule = "adamw";
    setup.pp = c.pp;
    setup.strategy.tp = c.tp;
    setup.strategy.zero = c.zero;
    setup.strategy.sequence_parallel = c.tokens;
    setup.strategy.recompute = c.recompute;
    setup.length = 128;
    setup.microbatches = 4;
    setup.global_batch = 16 * (world / c.pp / c.tp);
    ModelRun run(model, setup, make_mpi_communicator());
    const Range rows = run.manager().rows_needed(0);
    const MemoryForecast forecast =
        run.manager().forecast_memory(tiny_rows(256, rows.begin, rows.end, setup.length, 0, false));
    const int64_t predicted = forecast.total() + run.optimizer().state_bytes();
    memory_meter::reset_peak();
    run.step(0, 1e-3);
    const int64_t measured = memory_meter::peak_bytes() - before;
    std::cout << std::fixed << std::setprecision(2) << c.name << " rank " << test::world_rank()
              << ": predicted " << ratio(predicted, 1 << 20) << " MiB (activations "
              << ratio(forecast.activations, 1 << 20) << ", transient "
              << ratio(forecast.transient, 1 << 20) << "), measured " << ratio(measured, 1 << 20)
              << " MiB\n";
    // What has been sent and not yet taken depends on timing.
    const double limit = std::max(0.1 * static_cast<double>(measured), 512.0 * 1024);
    EXPECT_NEAR(static_cast<double>(predicted), static_cast<double>(measured), limit) << c.name;
  }
}

}  // namespace strata::testing
