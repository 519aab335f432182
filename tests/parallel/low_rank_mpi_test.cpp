// Linears of low rank over tp: what crosses the ranks are the values between the factors.
#include <gtest/gtest.h>

#include "core/text.h"
#include "parallel/comm/op_log.h"
#include "tests/io/temp_folder.h"
#include "tests/support/lone_layer.h"
#include "tests/support/mpi_main.h"
#include "tests/support/run_model.h"

namespace strata::testing {
namespace low_rank_mpi_test {

constexpr int64_t kRows = 3, kLength = 20, kWidth = 32;

// Elements of the sums at the ends of a block's regions in one forward pass, in order.
std::vector<uint64_t> sums(const std::string& keys, bool sequence_parallel) {
  const auto spec = make_model_from_json(
      cat(R"({"model_type": "llama", "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48,
           "num_hidden_layers": 1, "num_attention_heads": 8, "max_position_embeddings": 64)",
          keys, "}"),
      "config.json");
  const test::TempFolder folder;
  const auto file = folder.path() / "record";
  auto job = make_mpi_communicator();
  job->set_op_log(std::make_shared<OpLog>(file, job->rank(), job->size()));
  CommPool pool(std::move(job));
  LoneLayer layer([&](const ParallelLayout& layout) { return spec->make_layer(1, layout); },
                  spec->parameter_prefix(1),
                  {.tp = test::world_size(), .sequence_parallel = sequence_parallel}, &pool);
  Batch batch = tiny_rows(spec->vocabulary(), 0, kRows, kLength, 0, false);
  const Tensor x = normal_values({kRows, kLength, kWidth}, 1);
  layer.forward(sequence_parallel ? layer.own_tokens(x) : x, batch);
  pool.job().barrier();
  std::vector<uint64_t> out;
  for (const OpRecord& record : read_flight_record(file).records) {
    if (record.site.find("region_exit") != std::string::npos) out.push_back(record.count);
  }
  return out;
}

TEST(LowRank, SumsAreOfTheValuesBetweenTheFactors) {
  const auto ranks = [](const char* entries) {
    return cat(R"(, "linear": "lowrank", "linear_ranks": [)", entries, "]");
  };
  for (const bool sequence_parallel : {false, true}) {
    // A reduce-scatter is counted by what a rank gets.
    const uint64_t tokens = static_cast<uint64_t>(kRows * kLength) /
                            (sequence_parallel ? static_cast<uint64_t>(test::world_size()) : 1);
    const auto expect = [&](const std::string& keys, uint64_t attention, uint64_t mlp) {
      std::vector<uint64_t> counts;
      if (test::world_size() > 1) counts = {attention * tokens, mlp * tokens};
      EXPECT_EQ(sums(keys, sequence_parallel), counts) << keys;
    };
    expect("", 32, 32);
    expect(ranks(R"("*.o_proj=5", "*.down_proj=7")"), 5, 7);
    // Column-cut linears change nothing there.
    expect(ranks(R"("*.q_proj=5", "*.up_proj=7")"), 32, 32);
  }
}

}  // namespace low_rank_mpi_test
}  // namespace strata::testing
