// Reading plan files. Everything that is fixed in this version is read and compared, so that a plan
// that asks for more is refused and not run as something else.
#include "core/error.h"
#include "core/text.h"
#include "parallel/plan/json_members.h"
#include "parallel/plan/plan_draft.h"
#include "parallel/plan/plan_json.h"
#include "parallel/plan/schedule.h"

namespace strata {
namespace plan_parse_detail {

using Json = nlohmann::json;

const PlanWords kWords = {.devices = "hardware.devices",
                          .stages = "global.p",
                          .microbatches = "global.m",
                          .batch = "global.gbs",
                          .cuts = "stages",
                          .blocks = "layers",
                          .dp = "d",
                          .tp = "t"};

class PlanReader {
 public:
  PlanReader(std::string_view text, const std::string& name)
      : problems_(name + ": "), root_(parse_json_object(text, name, problems_)) {}

  ParsedPlan read() {
    JsonMembers members(&root_, "", problems_);
    if (members.needed("schema", "plan/1") != nullptr) members.choice("schema", {"plan/1"});
    read_model(members.find("model"));
    read_hardware(members.needed("hardware", "an object with devices"));
    read_global(members.needed("global", "an object with p, m, gbs"));
    size_t number = 0;
    for (const Json* layers : members.list("layers", "a list of objects"))
      read_run(*layers, cat("layers[", number++, ']'));
    if (const Json* embed = members.find("embed")) draft_.embed = read_end(*embed, "embed");
    if (const Json* head = members.find("head")) draft_.head = read_end(*head, "head");
    const auto stages = members.list("stages", "a list of objects");
    if (!stages.empty()) read_stages(stages);
    read_notes(members);
    members.finish();
    return finish();
  }

 private:
  void read_model(const Json* value) {
    JsonMembers model(value, "model", problems_);
    out_.model.fingerprint = model.text("hash");
    out_.model.family = model.text("x-family");
    model.list("classes", "a list of objects");
    model.finish();
  }

  void read_hardware(const Json* value) {
    JsonMembers hardware(value, "hardware", problems_);
    if (value != nullptr) draft_.devices = hardware.integer("devices", 1, kMostRanks);
    hardware.notes({"profile_hash", "nodes", "device_memory"});
    hardware.finish();
  }

  void read_global(const Json* value) {
    JsonMembers global(value, "global", problems_);
    if (value != nullptr) {
      draft_.stages = global.integer("p", 1, kMostBlocks);
      draft_.microbatches = global.integer("m", 1, kMostMicrobatches);
      draft_.batch = global.integer("gbs", 1, kMostRows);
    }
    draft_.chunks = global.integer("v", 1, kMostBlocks, 1);
    std::vector<std::string> names = {"1f1b"};
    for (const std::string_view name : schedule_names()) {
      if (name != names.front()) names.emplace_back(name);
    }
    draft_.schedule = global.choice("schedule", names);
    const int64_t rows = draft_.batch / draft_.microbatches;
    if (global.find("mbs_stage") != nullptr && draft_.batch % draft_.microbatches == 0 &&
        global.integer("mbs_stage", 1, kMostRows, rows) != rows) {
      problems_.add("global.mbs_stage", shown_json(*global.find("mbs_stage")),
                    cat(rows, " (gbs / m)"));
    }
    const Json order = {"tp", "cp", "dp_shard", "dp_rep", "pp"};
    const Json* given = global.find("group_order");
    if (given != nullptr && *given != order) {
      problems_.add("global.group_order", "another order", order.dump(),
                    " (ranks are numbered in this order only)");
    }
    global.finish();
  }

  LayerStrategy read_strategy(JsonMembers& layer) {
    LayerStrategy s;
    s.tp = static_cast<int>(layer.integer("t", 1, kMostRanks));
    s.dp = static_cast<int>(layer.integer("d", 1, kMostRanks));
    s.sequence_parallel = layer.boolean("sp", false);
    s.zero = static_cast<int>(layer.integer("zero", 0, 3, 0));
    s.recompute = *parse_recompute(layer.choice("recompute", {"none", "selective", "full"}));
    const Json* group = layer.find("shard_group");
    if (group != nullptr && *group != "full") {
      if (group->is_number()) {
        s.shards = static_cast<int>(layer.integer("shard_group", 1, kMostRanks));
      } else {
        problems_.add(layer.name("shard_group"), shown_json(*group),
                      "\"full\" or the number of ranks that share one copy");
      }
    }
    const Json* context = layer.find("c");
    if (context != nullptr && *context != 1) {
      problems_.add(layer.name("c"), shown_json(*context), "1",
                    " (context parallelism is not part of this version)");
    }
    const Json* kind = layer.find("cp_kind");
    if (kind != nullptr) problems_.add(layer.name("cp_kind"), shown_json(*kind), "null");
    layer.choice("placement", {"device"}, " (nothing is moved off the device in this version)");
    layer.text("class");
    return s;
  }

  void read_run(const Json& value, const std::string& where) {
    JsonMembers layer(&value, where, problems_);
    PlanDraft::Run run;
    run.where = where;
    run.from = layer.integer("from", 0, kMostBlocks - 1);
    run.to = layer.integer("to", 0, kMostBlocks - 1);
    run.strategy = read_strategy(layer);
    layer.finish();
    draft_.runs.push_back(std::move(run));
  }

  PlanDraft::Item read_end(const Json& value, const std::string& where) {
    JsonMembers layer(&value, where, problems_);
    PlanDraft::Item item{where, read_strategy(layer)};
    layer.finish();
    return item;
  }

  // Parts come stage by stage; the draft has them in the order of the layers.
  void read_stages(const std::vector<const Json*>& stages) {
    if (problems_.unreadable) return;
    if (static_cast<int64_t>(stages.size()) != draft_.stages) {
      problems_.add("stages", cat(stages.size(), " stages"), cat("global.p = ", draft_.stages));
      return;
    }
    if (draft_.stages * draft_.chunks > kMostBlocks) return;  // finish_plan() says so
    const size_t before = problems_.texts.size();
    std::vector<Part> parts(stages.size() * static_cast<size_t>(draft_.chunks));
    for (size_t stage = 0; stage < stages.size(); ++stage) {
      const std::string where = cat("stages[", stage, ']');
      JsonMembers members(stages[stage], where, problems_);
      const int64_t first = members.integer("first", 0, kMostBlocks + 1);
      const int64_t last = members.integer("last", 0, kMostBlocks + 1);
      std::vector<Part> chunks;
      for (const Json* chunk : members.list("chunks", "a list of [first, last]"))
        chunks.push_back(read_part(*chunk, cat(where, ".chunks[", chunks.size(), ']')));
      members.finish();
      if (problems_.unreadable) return;
      if (chunks.empty()) chunks.push_back({where, first, last});
      if (static_cast<int64_t>(chunks.size()) != draft_.chunks) {
        problems_.add(where + ".chunks", cat(chunks.size(), " chunks"),
                      cat("global.v = ", draft_.chunks));
        return;
      }
      if (chunks.front().first != first || chunks.back().last != last) {
        problems_.add(where, cat("layers ", first, " to ", last),
                      cat("first and last layer of its chunks: ", chunks.front().first, " to ",
                          chunks.back().last));
      }
      for (size_t chunk = 0; chunk < chunks.size(); ++chunk)
        parts[chunk * stages.size() + stage] = chunks[chunk];
    }
    if (problems_.texts.size() != before) return;
    draft_.has_cuts = true;
    for (size_t k = 0; k < parts.size(); ++k) {
      const int64_t begin = k == 0 ? 0 : parts[k - 1].last + 1;
      if (parts[k].first != begin || parts[k].last < begin) {
        problems_.add(parts[k].where, cat("layers ", parts[k].first, " to ", parts[k].last),
                      cat("layers from ", begin, " on"));
        draft_.has_cuts = false;
        return;
      }
      if (k > 0) draft_.cuts.push_back(begin);
    }
    last_layer_ = parts.back().last;
  }

  struct Part {
    std::string where;
    int64_t first = 0, last = 0;
  };
  Part read_part(const Json& value, const std::string& where) {
    const bool pair = value.is_array() && value.size() == 2 && value[0].is_number_unsigned() &&
                      value[1].is_number_unsigned();
    const auto most = static_cast<uint64_t>(kMostBlocks) + 1;
    if (pair && value[0].get<uint64_t>() <= most && value[1].get<uint64_t>() <= most)
      return {where, value[0].get<int64_t>(), value[1].get<int64_t>()};
    problems_.add(where, shown_json(value), "[first, last] with layer numbers");
    problems_.unreadable = true;
    return {where, 0, 0};
  }

  // What is there for people and other programs.
  void read_notes(JsonMembers& members) {
    JsonMembers optimizer(members.find("optimizer"), "optimizer", problems_);
    optimizer.choice("placement", {"owner"}, " (each whole matrix is updated by one rank)");
    optimizer.notes({"name", "owner_map_hash"});
    optimizer.finish();
    JsonMembers prediction(members.find("prediction"), "prediction", problems_);
    prediction.notes({"step_s", "step_sim_s", "bound_s", "optimal", "tokens_per_s", "model_flops",
                      "mfu", "hfu", "stages", "breakdown", "sensitivity"});
    prediction.finish();
    JsonMembers provenance(members.find("provenance"), "provenance", problems_);
    provenance.notes({"tool_version", "profile_dates", "extrapolated", "options"});
    provenance.finish();
    members.list("explanation", "a list of objects");
    members.list("alternatives", "a list of objects");
  }

  ParsedPlan finish() {
    if (!problems_.unreadable) {
      PlanWords words = kWords;
      words.prefix = problems_.prefix();
      out_.plan = finish_plan(draft_, words, problems_.texts);
      const auto layers = static_cast<int64_t>(out_.plan.layers.size());
      if (problems_.texts.empty() && last_layer_ && *last_layer_ != layers - 1) {
        problems_.add("stages", cat("layers up to ", *last_layer_),
                      cat("up to ", layers - 1, " (the head)"));
      }
    }
    if (!problems_.texts.empty()) throw ConfigError(problems_.texts);
    return std::move(out_);
  }

  JsonProblems problems_;
  Json root_;
  PlanDraft draft_;
  std::optional<int64_t> last_layer_;
  ParsedPlan out_;
};

}  // namespace plan_parse_detail

ParsedPlan parse_plan(std::string_view text, const std::string& name) {
  return plan_parse_detail::PlanReader(text, name).read();
}

}  // namespace strata
