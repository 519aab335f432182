#include "parallel/plan/plan_string.h"

#include <algorithm>
#include <optional>

#include "core/config/ini.h"
#include "core/error.h"
#include "core/text.h"
#include "parallel/plan/plan_draft.h"
#include "parallel/plan/schedule.h"

namespace strata {
namespace plan_string_detail {

// ------------------------------------------------------------------------------------- writing

std::string strategy_string(const LayerStrategy& s) {
  std::string out =
      cat("t", s.tp, s.tp > 1 && !s.sequence_parallel ? " q0" : "", " d", s.dp, " z", s.zero);
  if (s.shards != 0) out += cat("/", s.shards);
  if (s.recompute != Recompute::None) out += s.recompute == Recompute::Full ? " rf" : " rs";
  return out;
}

std::string cut_string(const Plan& plan) {
  const auto layers = static_cast<int>(plan.layers.size());
  const int parts = plan.stages * plan.chunks;
  if (plan.virtual_stage == even_stages(layers, parts)) return {};
  std::vector<std::string> firsts;
  for (int part = 1; part < parts; ++part) {
    const auto first = std::lower_bound(plan.virtual_stage.begin(), plan.virtual_stage.end(), part);
    firsts.push_back(cat(first - plan.virtual_stage.begin() - 1));
  }
  return " cut" + join(firsts, ",");
}

// ------------------------------------------------------------------------------------- reading

const PlanWords kWords = {.devices = "N",
                          .stages = "p",
                          .microbatches = "m",
                          .batch = "gbs",
                          .cuts = "cut",
                          .blocks = "blocks",
                          .dp = "d",
                          .tp = "t"};

// Takes pieces from the front of a text.
class Cursor {
 public:
  explicit Cursor(std::string_view text) : rest_(text) {}
  bool take(std::string_view word) {
    if (!starts_with(rest_, word)) return false;
    rest_.remove_prefix(word.size());
    return true;
  }
  // Up to 18 digits.
  std::optional<int64_t> number() {
    size_t digits = 0;
    while (digits < rest_.size() && rest_[digits] >= '0' && rest_[digits] <= '9') ++digits;
    if (digits == 0 || digits > 18) return std::nullopt;
    const int64_t value = std::stoll(std::string(rest_.substr(0, digits)));
    rest_.remove_prefix(digits);
    return value;
  }
  bool done() const { return rest_.empty(); }
  std::string_view rest() const { return rest_; }

 private:
  std::string_view rest_;
};

std::string without_blanks(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c != ' ' && c != '\t') out += c;
  }
  return out;
}

class Parser {
 public:
  explicit Parser(const std::string& name) : prefix_(name + ": ") {}

  Plan parse(std::string_view text) {
    const std::vector<std::string> segments = split(text, '|');
    read_head(segments[0]);
    for (size_t i = 1; i < segments.size(); ++i) read_layers(trim(segments[i]));
    Plan plan;
    if (problems_.empty()) {
      PlanWords words = kWords;
      words.prefix = prefix_;
      plan = finish_plan(draft_, words, problems_);
    }
    if (!problems_.empty()) throw ConfigError(problems_);
    return plan;
  }

 private:
  void add(const std::string& key, std::string_view given, const std::string& allowed,
           const std::string& hint = {}) {
    problems_.push_back(
        prefix_ + problem_text(key, given.empty() ? "nothing" : shown_value(given), allowed, hint));
  }

  // A number behind a letter that is there already.
  int64_t number(Cursor& at, const std::string& key, int64_t least, int64_t most) {
    const std::string_view begin = at.rest();
    const auto value = at.number();
    if (value && *value >= least && *value <= most) return *value;
    add(key, begin, cat("integer from ", least, " to ", most));
    failed_ = true;
    return least;
  }

  // N64 p4v2 m16 1f1b gbs256 cut1,2
  void read_head(const std::string& text) {
    std::vector<std::string> words;
    for (const std::string& word : split(text, ' ')) {
      if (!trim(word).empty()) words.emplace_back(trim(word));
    }
    const std::string order = "N<ranks> p<stages>[v<chunks>] m<micro-batches> <schedule> gbs<rows>";
    if (words.size() < 5 || words.size() > 6) {
      add("beginning", trim(text), order + " [cut<blocks>]");
      return;
    }
    draft_.devices = whole(words[0], "N", kMostRanks);
    Cursor stages(words[1]);
    if (stages.take("p")) {
      draft_.stages = number(stages, "p", 1, kMostBlocks);
      if (!failed_ && stages.take("v")) draft_.chunks = number(stages, "v", 1, kMostBlocks);
      if (!failed_ && !stages.done()) add("p", words[1], "p<stages>[v<chunks>]");
    } else {
      add("p", words[1], "p<stages>[v<chunks>]");
    }
    draft_.microbatches = whole(words[2], "m", kMostMicrobatches);
    std::vector<std::string> names(schedule_names().begin(), schedule_names().end());
    draft_.schedule = words[3];
    if (std::find(names.begin(), names.end(), words[3]) == names.end())
      add("schedule", words[3], join(names), did_you_mean(words[3], names));
    draft_.batch = whole(words[4], "gbs", kMostRows);
    if (words.size() == 6) read_cuts(words[5]);
  }

  int64_t whole(const std::string& word, const std::string& letter, int64_t most) {
    Cursor at(word);
    failed_ = false;
    if (at.take(letter)) {
      const int64_t value = number(at, letter, 1, most);
      if (failed_ || at.done()) return value;
    }
    add(letter, word, letter + "<integer>");
    return 1;
  }

  void read_cuts(const std::string& word) {
    Cursor at(word);
    failed_ = false;
    if (!at.take("cut")) return add("cut", word, "cut<block>,<block>,...");
    draft_.has_cuts = true;
    do {
      draft_.cuts.push_back(number(at, "cut", 0, kMostBlocks) + 1);
    } while (!failed_ && at.take(","));
    if (!failed_ && !at.done()) add("cut", word, "cut<block>,<block>,...");
  }

  // "0-23: t4 d4 z1", "head: ..."
  void read_layers(std::string_view text) {
    const size_t colon = text.find(':');
    const std::string_view range = trim(text.substr(0, colon));
    if (colon == std::string_view::npos)
      return add("layers", text,
                 "<blocks>: t<tp> d<dp> z<zero>, with blocks as 0-23, 7, emb, head");
    const std::string where(range);
    const LayerStrategy strategy = read_strategy(where, text.substr(colon + 1));
    if (range == "emb" || range == "head") {
      auto& end = range == "emb" ? draft_.embed : draft_.head;
      if (end) return add(where, "a second one", "one");
      end = PlanDraft::Item{where, strategy};
      return;
    }
    Cursor at(range);
    PlanDraft::Run run;
    run.where = where;
    run.strategy = strategy;
    failed_ = false;
    run.from = number(at, "blocks", 0, kMostBlocks - 1);
    run.to = run.from;
    if (!failed_ && at.take("-")) run.to = number(at, "blocks", 0, kMostBlocks - 1);
    if (!failed_ && !at.done()) add("blocks", range, "blocks as 0-23, 7, emb, head");
    draft_.runs.push_back(std::move(run));
  }

  LayerStrategy read_strategy(const std::string& where, std::string_view given) {
    const std::string text = without_blanks(given);
    Cursor at(text);
    LayerStrategy s;
    failed_ = false;
    if (!at.take("t")) {
      add(where, given, "t<tp> [q0] d<dp> z<zero>[/<shards>] [rs|rf]");
      return s;
    }
    s.tp = static_cast<int>(number(at, where + ".t", 1, kMostRanks));
    s.sequence_parallel = s.tp > 1;
    if (failed_) return s;
    if (at.take("q0")) s.sequence_parallel = false;
    if (starts_with(at.rest(), "c")) {
      add(where, at.rest(), "no c", " (context parallelism is not part of this version)");
      return s;
    }
    if (!at.take("d")) {
      add(where, at.rest(), "d<dp> at this place, as in t2 d4 z1");
      return s;
    }
    s.dp = static_cast<int>(number(at, where + ".d", 1, kMostRanks));
    if (failed_) return s;
    if (at.take("z")) {
      s.zero = static_cast<int>(number(at, where + ".z", 0, 3));
      if (failed_) return s;
      if (at.take("/")) s.shards = static_cast<int>(number(at, where + ".z/", 1, kMostRanks));
      if (failed_) return s;
    }
    if (at.take("rs")) {
      s.recompute = Recompute::Selective;
    } else if (at.take("rf")) {
      s.recompute = Recompute::Full;
    }
    if (starts_with(at.rest(), "o")) {
      add(where, at.rest(), "no o", " (nothing is moved off the device in this version)");
    } else if (!at.done()) {
      add(where, at.rest(), "the end, or rs, rf, behind t2 d4 z1");
    }
    return s;
  }

  std::string prefix_;
  PlanDraft draft_;
  std::vector<std::string> problems_;
  bool failed_ = false;
};

}  // namespace plan_string_detail

std::string plan_string(const Plan& plan) {
  using namespace plan_string_detail;
  STRATA_CHECK(plan.layers.size() >= 2 && plan.layers.size() == plan.virtual_stage.size(),
               "a plan string needs embedding and head");
  std::string out = cat("N", plan.world_size, " p", plan.stages);
  if (plan.chunks != 1) out += cat("v", plan.chunks);
  out +=
      cat(" m", plan.microbatches, " ", plan.schedule, " gbs", plan.global_batch, cut_string(plan));
  const size_t blocks = plan.layers.size() - 2;
  for (size_t from = 0; from < blocks;) {
    size_t to = from;
    const LayerStrategy& strategy = plan.layers[from + 1];
    while (to + 1 < blocks && plan.layers[to + 2] == strategy) ++to;
    out += cat(" | ", from, to == from ? "" : cat("-", to), ": ", strategy_string(strategy));
    from = to + 1;
  }
  const LayerStrategy &embed = plan.layers.front(), &head = plan.layers.back();
  if (blocks == 0 || embed != plan.layers[1]) out += " | emb: " + strategy_string(embed);
  if (blocks == 0 || head != plan.layers[blocks]) out += " | head: " + strategy_string(head);
  return out;
}

Plan parse_plan_string(std::string_view text, const std::string& name) {
  return plan_string_detail::Parser(name).parse(text);
}

bool looks_like_plan_string(std::string_view text) {
  return text.size() > 2 && text[0] == 'N' && text[1] >= '0' && text[1] <= '9' &&
         text.find(" p") != std::string_view::npos;
}

}  // namespace strata
