// Rank selection of WeLore against the authors' own results, and the way from a checkpoint through
// `ckpt compress` to fine-tuning.
#include "launch/welore.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/io/safetensors.h"
#include "core/ops/low_rank.h"
#include "launch/commands.h"
#include "launch/model_folder.h"
#include "launch/trainer.h"
#include "parallel/checkpoint/checkpoint.h"
#include "tests/launch/temp_run.h"

namespace strata {
namespace welore_test_detail {

using launch_test::TempFolder;
using launch_test::tiny_run;

struct Golden {
  io::SafetensorsReader file;
  nlohmann::json notes, expected;
  std::vector<Spectrum> spectra;

  Golden()
      : file(std::string(STRATA_GOLDEN_DIR) + "/optim/welore-ranks.safetensors"),
        notes(nlohmann::json::parse(file.metadata().at("notes"))),
        expected(nlohmann::json::parse(file.metadata().at("expected"))) {
    for (const auto& name : notes.at("order of pruned.<tau>")) {
      const Tensor s = file.read("s." + name.get<std::string>()).to(at::kDouble);
      spectra.push_back({name.get<std::string>(),
                         s.numel() * 2,
                         s.numel(),
                         {s.const_data_ptr<double>(), s.const_data_ptr<double>() + s.numel()}});
    }
  }
};

int64_t pruned_in_all(const std::vector<Spectrum>& spectra, double tau) {
  int64_t out = 0;
  for (const Spectrum& s : spectra) out += pruned_count(s.values, tau);
  return out;
}

TEST(Welore, CountsOfTheAuthors) {
  const Golden golden;
  ASSERT_EQ(golden.spectra.size(), 21U);
  ASSERT_EQ(golden.expected.size(), 4U);
  for (const auto& [tau, counts] : golden.expected.items()) {
    int64_t all = 0;
    for (const Spectrum& s : golden.spectra) {
      EXPECT_EQ(pruned_count(s.values, std::stod(tau)), counts.at(s.name)) << tau << " " << s.name;
      all += static_cast<int64_t>(s.values.size());
    }
    EXPECT_EQ(all, golden.notes.at("total ranks"));
    EXPECT_NEAR(static_cast<double>(pruned_in_all(golden.spectra, std::stod(tau))) / 942,
                golden.notes.at("overall reduction").at(tau).get<double>(), 1e-12);
  }
}

TEST(Welore, ClassesOfTheAuthors) {
  const Golden golden;
  int compared = 0;
  for (const auto& [ratio, by_tau] : golden.notes.at("LRC for min_ratio").items()) {
    for (const auto& [tau, names] : by_tau.items()) {
      std::vector<std::string> low_rank;
      for (const WeloreRank& r : select_ranks(golden.spectra, std::stod(tau), std::stod(ratio))) {
        if (r.low_rank) low_rank.push_back(r.name);
      }
      EXPECT_EQ(low_rank, names.get<std::vector<std::string>>()) << ratio << " " << tau;
      ++compared;
    }
  }
  EXPECT_EQ(compared, 8);
}

TEST(Welore, OneToHundred) {
  std::vector<double> s;
  for (int i = 100; i >= 1; --i) s.push_back(i);
  EXPECT_EQ(pruned_count(s, 0.175), 18);
  EXPECT_EQ(pruned_count({2, 2, 2}, 1), 0) << "equal values: none is less than another";
  EXPECT_EQ(pruned_count(s, 1), 99) << "the largest always stays";
}

TEST(Welore, TargetsOnRanksAreReachedWithinOneValue) {
  const Golden golden;
  for (const double ratio : {0.05, 0.1, 0.3, 0.5, 0.7, 0.95}) {
    const double tau = threshold_for_ranks(golden.spectra, ratio);
    EXPECT_NEAR(static_cast<double>(pruned_in_all(golden.spectra, tau)), ratio * 942, 1) << ratio;
  }
  EXPECT_EQ(pruned_in_all(golden.spectra, threshold_for_ranks(golden.spectra, 0)), 0);
}

TEST(Welore, TargetsOnParametersAreReachedAndNotBySmallerThresholds) {
  const Golden golden;
  const auto saved = [&](double tau, const MinRatio& min_ratio) {
    const WeloreTotals t = totals(select_ranks(golden.spectra, tau, min_ratio));
    return 1 - static_cast<double>(t.after) / static_cast<double>(t.before);
  };
  for (const MinRatio& min_ratio : {MinRatio(), MinRatio(0.4999)}) {
    for (const double ratio : {0.1, 0.3, 0.5}) {
      const double tau = threshold_for_parameters(golden.spectra, ratio, min_ratio);
      EXPECT_GE(saved(tau, min_ratio), ratio);
      // Of all thresholds below: every one keeps more.
      for (const Spectrum& s : golden.spectra) {
        for (const double z : normalised(s.values)) {
          if (z >= tau) continue;
          EXPECT_LT(saved(z, min_ratio), ratio) << z << " is less than " << tau;
        }
      }
    }
  }
  try {
    threshold_for_parameters(golden.spectra, 0.9999, std::nullopt);
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("at most 0.9"), std::string::npos) << error.what();
  }
}

TEST(Welore, AutoMeansWhereStoragePays) {
  const Golden golden;
  for (const WeloreRank& r : select_ranks(golden.spectra, 0.115, std::nullopt))
    EXPECT_EQ(r.low_rank, r.kept * (r.rows + r.cols) < r.rows * r.cols) << r.name;
}

TEST(Welore, TruncationLosesTheDroppedValues) {
  const Tensor w = at::arange(960, at::kDouble).view({24, 40}).mul(0.7).sin();
  const std::vector<double> s = ops::singular_values(w);
  ASSERT_EQ(s.size(), 24U);
  for (const int64_t k : {1, 5, 23, 24}) {
    const auto f = ops::low_rank_factors(w, k);
    EXPECT_EQ(f.A_OK.sizes().vec(), (Shape{24, k}));
    EXPECT_EQ(f.B_KI.sizes().vec(), (Shape{k, 40}));
    double dropped = 0;
    for (size_t i = static_cast<size_t>(k); i < s.size(); ++i) dropped += s[i] * s[i];
    const double error = std::pow((w - f.A_OK.matmul(f.B_KI)).norm().item<double>(), 2);
    EXPECT_NEAR(error, dropped, 1e-9);
    EXPECT_NEAR(f.squared_error, dropped, 1e-9);
    // Shared evenly: both factors have the same Gram matrix.
    const Tensor left = f.A_OK.t().matmul(f.A_OK), right = f.B_KI.matmul(f.B_KI.t());
    EXPECT_LT((left - right).norm().item<double>(), 1e-9);
  }
}

int train(const Overrides& overrides, const std::string& path = "") {
  const RunConfig config = read_run_config({path, overrides});
  Runtime runtime({config.runtime, config.comm, config.log, config.run.directory()});
  return Trainer(config, runtime).run();
}

int compress(const std::vector<std::string>& words) {
  Arguments arguments;
  arguments.push_back("compress");
  arguments.insert(arguments.end(), words.begin(), words.end());
  return cmd_ckpt(arguments);
}

std::vector<double> losses(const std::filesystem::path& run) {
  std::vector<double> out;
  for (const std::string& line : split(io::read_text(run / "metrics.jsonl"), '\n')) {
    if (!line.empty()) out.push_back(nlohmann::json::parse(line)["loss"].get<double>());
  }
  return out;
}

// Keys of tiny_run that finetune.ini does not have: how long, where, and on what.
Overrides fine_tuning(const std::string& run, int steps) {
  return {{"run.dir", run},         {"train.steps", cat(steps)}, {"sched.warmup", "2"},
          {"ckpt.interval", "4"},   {"runtime.backend", "self"}, {"runtime.device", "cpu"},
          {"runtime.threads", "1"}, {"log.level", "error"},      {"optim.lr", "1e-3"}};
}

TEST(Welore, ACheckpointIsCompressedAndFineTuned) {
  const TempFolder folder;
  ASSERT_EQ(train(tiny_run(folder, {{"train.steps", "30"}})), 0);
  const std::string run = (folder / "run").string(), small = (folder / "small").string();
  ASSERT_EQ(compress({run, small, "--welore", "--ratio=0.6"}), 0);

  const auto config = nlohmann::json::parse(io::read_text(folder / "small/config.json"));
  EXPECT_EQ(config["structured_linear"], "LowRankLinear");
  const auto table = nlohmann::json::parse(io::read_text(folder / "small/welore.json"));
  EXPECT_EQ(table["linears"].size(), 14U);
  EXPECT_NEAR(table["pruned"].get<double>(), 0.6 * table["singular_values"].get<double>(), 1);
  const io::SafetensorsReader weights(small);
  const ModelFolder from = open_model_folder(run, {});
  size_t low_rank = 0, dense = 0;
  for (const auto& row : table["linears"]) {
    const std::string name = row["name"], stem = "model.layers." + name;
    if (row["class"] == "N-LRC") {
      EXPECT_TRUE(weights.contains(stem + ".weight"));
      ++dense;
      continue;
    }
    ++low_rank;
    EXPECT_FALSE(weights.contains(stem + ".weight"));
    const Tensor a = weights.read(stem + ".lowrank_a"), b = weights.read(stem + ".lowrank_b");
    EXPECT_EQ(a.size(1), row["kept"].get<int64_t>());
    Parameter p;
    for (const ParamMeta& meta : parameter_metas(*from.model)) {
      if (meta.name == stem + ".weight") p.meta = meta;
    }
    const Tensor w = from.weights->read(p, {{0, 0}, p.meta.logical}, at::kFloat);
    const double lost =
        std::pow((w - a.matmul(b)).norm().item<double>() / w.norm().item<double>(), 2);
    EXPECT_NEAR(lost, row["lost_of_squared_norm"].get<double>(), 1e-5) << name;
  }
  EXPECT_GT(low_rank, 0U);
  EXPECT_NE(io::read_text(folder / "small/welore.svg").find("mlp.down_proj"), std::string::npos);

  // Fine-tuning begins near where training ended, moves factors and norms, and nothing else.
  const std::string ini = small + "/finetune.ini", tuned = (folder / "tuned").string();
  ASSERT_EQ(train(fine_tuning(tuned, 8), ini), 0);
  const std::vector<double> before = losses(folder / "run"), after = losses(folder / "tuned");
  EXPECT_LT(after.front(), 0.5 * (before.front() + before.back()));
  const CheckpointReader end(folder / "tuned/checkpoints/step-000000000008");
  size_t frozen = 0, moved = 0;
  for (const auto& [path, info] : end.tensors()) {
    if (!starts_with(path, "/model/")) {
      EXPECT_TRUE(path.find("lowrank") != std::string::npos ||
                  path.find("norm") != std::string::npos)
          << path << " is the optimizer's";
      continue;
    }
    const std::string name = path.substr(7);
    const bool same = at::equal(end.read_whole(path).to(at::kFloat), weights.read(name));
    const bool trained =
        name.find("lowrank") != std::string::npos || name.find("norm") != std::string::npos;
    EXPECT_EQ(same, !trained) << name;
    (same ? frozen : moved) += 1;
  }
  EXPECT_EQ(frozen, dense + 2);
  EXPECT_EQ(moved, 2 * low_rank + 5);

  // Interrupted and resumed: the same bits, frozen weights included.
  const std::string parts = (folder / "parts").string();
  Overrides first = fine_tuning(parts, 4);
  first.insert(first.end(), {{"sched.name", "constant"}});
  Overrides second = fine_tuning(parts, 8), whole = fine_tuning((folder / "whole").string(), 8);
  second.insert(second.end(), {{"sched.name", "constant"}});
  whole.insert(whole.end(), {{"sched.name", "constant"}});
  ASSERT_EQ(train(first, ini), 0);
  ASSERT_EQ(train(second, ini), 0);
  ASSERT_EQ(train(whole, ini), 0);
  EXPECT_EQ(losses(folder / "parts"), losses(folder / "whole"));
}

TEST(Welore, NothingPrunedIsTheModelItself) {
  const TempFolder folder;
  ASSERT_EQ(train(tiny_run(folder, {{"train.steps", "2"}})), 0);
  const std::string run = (folder / "run").string(), same = (folder / "same").string();
  ASSERT_EQ(compress({run, same, "--welore", "--tau=0"}), 0);
  const auto config = nlohmann::json::parse(io::read_text(folder / "same/config.json"));
  EXPECT_FALSE(config.contains("structured_linear"));
  // A folder is read like a checkpoint, and full rank is exact.
  const std::string full = (folder / "full").string();
  ASSERT_EQ(compress({same, full, "--welore", "--ratio=0.6", "--target=parameters"}), 0);
  const std::string back = (folder / "back").string();
  Arguments words;
  for (const char* word : {"convert", full.c_str(), back.c_str(), "--linear=dense"})
    words.push_back(word);
  ASSERT_EQ(cmd_ckpt(words), 0);
  const io::SafetensorsReader factors(full), dense(back);
  const std::string stem = "model.layers.0.mlp.up_proj";
  const Tensor product =
      factors.read(stem + ".lowrank_a").matmul(factors.read(stem + ".lowrank_b"));
  EXPECT_LT((product - dense.read(stem + ".weight")).abs().max().item<double>(), 1e-6);
  EXPECT_THROW(compress({full, (folder / "again").string(), "--welore"}), ConfigError);
}

}  // namespace welore_test_detail
}  // namespace strata
