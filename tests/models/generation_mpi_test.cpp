// Texts continued token by token from what layers remember, against running the whole text.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <gtest/gtest.h>

#include "core/generation_cache.h"
#include "core/text.h"
#include "tests/support/mpi_main.h"
#include "tests/support/run_model.h"

namespace strata::testing {
namespace {

// Logits of every token, the text given in pieces.
Tensor in_pieces(ParallelManager& model, const Batch& text, const std::vector<int64_t>& pieces,
                 GenerationCache& cache) {
  std::vector<Tensor> logits;
  for (const int64_t length : pieces) {
    Batch batch;
    batch.tokens = text.tokens.narrow(1, cache.tokens, length);
    batch.positions = default_positions(text.rows(), length) + cache.tokens;
    batch.cache = &cache;
    logits.push_back(model.logits(batch));
    cache.tokens += length;
  }
  return at::cat(logits, 1);
}

TEST(Generation, PiecesOfATextGiveTheLogitsOfTheWhole) {
  const int ranks = test::world_size();
  int families = 0;
  for (const TinyModel& tiny : tiny_models()) {
    const auto spec = make_tiny(tiny);
    if (!spec->generates_from_cache()) continue;
    ++families;
    for (const int tp : {1, 2, 4}) {
      const int pp = ranks / tp;
      if (tp * pp != ranks || pp > spec->layer_count() - 2) continue;
      RunSetup setup;
      setup.strategy.tp = tp;
      setup.pp = pp;
      ModelRun run(spec, setup, make_mpi_communicator());
      Batch text = tiny_rows(spec->vocabulary(), 0, 2, 11, 0, false);
      text.labels = Tensor();
      const Tensor whole = run.manager().logits(text);
      GenerationCache cache;
      const Tensor pieces = in_pieces(run.manager(), text, {4, 1, 3, 1, 1, 1}, cache);
      EXPECT_LE(relative_error(pieces, whole, whole), 1e-12)
          << tiny.name << " tp " << tp << " pp " << pp;
      EXPECT_EQ(cache.tokens, 11);
    }
  }
  EXPECT_GE(families, 2);
}

}  // namespace
}  // namespace strata::testing
