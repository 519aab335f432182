#include "launch/run_plan.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/text.h"
#include "launch/run_checkpoints.h"
#include "launch/run_config.h"
#include "parallel/plan/plan_string.h"
#include "tests/launch/temp_run.h"

namespace strata {
namespace {

using launch_test::TempFolder;
using launch_test::tiny_run;

// The tiny run: 2 blocks, batch 4.
constexpr const char* kPlan = "N2 p2 m2 gpipe gbs4 | 0-1: t1 d1 z0";

RunConfig read_with_plan(const TempFolder& folder, const std::string& text) {
  io::write_text_atomic(folder / "plan.json", text);
  return read_run_config({"", tiny_run(folder, {{"plan.file", (folder / "plan.json").string()}})});
}

std::string problems_of(const RunConfig& config, int world, int64_t batch) {
  try {
    make_run_plan(config.plan, *config.model, world, batch, config.data.sequence_length);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(RunPlanTest, ThePlanOfAFileIsTheRuns) {
  const TempFolder folder;
  const Plan plan = parse_plan_string(kPlan);
  const RunConfig config = read_with_plan(folder, plan_json(plan));
  EXPECT_EQ(make_run_plan(config.plan, *config.model, 2, 4, 16), plan);
  const Facts facts = plan_facts(config.plan);
  ASSERT_EQ(facts.size(), 1u);
  EXPECT_EQ(facts[0].second, kPlan);
  EXPECT_NE(config.ini.find("[plan]\nfile = "), std::string::npos) << config.ini;
  EXPECT_EQ(config.ini.find("microbatches"), std::string::npos) << "the file says it";
  io::write_text_atomic(folder / "config.ini", config.ini);
  EXPECT_EQ(read_run_config({(folder / "config.ini").string(), {}}).ini, config.ini);
}

TEST(RunPlanTest, AFileIsForOneRunOnly) {
  const TempFolder folder;
  const Plan plan = parse_plan_string(kPlan);
  const RunConfig config = read_with_plan(folder, plan_json(plan, {"0123", "llama"}));
  const std::string said = problems_of(config, 3, 8);
  for (const char* part :
       {"number of ranks: got 3, allowed: 2 (hardware.devices of ",
        "train.batch: got 8, allowed: 4 (global.gbs of ", "model.hash: got 0123, allowed: "})
    EXPECT_NE(said.find(part), std::string::npos) << said;
  const RunConfig same = read_with_plan(folder, plan_json(plan, *config.model));
  EXPECT_EQ(problems_of(same, 2, 4), "");
  const RunConfig wrong =
      read_with_plan(folder, plan_json(parse_plan_string("N3 p1 m2 1f1b gbs4 | 0-1: t3 d1")));
  EXPECT_NE(problems_of(wrong, 3, 4).find("plan.json: plan.layers[1].tp: got 3"), std::string::npos)
      << problems_of(wrong, 3, 4);
}

TEST(RunPlanTest, KeysBecomeAPlan) {
  const TempFolder folder;
  const RunConfig config = read_run_config({"", tiny_run(folder, {{"plan.pp", "2"},
                                                                  {"plan.chunks", "2"},
                                                                  {"plan.zero", "3"},
                                                                  {"plan.shards", "2"},
                                                                  {"plan.recompute", "selective"},
                                                                  {"plan.microbatches", "2"},
                                                                  {"plan.schedule", "interleaved"},
                                                                  {"train.batch", "16"}})});
  EXPECT_EQ(plan_string(make_run_plan(config.plan, *config.model, 8, 16, 16)),
            "N8 p2v2 m2 interleaved gbs16 | 0-1: t1 d4 z3/2 rs");
  EXPECT_TRUE(plan_facts(config.plan).empty());
  EXPECT_NE(problems_of(config, 5, 16).find("nearest: 4, 6"), std::string::npos);
}

TEST(RunPlanTest, ThePlanOfADirectoryIsAPlanFileForTheModel) {
  const TempFolder folder;
  const RunConfig config = read_run_config({"", tiny_run(folder)});
  const Plan plan = parse_plan_string(kPlan);
  const ParsedPlan parsed = parse_plan(plan_json(plan, *config.model), "plan.json");
  EXPECT_EQ(parsed.plan, plan);
  EXPECT_EQ(parsed.model.fingerprint, fingerprint_of(*config.model));
  EXPECT_EQ(parsed.model.family, "llama");
}

}  // namespace
}  // namespace strata
