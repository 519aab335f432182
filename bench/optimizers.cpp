// Time of an update of every matrix of the L model of bench/train_step.cpp (q, k, v, o 768 x 768,
// gate and up 2048 x 768, down 768 x 2048 in each layer), fp32 masters. One line of JSON;
// bench/optimizers.sh compares with other programs.
//
//   optimizers
//   --case=adamw|muon|muon-bf16|soap|soap-refresh|galore|galore-refresh|galore-randomized
//              [--layers=12] [--steps=5] [--threads=2]
//
// ms: median time of an update; cpu_ms: processor time of all threads, for busy machines.
// soap: between refreshes of the bases; soap-refresh, galore-refresh (exact) and galore-randomized:
// every update refreshes. Gradients are drawn anew for each update, outside the time.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "core/config/reader.h"
#include "core/error.h"
#include "core/rng.h"
#include "core/text.h"
#include "optim/rules/adamw.h"
#include "optim/rules/galore.h"
#include "optim/rules/muon.h"
#include "optim/rules/soap.h"

namespace strata::optimizers_bench {

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
  if (what == "galore") return make_galore({.rank = 192, .update_proj_gap = kNever});
  if (what == "galore-refresh") return make_galore({.rank = 192, .update_proj_gap = 1});
  if (what == "galore-randomized")
    return make_galore({.rank = 192, .update_proj_gap = 1, .svd = "randomized"});
  throw ConfigError("--case", what,
                    "adamw, muon, muon-bf16, soap, soap-refresh, galore, galore-refresh, "
                    "galore-randomized");
}

double processor_ms() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return 1e3 * static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_nsec);
}

struct Matrix {
  std::string name;
  Tensor weights, grad;
  std::vector<Tensor> state;
};

std::vector<Matrix> matrices(const UpdateRule& rule, int64_t layers) {
  const std::vector<std::pair<std::string, Shape>> shapes{
      {"q", {768, 768}},     {"k", {768, 768}},   {"v", {768, 768}},    {"o", {768, 768}},
      {"gate", {2048, 768}}, {"up", {2048, 768}}, {"down", {768, 2048}}};
  const auto on = at::TensorOptions().dtype(at::kFloat);
  std::vector<Matrix> out;
  for (int64_t layer = 0; layer < layers; ++layer) {
    for (const auto& [name, shape] : shapes) {
      Matrix m{cat("layers.", layer, ".", name), at::zeros(shape, on), at::empty(shape, on), {}};
      for (const StateSlot& slot : rule.state_slots(shape, at::kFloat))
        m.state.push_back(at::zeros(slot.shape, on.dtype(slot.dtype)));
      out.push_back(std::move(m));
    }
  }
  return out;
}

void run(const Arguments& a) {
  const auto rule = rule_of(a.what);
  std::vector<Matrix> all = matrices(*rule, a.layers);
  std::vector<double> ms, cpu_ms;
  constexpr int64_t kWarmUp = 2;  // the first update of SOAP and GaLore finds the bases
  for (int64_t step = 0; step < kWarmUp + a.steps; ++step) {
    std::vector<Piece> pieces;
    for (Matrix& m : all) {
      Rng(static_cast<uint64_t>(step), "bench", m.name)
          .fill_normal(0, m.grad.numel(), m.grad.mutable_data_ptr<float>());
      pieces.push_back({.name = m.name,
                        .weights = m.weights,
                        .grad = m.grad,
                        .state = m.state,
                        .grad_scale = .5,
                        .lr = 1e-3,
                        .decay = rule->weight_decay()});
    }
    const double cpu_begin = processor_ms();
    const auto begin = std::chrono::steady_clock::now();
    rule->update(pieces, step);
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
    if (step < kWarmUp) continue;
    ms.push_back(took.count());
    cpu_ms.push_back(processor_ms() - cpu_begin);
  }
  std::sort(ms.begin(), ms.end());
  std::sort(cpu_ms.begin(), cpu_ms.end());
  std::printf(
      "{\"name\": \"optimizers\", \"case\": \"%s\", \"layers\": %lld, \"threads\": %d, \"ms\": "
      "%.1f, \"cpu_ms\": %.1f}\n",
      a.what.c_str(), static_cast<long long>(a.layers), at::get_num_threads(), ms[ms.size() / 2],
      cpu_ms[cpu_ms.size() / 2]);
}

}  // namespace strata::optimizers_bench

int main(int argc, char** argv) {
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
