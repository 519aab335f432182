// Time of an update of every matrix of the L model of bench/train_step.cpp (q, k, v, o 768 x 768,
// gate and up 2048 x 768, down 768 x 2048 in each layer), fp32 masters. One line of JSON;
// bench/optimizers.sh compares with other programs.
//
//   optimizers
//   --case=adamw|muon|muon-bf16|soap|soap-refresh|soap-spread|galore|galore-refresh
//          |galore-randomized
//              [--layers=12] [--steps=5] [--threads=2]
//
// ms: median time of an update; cpu_ms: processor time of all threads, for busy machines.
// soap: between refreshes of the bases; soap-refresh, galore-refresh (exact) and galore-randomized:
// every update refreshes. soap-spread: every matrix refreshes in one of ten updates, which one
// differs (optim.stagger); the longest of ten. Gradients are drawn anew for each update, outside
// the time.
#include <ATen/Parallel.h>

#include <cstdio>
#include <string>
#include <vector>

#include "bench/matrix_updates.h"
#include "core/config/reader.h"
#include "core/error.h"
#include "core/prepare_process.h"
#include "core/text.h"
#include "optim/rules/adamw.h"
#include "optim/rules/galore.h"
#include "optim/rules/muon.h"
#include "optim/rules/soap.h"

namespace strata::optimizers_bench {

constexpr int64_t kSpread = 10;

struct Arguments {
  std::string what = "muon";
  int64_t layers = 12, steps = 5, threads = 2;
};

Arguments parse(int argc, char** argv) {
  Arguments a;
  for (int i = 1; i < argc; ++i) {
    const std::string text = argv[i];
    const size_t equals = text.find('=');
    const std::string key = text.substr(0, equals),
                      value = equals == std::string::npos ? "" : text.substr(equals + 1);
    if (key == "--case") {
      a.what = value;
    } else if (key == "--layers" && parse_integer(value, a.layers) && a.layers > 0) {
    } else if (key == "--steps" && parse_integer(value, a.steps) && a.steps > 0) {
    } else if (key == "--threads" && parse_integer(value, a.threads) && a.threads > 0) {
    } else {
      throw ConfigError("argument", text, "--case=NAME --layers=N --steps=N --threads=N");
    }
  }
  return a;
}

std::unique_ptr<UpdateRule> rule_of(const std::string& what) {
  constexpr int64_t kNever = 1 << 30;
  if (what == "adamw") return make_adamw({});
  if (what == "muon") return make_muon({});
  if (what == "muon-bf16") return make_muon({.ns_dtype = "bf16"});
  if (what == "soap") return make_soap({.precondition_frequency = kNever});
  if (what == "soap-refresh") return make_soap({.precondition_frequency = 1});
  if (what == "soap-spread") return make_soap({.precondition_frequency = kSpread, .stagger = true});
  if (what == "galore") return make_galore({.rank = 192, .update_proj_gap = kNever});
  if (what == "galore-refresh") return make_galore({.rank = 192, .update_proj_gap = 1});
  if (what == "galore-randomized")
    return make_galore({.rank = 192, .update_proj_gap = 1, .svd = "randomized"});
  throw ConfigError(
      "--case", what,
      "adamw, muon, muon-bf16, soap, soap-refresh, soap-spread, galore, galore-refresh, "
      "galore-randomized");
}

std::vector<bench::UpdatedMatrix> matrices(const UpdateRule& rule, int64_t layers) {
  const std::vector<std::pair<std::string, Shape>> shapes{
      {"q", {768, 768}},     {"k", {768, 768}},   {"v", {768, 768}},    {"o", {768, 768}},
      {"gate", {2048, 768}}, {"up", {2048, 768}}, {"down", {768, 2048}}};
  std::vector<bench::UpdatedMatrix> out;
  for (int64_t layer = 0; layer < layers; ++layer) {
    for (const auto& [name, shape] : shapes)
      out.push_back(bench::make_matrix(cat("layers.", layer, ".", name), shape, rule));
  }
  return out;
}

void run(const Arguments& a) {
  const auto rule = rule_of(a.what);
  std::vector<bench::UpdatedMatrix> all = matrices(*rule, a.layers);
  const bool spread = a.what == "soap-spread";
  bench::UpdateTime time = bench::time_updates(*rule, all, spread ? kSpread : a.steps);
  if (spread) time = {time.longest_ms, time.longest_cpu_ms};
  std::printf(
      "{\"name\": \"optimizers\", \"case\": \"%s\", \"layers\": %lld, \"threads\": %d, \"ms\": "
      "%.1f, \"cpu_ms\": %.1f}\n",
      a.what.c_str(), static_cast<long long>(a.layers), at::get_num_threads(), time.ms,
      time.cpu_ms);
}

}  // namespace strata::optimizers_bench

int main(int argc, char** argv) {
  strata::prepare_process();
  using namespace strata;
  try {
    const optimizers_bench::Arguments a = optimizers_bench::parse(argc, argv);
    at::set_num_threads(static_cast<int>(a.threads));
    optimizers_bench::run(a);
    return 0;
  } catch (const Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return e.exit_code();
  }
}
