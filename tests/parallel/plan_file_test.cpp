// Plan files and plan strings: round trips, what is refused, and texts that nobody wrote.
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/text.h"
#include "parallel/plan/plan_json.h"
#include "parallel/plan/plan_string.h"
#include "tests/parallel/random_plan.h"

namespace strata {
namespace plan_file_test {

using nlohmann::json;
using testing::RandomPlans;

std::vector<std::string> problems_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const ConfigError& error) {
    return error.problems();
  }
  return {};
}

std::vector<std::string> file_problems(const json& file) {
  return problems_of([&] { parse_plan(file.dump(), "p.json"); });
}
std::vector<std::string> string_problems(const std::string& text) {
  return problems_of([&] { parse_plan_string(text); });
}

// 4 ranks in 2 stages, 4 blocks.
json good_file() {
  return json::parse(R"({
    "schema": "plan/1",
    "hardware": {"devices": 4},
    "global": {"p": 2, "m": 4, "gbs": 8},
    "stages": [{"first": 0, "last": 2, "chunks": [[0, 2]]}, {"first": 3, "last": 5}],
    "layers": [{"from": 0, "to": 1, "t": 2, "d": 1}, {"from": 2, "to": 3, "t": 1, "d": 2, "zero": 1}]
  })");
}

TEST(PlanFile, RoundTrip) {
  RandomPlans random(1);
  for (int i = 0; i < 500; ++i) {
    const Plan plan = random.next();
    const std::string text = plan_json(plan, {"0123456789abcdef", "llama"});
    const ParsedPlan parsed = parse_plan(text, "p.json");
    ASSERT_EQ(parsed.plan, plan) << text;
    EXPECT_EQ(parsed.model.fingerprint, "0123456789abcdef");
    EXPECT_EQ(parsed.model.family, "llama");
    EXPECT_EQ(plan_json(parsed.plan, parsed.model), text);
  }
}

TEST(PlanFile, HasTheKeysOfTheSchema) {
  RandomPlans random(2);
  const json file = json::parse(plan_json(random.next()));
  EXPECT_EQ(file["schema"], "plan/1");
  for (const char* key : {"p", "v", "schedule", "m", "gbs", "mbs_stage", "group_order"})
    EXPECT_TRUE(file["global"].contains(key)) << key;
  for (const char* key :
       {"t", "sp", "c", "cp_kind", "d", "zero", "shard_group", "recompute", "placement"}) {
    EXPECT_TRUE(file["embed"].contains(key)) << key;
    EXPECT_TRUE(file["head"].contains(key)) << key;
  }
  for (const char* key : {"first", "last", "chunks"})
    EXPECT_TRUE(file["stages"][0].contains(key)) << key;
  EXPECT_FALSE(file.contains("model")) << "nothing is known of it";
}

TEST(PlanFile, RunsOfEqualBlocksAreOneEntry) {
  UniformPlan request;
  request.world_size = 2;
  Plan plan = make_uniform_plan(request, 8);
  EXPECT_EQ(json::parse(plan_json(plan))["layers"].size(), 1u);
  plan.layers[3].recompute = Recompute::Full;
  EXPECT_EQ(json::parse(plan_json(plan))["layers"].size(), 3u);
}

TEST(PlanFile, WhatIsAbsentHasDefaults) {
  const Plan plan = parse_plan(good_file().dump(), "p.json").plan;
  EXPECT_EQ(plan.schedule, "1f1b");
  EXPECT_EQ(plan.virtual_stage, (std::vector<int>{0, 0, 0, 1, 1, 1}));
  EXPECT_EQ(plan.layers[0], plan.layers[1]) << "the embedding as the first block";
  EXPECT_EQ(plan.layers[5], plan.layers[4]) << "the head as the last block";
  json file = good_file();
  file.erase("stages");
  EXPECT_EQ(parse_plan(file.dump(), "p.json").plan, plan);
}

// One change to the good file, and what is said about it.
struct Refusal {
  const char* pointer;
  const char* value;  // nullptr: removed
  const char* text;
};
const Refusal kRefusals[] = {
    {"/schema", nullptr, "p.json: schema: got nothing, allowed: plan/1"},
    {"/schema", R"("plan/2")", "p.json: schema: got \"plan/2\", allowed: plan/1"},
    {"/hardware", nullptr, "p.json: hardware: got nothing, allowed: an object with devices"},
    {"/hardware/devices", "0", "hardware.devices: got 0, allowed: integer from 1 to 16777216"},
    {"/hardware/devices", "1e300", "hardware.devices: got 1e+300"},
    {"/hardware/devices", "5", "hardware.devices: got 5, allowed: multiples of global.p = 2"},
    {"/hardware/device", "5", "hardware.device: unknown key. Did you mean \"devices\"?"},
    {"/x-mine", "5", nullptr},
    {"/hardware/x-mine", "{}", nullptr},
    {"/global/p", R"("two")", "global.p: got \"two\", allowed: integer from 1 to 65536"},
    {"/global/p", "1.5", "global.p: got 1.5"},
    {"/global/p", "2.0", nullptr},
    {"/stages", R"([{"first": 0, "last": 5}])", "stages: got 1 stages, allowed: global.p = 2"},
    {"/global/v", "2", "stages[0].chunks: got 1 chunks, allowed: global.v = 2"},
    {"/global/m", "3", "global.m: got 3, allowed: divisors of global.gbs = 8"},
    {"/global/gbs", "[8]", "global.gbs: got a list"},
    {"/global/mbs_stage", "3", "global.mbs_stage: got 3, allowed: 2 (gbs / m)"},
    {"/global/mbs_stage", "2", nullptr},
    {"/global/schedule", R"("1f1")", "global.schedule: got \"1f1\", allowed: 1f1b, gpipe, "},
    {"/global/schedule", R"("zb-v")", "allowed: 1f1b, gpipe, interleaved, zb-h1"},
    {"/global/group_order", R"(["pp", "tp"])", "global.group_order: got another order"},
    {"/stages/0/last", "1", "stages[0]: got layers 0 to 1, allowed: first and last layer of its"},
    {"/stages/1/first", "4", "stages[1]: got layers 4 to 5, allowed: layers from 3 on"},
    {"/stages/1/last", "6", "stages: got layers up to 6, allowed: up to 5 (the head)"},
    {"/stages/0/chunks/0", "[0]", "stages[0].chunks[0]: got a list, allowed: [first, last]"},
    {"/stages/0/chunks/0", "[0, -1]", "stages[0].chunks[0]: got a list, allowed: [first, last]"},
    {"/layers/1/from", "3", "layers[1]: got blocks 3, allowed: blocks from 2 on (2 to 2 are"},
    {"/layers/1/from", "1", "layers[1]: got blocks 1 to 3, allowed: blocks from 2 on"},
    {"/layers/1/to", "1", "layers[1]: got blocks 2 to 1"},
    {"/layers/1/to", "99999999", "layers[1].to: got 99999999, allowed: integer from 0 to 65535"},
    {"/layers/0/t", nullptr, "layers[0].t: got nothing"},
    {"/layers/0/t", "4",
     "layers[0]: got d 1 x t 4, allowed: d x t = 2 (hardware.devices / global.p)"},
    {"/layers/0/tp", "2", "layers[0].tp: unknown key"},
    {"/layers/0/zero", "4", "layers[0].zero: got 4, allowed: integer from 0 to 3"},
    {"/layers/0/sp", "1", "layers[0].sp: got 1, allowed: true, false"},
    {"/layers/0/recompute", R"("ful")",
     "layers[0].recompute: got \"ful\", allowed: none, selective, "
     "full. Did you mean \"full\"?"},
    {"/layers/0/shard_group", R"("node")",
     "layers[0].shard_group: got \"node\", allowed: \"full\" or"},
    {"/layers/0/shard_group", "0", "layers[0].shard_group: got 0"},
    {"/layers/0/c", "2", "layers[0].c: got 2, allowed: 1 (context parallelism is not part"},
    {"/layers/0/cp_kind", R"("ring")", "layers[0].cp_kind: got \"ring\", allowed: null"},
    {"/layers/0/placement", R"("offload")",
     "layers[0].placement: got \"offload\", allowed: device"},
    {"/layers/0", "7", "layers[0]: got 7, allowed: an object"},
    {"/layers", "{}", "layers: got an object, allowed: a list of objects"},
    {"/layers", "[]", "layers: got no blocks, allowed: at least one, or embed and head"},
    {"/embed", R"({"t": 4, "d": 1})", "embed: got d 1 x t 4"},
    {"/head", R"({"t": 2, "d": 1, "from": 1})", "head.from: unknown key"},
    {"/optimizer", R"({"placement": "all"})", "optimizer.placement: got \"all\", allowed: owner"},
    {"/optimizer", R"({"name": "muon", "owner_map_hash": "1"})", nullptr},
    {"/prediction", R"({"step_s": 1.5, "stages": []})", nullptr},
    {"/prediction", R"({"steps_s": 1.5})", "prediction.steps_s: unknown key. Did you mean"},
    {"/explanation", R"([{"kind": "why"}])", nullptr},
    {"/model", R"({"hash": "1", "classes": [{"id": "block"}]})", nullptr},
    {"/model", R"({"hash": 1})", "model.hash: got 1, allowed: text"},
};

TEST(PlanFile, SaysWhatIsWrong) {
  EXPECT_TRUE(file_problems(good_file()).empty());
  for (const Refusal& refusal : kRefusals) {
    json file = good_file();
    const json::json_pointer pointer(refusal.pointer);
    if (refusal.value != nullptr) {
      file[pointer] = json::parse(refusal.value);
    } else {
      file[pointer.parent_pointer()].erase(pointer.back());
    }
    const std::vector<std::string> problems = file_problems(file);
    if (refusal.text == nullptr) {
      EXPECT_TRUE(problems.empty()) << refusal.pointer << ": " << join(problems, "\n");
      continue;
    }
    ASSERT_EQ(problems.size(), 1u) << refusal.pointer << ": " << join(problems, "\n");
    EXPECT_NE(problems[0].find(refusal.text), std::string::npos) << problems[0];
    EXPECT_TRUE(starts_with(problems[0], "p.json: ")) << problems[0];
  }
}

TEST(PlanFile, AllProblemsAtOnce) {
  json file = good_file();
  file["laiers"] = 1;
  file["layers"][0]["c"] = 2;
  file["layers"][1]["d"] = 3;
  file["global"]["m"] = 3;
  EXPECT_EQ(file_problems(file).size(), 4u) << join(file_problems(file), "\n");
}

TEST(PlanFile, MembersGivenTwiceAreNamed) {
  const auto problems =
      problems_of([] { parse_plan(R"({"schema": "plan/1", "schema": "plan/1"})", "p.json"); });
  ASSERT_FALSE(problems.empty());
  EXPECT_EQ(problems[0], "p.json: schema: given twice");
}

TEST(PlanFile, TextThatIsNoJson) {
  for (const char* text : {"", "{", "[]", "7", "{\"schema\": }", "\xff", "{\"a\": 1e999}"})
    EXPECT_EQ(problems_of([&] { parse_plan(text, "p.json"); }).size(), 1u) << text;
  EXPECT_NE(problems_of([] { parse_plan("{\n\"a\" 1}", "p.json"); })[0].find("line 2, column 5"),
            std::string::npos);
}

// Anything but ConfigError ends the test.
void parse_anything(const std::string& text) {
  problems_of([&] { parse_plan(text, "p.json"); });
}

TEST(PlanFile, SurvivesBrokenTexts) {
  RandomPlans random(3);
  for (int i = 0; i < 40; ++i) {
    const std::string text = plan_json(random.next());
    for (size_t end = 0; end < text.size(); end += 7) parse_anything(text.substr(0, end));
    for (int change = 0; change < 60; ++change) {
      std::string other = text;
      const auto at = static_cast<size_t>(random.between(0, static_cast<int>(text.size()) - 1));
      other[at] = static_cast<char>(random.between(0, 255));
      parse_anything(other);
    }
  }
  parse_anything(std::string(100000, '['));
  parse_anything("{\"schema\":" + std::string(100000, '['));
}

TEST(PlanFile, SurvivesWrongValuesEverywhere) {
  RandomPlans random(4);
  const std::vector<json> values = {nullptr,
                                    true,
                                    -1,
                                    0,
                                    1.5,
                                    1e300,
                                    18446744073709551615u,
                                    9223372036854775807,
                                    65536,
                                    2147483648u,
                                    "x",
                                    "",
                                    json::array(),
                                    json::object(),
                                    json::array({1, 2, 3})};
  for (int i = 0; i < 5; ++i) {
    const json flat = json::parse(plan_json(random.next())).flatten();
    for (const auto& [pointer, old] : flat.items()) {
      for (const json& value : values) {
        json file = flat.unflatten();
        file[json::json_pointer(pointer)] = value;
        parse_anything(file.dump());
      }
    }
  }
  json many = good_file();  // parts that would fill the memory
  many["global"]["v"] = 65536;
  many["global"]["p"] = 60000;
  many["stages"] = json::array();
  for (int i = 0; i < 60000; ++i) many["stages"].push_back({{"first", 0}, {"last", 0}});
  parse_anything(many.dump());
}

TEST(PlanString, RoundTrip) {
  RandomPlans random(5);
  for (int i = 0; i < 2000; ++i) {
    const Plan plan = random.next();
    const std::string text = plan_string(plan);
    ASSERT_TRUE(looks_like_plan_string(text)) << text;
    ASSERT_EQ(parse_plan_string(text), plan) << text;
    EXPECT_EQ(plan_string(parse_plan_string(text)), text);
  }
}

TEST(PlanString, IsWhatTheManualSays) {
  const std::string canonical[] = {
      "N1 p1 m1 1f1b gbs8 | 0-11: t1 d1 z0",
      "N64 p4v2 m16 interleaved gbs256 | 0-23: t4 d4 z1 | 24-31: t4 q0 d4 z1/2 rf | head: t4 d4 z1",
      "N8 p2 m4 1f1b gbs32 cut5 | 0-7: t2 d2 z3 rs | emb: t4 d1 z0",
      "N2 p2 m1 gpipe gbs1 cut0 | 0: t1 d1 z0",
      "N4 p1 m1 1f1b gbs4 | emb: t4 d1 z0 | head: t1 d4 z0",
  };
  for (const std::string& text : canonical) EXPECT_EQ(plan_string(parse_plan_string(text)), text);
  const Plan plan = parse_plan_string(canonical[2]);
  EXPECT_EQ(plan.virtual_stage, (std::vector<int>{0, 0, 0, 0, 0, 0, 1, 1, 1, 1}));
  EXPECT_EQ(plan.layers[0], (LayerStrategy{.dp = 1, .tp = 4, .sequence_parallel = true}));
  EXPECT_EQ(plan.layers[9], (LayerStrategy{.dp = 2,
                                           .tp = 2,
                                           .zero = 3,
                                           .sequence_parallel = true,
                                           .recompute = Recompute::Selective}));
  EXPECT_EQ(parse_plan_string(" N8  p2 m4 1f1b gbs32 cut5|0-7 :t2d2z3rs|emb:t4d1 "), plan);
}

TEST(PlanString, SaysWhatIsWrong) {
  const std::pair<const char*, const char*> refusals[] = {
      {"", "plan: beginning: got nothing, allowed: N<ranks> p<stages>"},
      {"N4 p2 m4", "plan: beginning: got \"N4 p2 m4\""},
      {"4 p2 m4 1f1b gbs8 | 0-3: t1 d2 z0", "plan: N: got \"4\", allowed: N<integer>"},
      {"N4 p0 m4 1f1b gbs8 | 0-3: t1 d2 z0", "plan: p: got \"0\", allowed: integer from 1"},
      {"N4 p2w m4 1f1b gbs8 | 0-3: t1 d2 z0", "plan: p: got \"p2w\""},
      {"N4 p2 m4x 1f1b gbs8 | 0-3: t1 d2 z0", "plan: m: got \"m4x\", allowed: m<integer>"},
      {"N4 p2 m4 1f1 gbs8 | 0-3: t1 d2 z0", "plan: schedule: got \"1f1\", allowed: gpipe, 1f1b, "},
      {"N4 p2 m3 1f1b gbs8 | 0-3: t1 d2 z0", "plan: m: got 3, allowed: divisors of gbs = 8"},
      {"N5 p2 m4 1f1b gbs8 | 0-3: t1 d2 z0", "plan: N: got 5, allowed: multiples of p = 2"},
      {"N4 p2 m4 1f1b gbs8 cut | 0-3: t1 d2 z0", "plan: cut: got nothing, allowed: integer"},
      {"N4 p2 m4 1f1b gbs8 cut5 | 0-3: t1 d2 z0", "plan: cut: got part 0 of layers 0 to 5"},
      {"N4 p2 m4 1f1b gbs8 cut1,2 | 0-3: t1 d2 z0", "plan: cut: got 3 parts, allowed: 2 (one per"},
      {"N4 p2 m4 1f1b gbs8", "plan: blocks: got no blocks"},
      {"N4 p2 m4 1f1b gbs8 | t1 d2", "plan: layers: got \"t1 d2\", allowed: <blocks>: t<tp>"},
      {"N4 p2 m4 1f1b gbs8 | 1-3: t1 d2", "plan: 1-3: got blocks 1 to 3, allowed: blocks from 0"},
      {"N4 p2 m4 1f1b gbs8 | 0-3: t1 d1", "plan: 0-3: got d 1 x t 1, allowed: d x t = 2 (N / p)"},
      {"N4 p2 m4 1f1b gbs8 | 0-x: t1 d2", "plan: blocks: got \"x\", allowed: integer"},
      {"N4 p2 m4 1f1b gbs8 | 0-3: d2", "plan: 0-3: got \" d2\", allowed: t<tp>"},
      {"N4 p2 m4 1f1b gbs8 | 0-3: t1 z2", "plan: 0-3: got \"z2\", allowed: d<dp> at this place"},
      {"N4 p2 m4 1f1b gbs8 | 0-3: t1 d2 z4",
       "plan: 0-3.z: got \"4\", allowed: integer from 0 to 3"},
      {"N4 p2 m4 1f1b gbs8 | 0-3: t1 c2r d1", "no c (context parallelism is not part"},
      {"N4 p2 m4 1f1b gbs8 | 0-3: t1 d2 om", "no o (nothing is moved off"},
      {"N4 p2 m4 1f1b gbs8 | 0-3: t1 d2 rx", "plan: 0-3: got \"rx\", allowed: the end"},
      {"N4 p2 m4 1f1b gbs8 | 0-3: t1 d2 | emb: t1 d2 | emb: t1 d2", "plan: emb: got \"a second"},
      {"N6 p6 m4 1f1b gbs8 | 0-2: t1 d1", "plan: p: got 6, allowed: at most 5 (layers"},
  };
  for (const auto& [text, wanted] : refusals) {
    const std::vector<std::string> problems = string_problems(text);
    ASSERT_EQ(problems.size(), 1u) << text << ": " << join(problems, "\n");
    EXPECT_NE(problems[0].find(wanted), std::string::npos) << text << ": " << problems[0];
  }
  EXPECT_EQ(string_problems("N4 p2 m0 zb gbs8 | 0-1: t1 d2 z9 | x: t1 d2").size(), 4u);
}

TEST(PlanString, SurvivesBrokenTexts) {
  RandomPlans random(6);
  for (int i = 0; i < 200; ++i) {
    const std::string text = plan_string(random.next());
    for (size_t end = 0; end < text.size(); ++end) string_problems(text.substr(0, end));
    for (int change = 0; change < 100; ++change) {
      std::string other = text;
      const auto at = static_cast<size_t>(random.between(0, static_cast<int>(text.size()) - 1));
      other[at] = static_cast<char>(random.between(0, 127));
      string_problems(other);
      other.insert(at, "999999999999999999999");
      string_problems(other);
    }
  }
}

TEST(PlanSummary, OneLineForEveryPlan) {
  UniformPlan request;
  request.world_size = 8;
  request.pp = 2;
  request.strategy.tp = 2;
  request.strategy.zero = 1;
  request.global_batch = 32;
  request.microbatches = 4;
  Plan plan = make_uniform_plan(request, 10);
  EXPECT_EQ(plan_summary(plan),
            "8 ranks: 2 stages, dp 2, tp 2, zero 1; 4 micro-batches of 8 rows, 1f1b");
  plan.layers[3] = {.dp = 4, .zero = 3, .shards = 2, .recompute = Recompute::Full};
  EXPECT_EQ(plan_summary(plan),
            "8 ranks: 2 stages; 9 layers dp 2, tp 2, zero 1; 1 layer dp 4, tp 1, zero 3 over 2, "
            "recompute; 4 micro-batches of 8 rows, 1f1b");
  EXPECT_EQ(plan_summary(make_uniform_plan({}, 3)),
            "1 rank: dp 1, tp 1, zero 0; 1 micro-batch of 1 row");
}

TEST(PlanTable, ShowsRunsOfEqualLayersWithinStages) {
  Plan plan = parse_plan_string("N8 p2 m4 1f1b gbs32 | 0-3: t2 d2 z1 | head: t4 d1 z0 rf");
  EXPECT_EQ(plan_table(plan, {"embed", "block 0", "block 1", "block 2", "block 3", "head"}),
            "layers             stage  dp  tp  zero  shards  sequence parallel  recompute\n"
            "embed ... block 1  0      2   2   1     2       yes                none\n"
            "block 2, block 3   1      2   2   1     2       yes                none\n"
            "head               1      1   4   0     -       yes                full\n");
}

}  // namespace plan_file_test
}  // namespace strata
