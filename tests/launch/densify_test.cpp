// Structured linears that become dense in the middle of a run, and conversions between files.
#include "launch/densify.h"

#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/io/safetensors.h"
#include "launch/commands.h"
#include "launch/trainer.h"
#include "tests/launch/temp_run.h"

namespace strata {
namespace densify_test_detail {

using launch_test::TempFolder;
using launch_test::tiny_run;

int train(const Overrides& overrides) {
  const RunConfig config = read_run_config({"", overrides});
  Runtime runtime({config.runtime, config.comm, config.log, config.run.directory()});
  return Trainer(config, runtime).run();
}

std::vector<double> losses(const TempFolder& folder) {
  std::vector<double> out;
  for (const std::string& line : split(io::read_text(folder / "run/metrics.jsonl"), '\n')) {
    if (!line.empty()) out.push_back(nlohmann::json::parse(line)["loss"].get<double>());
  }
  return out;
}

Overrides structured(const TempFolder& folder, const Overrides& more = {}) {
  Overrides keys = {{"model.linear", "monarch"}, {"train.densify_warmup", "2"}};
  keys.insert(keys.end(), more.begin(), more.end());
  return tiny_run(folder, keys);
}

TEST(Densify, TheLossDoesNotJumpAndTrainingGoesOn) {
  const TempFolder plain, switched;
  EXPECT_EQ(train(structured(plain)), 0);
  EXPECT_EQ(train(structured(switched, {{"train.densify_at", "0.5"}})), 0);
  const std::vector<double> a = losses(plain), b = losses(switched);
  ASSERT_EQ(a.size(), 12u);
  ASSERT_EQ(b.size(), 12u);
  for (size_t step = 0; step < 6; ++step) EXPECT_EQ(a[step], b[step]) << step;
  EXPECT_NEAR(a[6], b[6], 1e-6 * a[6]);  // the first loss of the dense weights
  EXPECT_GT(std::abs(a[11] - b[11]), 1e-6);
  EXPECT_LT(b[11], b[6]);
  const CheckpointReader end(switched / "run/checkpoints/step-000000000012");
  EXPECT_TRUE(end.contains("/model/model.layers.0.mlp.up_proj.weight"));
  EXPECT_FALSE(end.contains("/model/model.layers.0.mlp.up_proj.blkdiag1"));
}

TEST(Densify, ResumingOnBothSidesIsBitIdentical) {
  const TempFolder whole, parts;
  const Overrides keys = {
      {"train.densify_at", "0.5"}, {"ckpt.interval", "2"}, {"ckpt.keep_last", "9"}};
  EXPECT_EQ(train(structured(whole, keys)), 0);
  EXPECT_EQ(train(structured(parts, keys)), 0);
  for (const int step : {12, 10}) {  // the newest left is of the dense model
    std::filesystem::remove_all(parts / cat("run/checkpoints/step-0000000000", step));
  }
  EXPECT_EQ(train(structured(parts, keys)), 0);
  EXPECT_EQ(losses(parts), losses(whole));
  for (const char* step : {"12", "10", "08", "06"})  // now it is of the structured one
    std::filesystem::remove_all(parts / cat("run/checkpoints/step-0000000000", step));
  EXPECT_EQ(train(structured(parts, keys)), 0);
  EXPECT_EQ(losses(parts), losses(whole));
  const auto hash = [](const TempFolder& folder) {
    return CheckpointReader(folder / "run/checkpoints/step-000000000012").model_hash();
  };
  EXPECT_EQ(hash(parts), hash(whole));
}

TEST(Densify, WithoutStructuredLinearsItIsRefused) {
  const TempFolder folder;
  try {
    read_run_config({"", tiny_run(folder, {{"train.densify_at", "0.5"}})});
    ADD_FAILURE();
  } catch (const ConfigError& e) {
    EXPECT_NE(std::string(e.what()).find("train.densify_at"), std::string::npos) << e.what();
  }
}

int quietly(const Arguments& words) {
  struct Capture {
    Capture() { ::testing::internal::CaptureStdout(); }
    ~Capture() { ::testing::internal::GetCapturedStdout(); }
  } capture;
  return run_command(words);
}

TEST(Convert, ThereAndBackKeepsTheMatrices) {
  const TempFolder folder;
  EXPECT_EQ(train(structured(folder, {{"train.steps", "2"}})), 0);
  const auto convert = [&](const std::string& from, const std::string& to,
                           const std::vector<std::string>& options) {
    Arguments words = {"ckpt", "convert", (folder / from).string(), (folder / to).string()};
    words.insert(words.end(), options.begin(), options.end());
    return quietly(words);
  };
  EXPECT_EQ(convert("run", "files", {}), 0);
  EXPECT_EQ(convert("files", "dense", {"--linear=dense"}), 0);
  EXPECT_EQ(convert("dense", "again", {"--linear=monarch"}), 0);
  EXPECT_EQ(convert("again", "twice", {"--linear=dense"}), 0);
  const io::SafetensorsReader dense((folder / "dense").string()),
      twice((folder / "twice").string()), files((folder / "files").string());
  EXPECT_TRUE(files.contains("model.layers.1.mlp.down_proj.blkdiag2"));
  EXPECT_EQ(dense.names(), twice.names());
  for (const std::string& name : dense.names()) {
    const Tensor a = dense.read(name), b = twice.read(name);
    EXPECT_LE((a - b).norm().item<double>(), 1e-6 * a.norm().item<double>() + 1e-12) << name;
  }
  EXPECT_THROW(convert("dense", "dense", {}), ConfigError);  // there are files already
  EXPECT_THROW(convert("dense", "x", {"--ternary"}), ConfigError);
  EXPECT_THROW(convert("dense", "x", {"--linear=sparse"}), ConfigError);
}

TEST(Convert, TernaryWeightsArePacked) {
  const TempFolder folder;
  Overrides keys;
  for (const auto& [key, value] : tiny_run(folder, {{"model.name", "hgrn_bit"}})) {
    if (key != "model.num_attention_heads" && key != "model.max_position_embeddings")
      keys.emplace_back(key, value);
  }
  EXPECT_EQ(train(keys), 0);
  EXPECT_EQ(quietly({"ckpt", "convert", (folder / "run").string(), (folder / "packed").string(),
                     "--ternary"}),
            0);
  const io::SafetensorsReader packed((folder / "packed").string());
  EXPECT_TRUE(packed.contains("model.layers.0.mlp.gate_proj.codes"));
  EXPECT_TRUE(packed.contains("lm_head.beta"));
  EXPECT_FALSE(packed.contains("lm_head.weight"));
  EXPECT_TRUE(packed.contains("model.embeddings.weight"));
  EXPECT_EQ(packed.entry("model.layers.0.mlp.gate_proj.codes").shape, (Shape{64, 4}));

  // They load like weights, and the model computes what it computed.
  const auto loss = [&](const std::string& from) {
    Arguments words = {"eval", (folder / "run" / "config.ini").string(), "--json"};
    if (!from.empty()) {
      words.push_back("--run.name=other");
      words.push_back(cat("--ckpt.init=", (folder / from).string()));
    }
    ::testing::internal::CaptureStdout();
    const int code = run_command(words);
    const std::string text = ::testing::internal::GetCapturedStdout();
    EXPECT_EQ(code, 0) << text;
    return nlohmann::json::parse(text)["loss"].get<double>();
  };
  const double trained = loss("");
  EXPECT_GT(trained, 0);
  EXPECT_NEAR(loss("packed"), trained, 1e-6 * trained);
}

}  // namespace densify_test_detail
}  // namespace strata
