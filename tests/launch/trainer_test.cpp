// Whole runs of a tiny model in this process: they learn, stop, go on bit for bit, and bear what
// they must.
#include "launch/trainer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "launch/failure.h"
#include "tests/launch/temp_run.h"

namespace strata {
namespace {

using launch_test::TempFolder;
using launch_test::tiny_run;

int train(const Overrides& overrides) {
  const RunConfig config = read_run_config({"", overrides});
  Runtime runtime({config.runtime, config.comm, config.log, config.run.directory()});
  Trainer trainer(config, runtime);
  return trainer.run();
}

std::vector<nlohmann::json> metrics(const TempFolder& folder) {
  std::vector<nlohmann::json> out;
  for (const std::string& line : split(io::read_text(folder / "run/metrics.jsonl"), '\n')) {
    if (!line.empty()) out.push_back(nlohmann::json::parse(line));
  }
  return out;
}

// What must not depend on interruptions: everything but times and memory.
std::string lasting(const TempFolder& folder) {
  std::string out;
  for (const nlohmann::json& line : metrics(folder)) {
    for (const char* key : {"step", "loss", "grad_norm", "lr", "tokens", "samples"})
      out += cat(key, '=', line[key].dump(), ' ');
    out += '\n';
  }
  return out;
}

std::string last_hash(const TempFolder& folder) {
  const auto latest = find_latest(folder / "run/checkpoints",
                                  [](const std::string& text) { ADD_FAILURE() << text; });
  EXPECT_TRUE(latest.has_value());
  return latest ? cat(CheckpointReader(*latest).step(), ' ', CheckpointReader(*latest).model_hash())
                : "";
}

TEST(TrainerTest, LossFallsAndFilesAreThere) {
  const TempFolder folder;
  EXPECT_EQ(
      train(tiny_run(
          folder, {{"train.steps", "60"}, {"eval.interval", "30"}, {"log.tensorboard", "true"}})),
      0);
  const auto lines = metrics(folder);
  ASSERT_EQ(lines.size(), 60u);
  EXPECT_NEAR(lines.front()["loss"].get<double>(), std::log(256), 0.7);
  EXPECT_LT(lines.back()["loss"].get<double>(), 0.7 * lines.front()["loss"].get<double>());
  EXPECT_LT(lines.back()["eval_loss"].get<double>(), lines[29]["eval_loss"].get<double>());
  EXPECT_NEAR(lines.back()["eval_bits_per_byte"].get<double>(),
              lines.back()["eval_loss"].get<double>() / std::log(2.0), 1e-12);
  for (const char* name : {"config.ini", "plan.json", "status.json", "logs/rank-0.log",
                           "flight/rank-00000.fr", "lock"}) {
    EXPECT_TRUE(std::filesystem::exists(folder / cat("run/", name))) << name;
  }
  EXPECT_FALSE(std::filesystem::is_empty(folder / "run/tensorboard"));
  const auto status = nlohmann::json::parse(io::read_text(folder / "run/status.json"));
  EXPECT_EQ(status["state"], "finished");
  EXPECT_EQ(status["exit_code"], 0);
}

TEST(TrainerTest, ResumingIsBitIdentical) {
  const TempFolder whole, parts;
  const Overrides dropout = {
      {"model.attention_dropout", "0.1"}, {"eval.interval", "4"}, {"plan.microbatches", "2"}};
  EXPECT_EQ(train(tiny_run(whole, dropout)), 0);
  // Asked to stop after the first step, and again after the next: 75 each time, and nothing is
  // lost.
  std::filesystem::create_directories(parts / "run");
  for (const int64_t steps_done : {1, 2}) {
    io::write_text_atomic(parts / "run/STOP", "");
    EXPECT_EQ(train(tiny_run(parts, dropout)), 75);
    EXPECT_EQ(metrics(parts).size(), static_cast<size_t>(steps_done));
    EXPECT_FALSE(std::filesystem::exists(parts / "run/STOP"));
    EXPECT_EQ(nlohmann::json::parse(io::read_text(parts / "run/status.json"))["state"],
              "preempted");
  }
  EXPECT_EQ(train(tiny_run(parts, dropout)), 0);
  EXPECT_EQ(lasting(parts), lasting(whole));
  EXPECT_EQ(last_hash(parts), last_hash(whole));
}

TEST(TrainerTest, LostStepsAreDoneAgainAlike) {
  const TempFolder folder;
  EXPECT_EQ(train(tiny_run(folder)), 0);
  const std::string curve = lasting(folder), hash = last_hash(folder);
  // As after a crash between steps 5 and 10: the newest checkpoint is of step 5, metrics are
  // further on.
  std::filesystem::remove_all(folder / "run/checkpoints/step-000000000012");
  std::filesystem::remove_all(folder / "run/checkpoints/step-000000000010");
  EXPECT_EQ(train(tiny_run(folder)), 0);
  EXPECT_EQ(lasting(folder), curve);
  EXPECT_EQ(last_hash(folder), hash);
  // Started once more, there is nothing to do.
  EXPECT_EQ(train(tiny_run(folder)), 0);
  EXPECT_EQ(lasting(folder), curve);
}

TEST(TrainerTest, SaveFileSavesAndGoesOn) {
  const TempFolder folder;
  std::filesystem::create_directories(folder / "run");
  io::write_text_atomic(folder / "run/SAVE", "");
  EXPECT_EQ(train(tiny_run(folder, {{"ckpt.interval", "0"}})), 0);
  EXPECT_TRUE(std::filesystem::exists(folder / "run/checkpoints/step-000000000001"));
  EXPECT_EQ(metrics(folder).size(), 12u);
}

TEST(TrainerTest, DamagedCheckpointsArePassedOver) {
  const TempFolder folder;
  EXPECT_EQ(train(tiny_run(folder)), 0);
  const std::string curve = lasting(folder), hash = last_hash(folder);
  // A bit of a weight flips on disk: only the block's checksum can tell.
  const std::filesystem::path newest = folder / "run/checkpoints/step-000000000012";
  for (const auto& entry : std::filesystem::directory_iterator(newest)) {
    if (entry.path().filename() != "shard-00000.h5") continue;
    std::string bytes = io::read_text(entry.path());
    bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
    io::File file(entry.path(), io::File::Mode::ReadWrite);
    file.write_at(0, bytes.data(), bytes.size());
  }
  EXPECT_EQ(train(tiny_run(folder)), 0);
  EXPECT_EQ(lasting(folder), curve);
  EXPECT_EQ(last_hash(folder), hash);
  int set_aside = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder / "run/checkpoints")) {
    set_aside += entry.path().filename().string().find(".bad-") != std::string::npos;
  }
  EXPECT_EQ(set_aside, 1);
}

int failing_code(const Overrides& overrides, const std::string& part) {
  try {
    return train(overrides);
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    return error.exit_code();
  }
}

TEST(TrainerTest, NonFiniteStepsAreSkippedAndThreeInARowEndTheRun) {
  const TempFolder folder;
  const Overrides hopeless = tiny_run(folder, {{"model.initializer_range", "1e38"}});
  EXPECT_EQ(failing_code(hopeless, "not finite"), 6);
  const auto lines = metrics(folder);
  ASSERT_EQ(lines.size(), 3u);
  for (const auto& line : lines) EXPECT_TRUE(line["skipped"].get<bool>());
}

TEST(TrainerTest, AnotherModelOrOtherDataIsRefused) {
  const TempFolder folder;
  EXPECT_EQ(train(tiny_run(folder, {{"train.steps", "2"}})), 0);
  EXPECT_EQ(failing_code(tiny_run(folder, {{"model.intermediate_size", "48"}}), "gate_proj"), 2);
  EXPECT_EQ(failing_code(tiny_run(folder, {{"data.sequence_length", "32"}}), "[data]"), 2);
  EXPECT_EQ(failing_code(tiny_run(folder, {{"optim.name", "sgd"}}), "ckpt.reset_optim"), 2);
  EXPECT_EQ(
      train(tiny_run(folder,
                     {{"optim.name", "sgd"}, {"ckpt.reset_optim", "all"}, {"train.steps", "3"}})),
      0);
  EXPECT_EQ(failing_code(tiny_run(folder, {{"ckpt.resume", "none"}}), "already holds"), 2);
  EXPECT_EQ(failing_code(tiny_run(folder, {{"ckpt.resume", (folder / "nothing").string()}}),
                         "ckpt.resume"),
            4);
}

TEST(TrainerTest, WarmStartTakesWeightsOnly) {
  const TempFolder first, second;
  EXPECT_EQ(train(tiny_run(first)), 0);
  const std::string newest = (first / "run/checkpoints/step-000000000012").string();
  EXPECT_EQ(
      train(tiny_run(
          second, {{"ckpt.resume", newest}, {"ckpt.load", "weights-only"}, {"train.steps", "3"}})),
      0);
  const auto lines = metrics(second);
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_LT(lines[0]["loss"].get<double>(), 0.95 * std::log(256))
      << "the weights have learnt already";
}

TEST(TrainerTest, FailedSavesAreBorneUpToALimit) {
  const TempFolder folder;
  const Overrides overrides =
      tiny_run(folder, {{"ckpt.interval", "1"}, {"ckpt.max_failures", "2"}});
  io::set_fault_plan("mkdir:*=ENOSPC");  // only checkpoints make folders through core/io
  const int code = failing_code(overrides, "");
  io::set_fault_plan("");
  EXPECT_EQ(code, 9);
  EXPECT_EQ(metrics(folder).size(), 2u) << "the run went on after the first failure";
}

TEST(TrainerTest, ASecondRunInTheSameDirectoryIsRefused) {
  const TempFolder folder;
  RunDirectory holder(folder / "run");
  holder.claim();
  EXPECT_EQ(failing_code(tiny_run(folder), "in use by process"), 2);
}

}  // namespace
}  // namespace strata
