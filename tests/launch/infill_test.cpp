#include "launch/infill.h"

#include <gtest/gtest.h>

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "core/error.h"
#include "models/register.h"
#include "parallel/comm/process.h"
#include "tests/support/run_model.h"

namespace strata {
namespace {

constexpr int64_t kMask = 256;

testing::ModelRun run_of(const std::string& config) {
  return testing::ModelRun(make_model_from_json(config, "test"),
                           testing::RunSetup{.global_batch = 1, .microbatches = 1},
                           make_self_communicator());
}
const char* const kHydra =
    R"({"model_type": "bert", "matrix_mixer_type": "hydra", "vocab_size": 257,
    "hidden_size": 32, "num_hidden_layers": 1, "headdim": 8, "d_state": 4, "initializer_range": 0.3})";

TEST(InfillTest, TheMarkerStandsForOneToken) {
  const auto tokenizer = make_tokenizer("bytes", "");
  EXPECT_EQ(encode_hidden(*tokenizer, "a[MASK]b[MASK][MASK]", "[MASK]", kMask),
            (std::vector<int32_t>{'a', 256, 'b', 256, 256}));
  EXPECT_EQ(encode_hidden(*tokenizer, "ab", "[MASK]", kMask), (std::vector<int32_t>{'a', 'b'}));
  EXPECT_EQ(encode_hidden(*tokenizer, "a_", "_", 5), (std::vector<int32_t>{'a', 5}));
}

TEST(InfillTest, TheMostCertainPlaceIsFilledFirst) {
  Tensor logits = at::zeros({4, 6}, at::kDouble);
  logits[1][2] = 3.0;
  logits[3][0] = 4.0;
  logits[2][5] = 90.0;  // the mask itself is no candidate
  EXPECT_EQ(most_certain(logits, {1, 2, 3}, 5), 3);
  EXPECT_EQ(most_certain(logits, {2, 1}, 5), 1);
  EXPECT_EQ(most_certain(at::zeros({4, 6}, at::kDouble), {2, 3}, 5), 2) << "the first on ties";
}

TEST(InfillTest, FillsEveryHiddenPlaceAndNothingElse) {
  auto run = run_of(kHydra);
  ParallelManager& model = run.manager();
  const std::vector<int32_t> ids = {10, 256, 30, 256, 256, 60};
  std::vector<int64_t> places;
  const auto filled = fill_hidden(model, ids, kMask, {.temperature = 0}, 0,
                                  [&](int64_t place, int32_t) { places.push_back(place); });
  ASSERT_EQ(filled.size(), ids.size());
  for (size_t t = 0; t < ids.size(); ++t) {
    if (ids[t] == kMask) {
      EXPECT_NE(filled[t], kMask);
    } else {
      EXPECT_EQ(filled[t], ids[t]);
    }
  }
  std::sort(places.begin(), places.end());
  EXPECT_EQ(places, (std::vector<int64_t>{1, 3, 4}));
  EXPECT_EQ(fill_hidden(model, ids, kMask, {.temperature = 0}, 0), filled) << "the same again";
}

TEST(InfillTest, RefusesWhatItCannotFill) {
  auto hydra = run_of(kHydra);
  EXPECT_THROW(fill_hidden(hydra.manager(), {1, 2, 3}, kMask, {}, 0), ConfigError);
  auto llama = run_of(R"({"model_type": "llama", "vocab_size": 257, "hidden_size": 16,
      "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2})");
  EXPECT_THROW(fill_hidden(llama.manager(), {1, 256}, kMask, {}, 0), ConfigError);
}

}  // namespace
}  // namespace strata
