#include "parallel/checkpoint/inspect.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/io/file.h"
#include "tests/checkpoint/sample_state.h"

namespace strata::test {
namespace inspect_test {

namespace fs = std::filesystem;
using nlohmann::json;

fs::path save(const fs::path& root, int64_t step, const State& state) {
  return save_whole(sample_request(root, step), state);
}

TEST(CkptList, ShowsValidAndDamagedOnes) {
  const TempFolder folder;
  EXPECT_EQ(list_text(list_checkpoints(folder.path())), "no checkpoints\n");
  EXPECT_THROW(list_checkpoints(folder / "none"), CheckpointError);
  save(folder.path(), 10, sample_state(1));
  save(folder.path(), 20, sample_state(2));
  fs::remove(folder / "step-000000000020/shard-00000.json");
  const auto rows = list_checkpoints(folder.path());
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].step, 20);
  EXPECT_NE(rows[0].problem, "");
  EXPECT_EQ(rows[1].problem, "");
  EXPECT_EQ(rows[1].tokens, 10000);
  EXPECT_EQ(rows[1].loss, "2.5");
  EXPECT_GT(rows[1].bytes, 30000);
  const std::string text = list_text(rows);
  EXPECT_NE(text.find("step-000000000010"), std::string::npos);
  EXPECT_NE(text.find("damaged: "), std::string::npos);
  const json parsed = json::parse(list_json(rows));
  EXPECT_EQ(parsed[0]["valid"], false);
  EXPECT_EQ(parsed[1]["loss"], 2.5);
}

TEST(CkptInspect, ManifestTensorsAndStatistics) {
  const TempFolder folder;
  State state;
  state["/model/a"] = at::arange(10, at::kFloat);
  state["/model/b"] = at::full({4}, std::numeric_limits<double>::quiet_NaN(), at::kDouble);
  state["/model/c"] = at::arange(4, at::kInt);
  state["/model/e"] = at::zeros({0, 2});
  state["/model/a"][9] = std::numeric_limits<float>::infinity();
  const fs::path saved = save(folder.path(), 5, state);
  const CheckpointSummary summary = inspect_checkpoint(saved, {.tensors = "*", .statistics = true});
  EXPECT_EQ(summary.step, 5);
  EXPECT_EQ(summary.elements, 18);
  ASSERT_EQ(summary.tensors.size(), 4u);
  const TensorStatistics& a = *summary.tensors[0].statistics;
  EXPECT_EQ(a.infinite, 1);
  EXPECT_EQ(a.least, 0);
  EXPECT_EQ(a.greatest, 8);
  EXPECT_EQ(a.mean, 4);
  EXPECT_NEAR(a.rms, std::sqrt(204.0 / 9), 1e-12);
  EXPECT_EQ(summary.tensors[1].statistics->nan, 4);
  EXPECT_EQ(summary.tensors[2].statistics->greatest, 3);
  EXPECT_EQ(summary.tensors[3].statistics->mean, 0);
  const std::string text = inspect_text(summary);
  for (const char* part : {"/model/a", "f32", "[10]", "run-1", "optim.step = 5",
                           "lm_head.weight = model.embeddings.weight"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part;
  }
  const json parsed = json::parse(inspect_json(summary));
  EXPECT_EQ(parsed["state"]["data"]["seed"], 1);
  EXPECT_EQ(parsed["tensors"][0]["statistics"]["mean"], 4.0);
  EXPECT_EQ(inspect_checkpoint(saved, {.tensors = "b"}).tensors.size(), 1u);
  EXPECT_EQ(inspect_checkpoint(saved, {.tensors = "/model/[x"}).tensors.size(), 0u);
  EXPECT_FALSE(inspect_checkpoint(saved).tensors[0].statistics.has_value());
  EXPECT_THROW(inspect_checkpoint(folder / "none"), CheckpointError);
}

TEST(CkptVerify, QuickAndFull) {
  const TempFolder folder;
  State state;
  state["/model/a"] = random_bytes_tensor({5000}, at::kFloat, 1);
  const fs::path saved = save(folder.path(), 5, state);
  VerifyReport report = verify_checkpoint(saved, VerifyDepth::Full);
  EXPECT_TRUE(report.problems.empty());
  EXPECT_EQ(report.blocks, 5);
  EXPECT_EQ(report.bytes, 20000);
  EXPECT_NE(verify_text(report).find("good; 1 tensors, 5 blocks"), std::string::npos)
      << verify_text(report);
  const std::string bytes = io::read_text(saved / "shard-00000.h5");
  const size_t at =
      bytes.find(std::string(static_cast<const char*>(state["/model/a"].const_data_ptr()), 64));
  io::File(saved / "shard-00000.h5", io::File::Mode::ReadWrite)
      .write_at(static_cast<int64_t>(at + 10), "??", 2);
  EXPECT_TRUE(verify_checkpoint(saved, VerifyDepth::Quick).problems.empty());
  report = verify_checkpoint(saved, VerifyDepth::Full);
  ASSERT_EQ(report.problems.size(), 1u);
  EXPECT_NE(report.problems[0].find("/model/a"), std::string::npos);
  EXPECT_NE(verify_text(report).find("damaged, 1 problem\n"), std::string::npos);
  EXPECT_EQ(json::parse(verify_json(report))["good"], false);
  io::File(saved / "plan.json", io::File::Mode::ReadWrite).write_at(0, "x", 1);
  EXPECT_EQ(verify_checkpoint(saved, VerifyDepth::Full).problems.size(), 2u);
  fs::remove(saved / "manifest.json");
  EXPECT_EQ(verify_checkpoint(saved, VerifyDepth::Quick).problems.size(), 1u);
  EXPECT_EQ(verify_checkpoint(folder / "none", VerifyDepth::Quick).problems.size(), 1u);
}

TEST(CkptDiff, EqualDifferentAndStructure) {
  const TempFolder folder;
  State state;
  state["/model/a"] = at::arange(100, at::kFloat).view({10, 10});
  state["/model/b"] = at::full({3}, std::numeric_limits<double>::quiet_NaN(), at::kFloat);
  state["/optim/a/m"] = at::zeros({4});
  const fs::path first = save(folder / "a", 1, state);
  DiffReport same = diff_checkpoints(first, save(folder / "b", 1, state));
  EXPECT_TRUE(same.same());
  EXPECT_TRUE(same.by_hash);
  EXPECT_EQ(same.compared, 2);
  EXPECT_NE(diff_text(same).find("2 tensors in both, 0 differ (weights equal by hash)"),
            std::string::npos)
      << diff_text(same);

  State changed = state;
  changed["/model/a"] = state["/model/a"].clone();
  changed["/model/a"][0][0] = 0.25;
  changed["/model/a"][9][9] = 100.0;
  changed["/optim/a/m"] = at::full({4}, 1.0);
  const fs::path second = save(folder / "c", 1, changed);
  DiffReport report = diff_checkpoints(first, second);
  ASSERT_EQ(report.differences.size(), 1u);
  EXPECT_EQ(report.differences[0].path, "/model/a");
  EXPECT_EQ(report.differences[0].different, 2);
  EXPECT_EQ(report.differences[0].max_absolute, 1.0);
  EXPECT_EQ(report.differences[0].max_relative, 1.0);
  EXPECT_FALSE(report.by_hash);
  EXPECT_TRUE(diff_checkpoints(first, second, {.tolerance = 1.0}).same());
  EXPECT_FALSE(diff_checkpoints(first, second, {.tolerance = 0.5}).same());
  EXPECT_EQ(diff_checkpoints(first, second, {.optim = true}).differences.size(), 2u);

  changed.erase("/model/b");
  changed["/model/a"] = at::zeros({5});
  changed["/model/new"] = at::zeros({5});
  report = diff_checkpoints(first, save(folder / "d", 1, changed));
  ASSERT_EQ(report.differences.size(), 3u);
  EXPECT_EQ(report.differences[0].structure, "shape [10, 10] and [5]");
  EXPECT_EQ(report.differences[1].structure, "only in A");
  EXPECT_EQ(report.differences[2].structure, "only in B");
  EXPECT_EQ(json::parse(diff_json(report))["same"], false);
  changed = state;
  changed["/model/a"] = state["/model/a"].to(at::kDouble);
  EXPECT_EQ(diff_checkpoints(first, save(folder / "e", 1, changed)).differences[0].structure,
            "type f32 and f64");
  EXPECT_THROW(diff_checkpoints(first, folder / "none"), CheckpointError);
}

TEST(CkptDiff, NanAgainstANumberIsInfinitelyFar) {
  const TempFolder folder;
  State state, other;
  state["/model/a"] = at::zeros({3});
  other["/model/a"] = at::full({3}, std::numeric_limits<double>::quiet_NaN(), at::kFloat);
  const DiffReport report = diff_checkpoints(save(folder / "a", 1, state),
                                             save(folder / "b", 1, other), {.tolerance = 1e30});
  ASSERT_EQ(report.differences.size(), 1u);
  EXPECT_TRUE(std::isinf(report.differences[0].max_absolute));
  EXPECT_EQ(json::parse(diff_json(report))["differences"][0]["max_absolute"], "inf");
}

TEST(CkptDiff, ConfigurationLinesAreShownButDoNotDecide) {
  const TempFolder folder;
  const State state = sample_state(1);
  const auto save_with = [&](const std::string& name, const std::string& config) {
    const auto job = make_self_communicator();
    CheckpointWriter writer(*job, sample_request(folder / name, 1));
    for (const auto& [path, tensor] : state)
      writer.add(path, tensor.sizes().vec(), whole_box(tensor), tensor);
    writer.add_file("config.ini", config);
    return writer.commit();
  };
  const DiffReport report =
      diff_checkpoints(save_with("a", "[train]\nlr = 1\n"), save_with("b", "[train]\nlr = 2\n"));
  EXPECT_TRUE(report.same());
  EXPECT_EQ(report.config, (std::vector<std::string>{"- lr = 1", "+ lr = 2"}));
}

}  // namespace inspect_test
}  // namespace strata::test
