// Sweeps: the grid, what results say together, reports. Whole sweeps run in tests/cases.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "launch/sweep_report.h"
#include "launch/sweep_runs.h"
#include "tests/launch/temp_run.h"

namespace strata {
namespace {

using State = SweepResult::State;

SweepResult finished(double train, std::optional<double> eval = {}) {
  SweepResult r;
  r.state = State::Finished;
  r.exit_code = 0;
  r.steps = 2;
  r.train_loss = train;
  r.eval_loss = eval;
  r.curve = {{1, train + 1}, {2, train}};
  return r;
}

Sweep two_rules() {
  Sweep sweep;
  sweep.axes = parse_sweep_axes({"optim.name=adamw,sgd", "optim.lr=1e-3,3e-3,1e-2"});
  sweep.points = sweep_points(sweep.axes);
  sweep.results = {finished(3), finished(2), finished(2.5), finished(5), finished(4), finished(3)};
  return sweep;
}

std::string message_of(const std::vector<std::string>& words) {
  try {
    parse_sweep_axes(words);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(SweepTest, GridsAreAllCombinationsWithReadableNames) {
  const Sweep sweep = two_rules();
  ASSERT_EQ(sweep.points.size(), 6U);
  EXPECT_EQ(sweep.points[0].name, "name=adamw,lr=1e-3");
  EXPECT_EQ(sweep.points[5].name, "name=sgd,lr=1e-2");
  EXPECT_EQ(sweep.points[4].values, (Overrides{{"optim.name", "sgd"}, {"optim.lr", "3e-3"}}));
}

TEST(SweepTest, ValuesWithCommasAreSeparatedBySemicolons) {
  const auto axes = parse_sweep_axes({"optim.betas=0.9, 0.95; 0.8, 0.98", "data.path=a/b,a_b"});
  EXPECT_EQ(axes[0].values, (std::vector<std::string>{"0.9, 0.95", "0.8, 0.98"}));
  const auto points = sweep_points(axes);
  EXPECT_EQ(points[0].name, "betas=0.9_0.95,path=a_b");
  EXPECT_EQ(points[1].name, "betas=0.9_0.95,path=a_b-2") << "names must differ";
}

TEST(SweepTest, KeysThatEndAlikeKeepTheirSections) {
  const auto points = sweep_points(parse_sweep_axes({"optim.name=sgd", "model.name=llama,gla"}));
  EXPECT_EQ(points[1].name, "optim.name=sgd,model.name=gla");
}

TEST(SweepTest, WrongAxesAreExplained) {
  EXPECT_NE(message_of({"lr=1"}).find("KEY=V1,V2"), std::string::npos);
  EXPECT_NE(message_of({"optim.lr"}).find("got \"optim.lr\""), std::string::npos);
  EXPECT_NE(message_of({"optim.lr=1,"}).find("optim.lr=1,"), std::string::npos);
  EXPECT_NE(message_of({"optim.lr=1,1"}).find("each value once"), std::string::npos);
  EXPECT_NE(message_of({"optim.lr=1", "optim.lr=2"}).find("optim.lr twice"), std::string::npos);
  EXPECT_NE(message_of({"run.dir=a,b"}).find("keys of other sections"), std::string::npos);
}

TEST(SweepTest, FinalLossIsAMeanOverTheEnd) {
  std::string text;
  for (int step = 1; step <= 40; ++step)
    text += cat("{\"step\":", step, ",\"loss\":", 100 - step,
                ",\"seconds\":0.5,\"tokens_per_s\":", step == 1 ? 1 : 10,
                step == 40 ? ",\"eval_loss\":7" : "", "}\n");
  const SweepResult r = read_metrics(text);
  EXPECT_EQ(r.steps, 40);
  EXPECT_DOUBLE_EQ(*r.train_loss, 60.5);  // of steps 39 and 40
  EXPECT_DOUBLE_EQ(*r.eval_loss, 7);
  EXPECT_DOUBLE_EQ(r.tokens_per_s, 10);
  EXPECT_DOUBLE_EQ(r.step_time_s, 20);
  EXPECT_DOUBLE_EQ(*r.score(), 7);
  EXPECT_FALSE(read_metrics(text + "{\"step\":41,\"loss\":1}\n").eval_loss)
      << "an evaluation before the last step says nothing about the end";
  EXPECT_FALSE(read_metrics("").train_loss);
}

TEST(SweepTest, StatesFollowFromExitCodeAndLoss) {
  SweepResult good = finished(2), rose = finished(2), none = finished(2);
  rose.curve.front().second = 1;
  none.train_loss = std::nan("");
  EXPECT_EQ(judge(good, 0), State::Finished);
  EXPECT_EQ(judge(rose, 0), State::Diverged);
  EXPECT_EQ(judge(none, 0), State::Diverged);
  EXPECT_EQ(judge(good, 6), State::Diverged);
  EXPECT_EQ(judge(good, 2), State::Failed);
  EXPECT_EQ(judge(good, 137), State::Failed);
  EXPECT_EQ(judge(good, 75), State::Waiting);
  EXPECT_EQ(judge(good, -1), State::Waiting);
}

TEST(SweepTest, BestOfEachValueAndTheBorder) {
  const Sweep sweep = two_rules();
  const auto best = sweep_best(sweep, "optim.name");
  ASSERT_EQ(best.size(), 2U);
  EXPECT_EQ(best[0].point, 1U);
  EXPECT_TRUE(best[0].advice.empty()) << "3e-3 has neighbours on both sides";
  EXPECT_EQ(best[1].point, 5U);
  ASSERT_EQ(best[1].advice.size(), 1U);
  EXPECT_EQ(best[1].advice[0], "optim.lr: best at the largest value, 1e-2: extend it upwards");
  ASSERT_EQ(sweep_best(sweep, "").size(), 1U);
  EXPECT_EQ(sweep_best(sweep, "")[0].point, 1U);
}

TEST(SweepTest, FailedPointsAreRankedNowhereButBoundTheRange) {
  Sweep sweep = two_rules();
  sweep.results[5].state = State::Diverged;
  sweep.results[0].state = State::Waiting;
  EXPECT_EQ(ranking(sweep), (std::vector<size_t>{1, 2, 4, 3}));
  EXPECT_TRUE(sweep_best(sweep, "optim.name")[1].advice.empty());
}

TEST(SweepTest, ValidationLossDecidesWhereThereIsOne) {
  Sweep sweep = two_rules();
  sweep.results[3] = finished(5, 1.0);
  EXPECT_EQ(ranking(sweep)[0], 3U);
}

TEST(SweepTest, ReportsHoldEveryPoint) {
  Sweep sweep = two_rules();
  sweep.results[0].state = State::Failed;
  sweep.results[0].exit_code = 5;
  sweep.results[0].message = "Out of memory: no \x01 room";
  const std::string text = sweep_text(sweep, "optim.name");
  EXPECT_NE(text.find("best of optim.name = sgd: name=sgd,lr=1e-2, train loss 3.0000"),
            std::string::npos);
  EXPECT_NE(text.find("extend it upwards"), std::string::npos);
  EXPECT_NE(text.find("name=adamw,lr=1e-3 failed with 5: Out of memory"), std::string::npos);
  EXPECT_NE(sweep_markdown(sweep, "").find("| adamw | 3e-3 | - | 2.0000 |"), std::string::npos);
  const auto json = nlohmann::json::parse(sweep_json(sweep, "optim.name"));
  ASSERT_EQ(json["points"].size(), 6U);
  EXPECT_EQ(json["points"][0]["name"], "name=adamw,lr=3e-3");
  EXPECT_EQ(json["points"][5]["exit_code"], 5);
  EXPECT_EQ(json["best"][1]["point"], "name=sgd,lr=1e-2");
  const std::string svg = sweep_svg(sweep, "optim.name");
  EXPECT_NE(svg.find("loss at the end against optim.lr"), std::string::npos);
  EXPECT_NE(svg.find(">sgd</text>"), std::string::npos);
}

TEST(SweepTest, CommandsOfPoints) {
  SweepOptions options;
  options.file = "run.ini";
  options.overrides = {{"train.steps", "5"}};
  options.out = "out";
  const SweepPoint point{"lr=1", {{"optim.lr", "1"}}};
  EXPECT_EQ(point_command(options, point, "/bin/strata"),
            (std::vector<std::string>{"/bin/strata", "train", "run.ini", "--train.steps=5",
                                      "--optim.lr=1", "--run.dir=out/lr=1"}));
  options.ranks = 2;
  options.threads = 3;
  const auto words = point_command(options, point, "/bin/strata");
  EXPECT_EQ(std::vector<std::string>(words.begin(), words.begin() + 6),
            (std::vector<std::string>{"mpirun", "--bind-to", "none", "-n", "2", "/bin/strata"}));
  EXPECT_EQ(words.back(), "--runtime.threads=3");
}

TEST(SweepTest, AnotherConfigurationInTheFolderIsRefused) {
  const launch_test::TempFolder folder;
  Overrides run = launch_test::tiny_run(folder);
  std::erase_if(run, [](const auto& entry) { return entry.first == "run.dir"; });
  Sweep sweep;
  sweep.axes = parse_sweep_axes({"optim.lr=1,2"});
  std::erase_if(run, [](const auto& entry) { return entry.first == "optim.lr"; });
  sweep.points = sweep_points(sweep.axes);
  SweepOptions options;
  options.overrides = run;
  options.out = folder / "sweep";
  EXPECT_NO_THROW(check_points(options, sweep));
  const auto before = options.out / sweep.points[1].name;
  std::filesystem::create_directories(before);
  Overrides same = run;
  same.insert(same.end(), {{"optim.lr", "2"}, {"run.dir", before.string()}, {"log.interval", "3"}});
  io::write_text_atomic(before / "config.ini",
                        read_run_config({.path = {}, .overrides = same}).ini);
  EXPECT_NO_THROW(check_points(options, sweep)) << "what is printed does not matter";
  for (auto& [key, value] : options.overrides) {
    if (key == "train.steps") value = "13";
  }
  try {
    check_points(options, sweep);
    FAIL() << "the earlier run had 12 steps";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what())
                  .find("lr=2 was trained otherwise: train.steps was 12 and "
                        "is 13"),
              std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace strata
