// Times of linear-attention kernels, forward and forward with backward, against the same layer
// composed of batched LibTorch products (a/b/a/b, medians), and how cost per token and memory grow
// with the length at a fixed number of tokens. One line of JSON per row.
//
//   linear_attention [--kinds=gla,delta2] [--threads=2] [--seconds=2] [--dtypes=fp32,bf16]
//                    [--matmul=medium|highest] [--only=ratios|lengths]
//
// --matmul: may LibTorch compute fp32 products through bf16 (where the processor can)?
#include "bench/linear_attention.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include "core/config/reader.h"
#include "core/error.h"
#include "core/memory_meter.h"
#include "core/prepare_process.h"
#include "core/text.h"

namespace strata::bench {
namespace {

struct Arguments {
  std::vector<std::string> kinds, dtypes{"fp32", "bf16"};
  int64_t threads = 2;
  double seconds = 2;
  std::string matmul = "medium", only;
};

const std::vector<Kind>& all_kinds() {
  static const std::vector<Kind> kinds{gla_kind(), delta_kind()};
  return kinds;
}

Arguments parse(int argc, char** argv) {
  Arguments a;
  for (const Kind& kind : all_kinds()) a.kinds.push_back(kind.name);
  for (int i = 1; i < argc; ++i) {
    const std::string text = argv[i];
    const size_t equals = text.find('=');
    const std::string key = text.substr(0, equals),
                      value = equals == std::string::npos ? "" : text.substr(equals + 1);
    if (key == "--kinds") {
      a.kinds = split(value, ',');
    } else if (key == "--dtypes") {
      a.dtypes = split(value, ',');
    } else if (key == "--threads" && parse_integer(value, a.threads)) {
    } else if (key == "--seconds" && parse_number(value, a.seconds)) {
    } else if (key == "--matmul" && (value == "medium" || value == "highest")) {
      a.matmul = value;
    } else if (key == "--only" && (value == "ratios" || value == "lengths")) {
      a.only = value;
    } else {
      throw ConfigError("argument", text,
                        "--kinds, --threads, --seconds, --dtypes, --matmul, --only");
    }
  }
  return a;
}

double milliseconds(const std::function<void()>& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct Pair {
  double a, b, ratio;  // medians of both; median of b / a of neighbours
  double best_a, best_b;
};
Pair alternate(const std::function<void()>& a, const std::function<void()>& b, double seconds) {
  a();
  b();
  std::vector<double> as, bs, ratios;
  double spent = 0;
  while (as.size() < 5 || spent < seconds * 1e3) {
    as.push_back(milliseconds(a));
    bs.push_back(milliseconds(b));
    ratios.push_back(bs.back() / as.back());
    spent += as.back() + bs.back();
  }
  return {median(as), median(bs), median(ratios), *std::min_element(as.begin(), as.end()),
          *std::min_element(bs.begin(), bs.end())};
}

void ratios(const Kind& kind, const Arguments& arguments) {
  for (const Sizes& n : {Sizes{2, 2048, 4, 64, 128}, Sizes{1, 8192, 4, 64, 128}}) {
    for (const std::string& dtype : arguments.dtypes) {
      const Contender ours = kind.ours(n, parse_train_dtype(dtype)),
                      peer = kind.peer(n, parse_train_dtype(dtype));
      const Tensor a = ours.output().to(at::kDouble), b = peer.output().to(at::kDouble);
      const double difference = ((a - b).norm() / b.norm()).item<double>();
      const Pair forward = alternate(ours.forward, peer.forward, arguments.seconds / 2);
      const Pair both = alternate(ours.forward_backward, peer.forward_backward, arguments.seconds);
      std::printf(
          "{\"kind\": \"%s\", \"B\": %ld, \"T\": %ld, \"H\": %ld, \"K\": %ld, \"V\": %ld, "
          "\"dtype\": \"%s\", \"threads\": %ld, \"difference\": %.1e, \"fwd_ms\": %.2f, "
          "\"peer_fwd_ms\": %.2f, \"fwd_ratio\": %.2f, \"fwd_bwd_ms\": %.2f, "
          "\"peer_fwd_bwd_ms\": %.2f, \"ratio\": %.2f, \"best_ms\": %.2f, \"peer_best_ms\": "
          "%.2f}\n",
          kind.name.c_str(), n.B, n.T, n.H, n.K, n.V, dtype.c_str(), arguments.threads, difference,
          forward.a, forward.b, forward.ratio, both.a, both.b, both.ratio, both.best_a,
          both.best_b);
      std::fflush(stdout);
    }
  }
}

// The same tokens as more and shorter rows or as fewer and longer ones, against rows of 512.
void lengths(const Kind& kind, const Arguments& arguments) {
  constexpr int64_t kTokens = 32768;
  const auto sizes = [](int64_t T, int64_t tokens) { return Sizes{tokens / T, T, 4, 64, 128}; };
  for (const std::string& dtype : arguments.dtypes) {
    const auto type = parse_train_dtype(dtype);
    const Contender shortest = kind.ours(sizes(512, kTokens), type);
    for (const int64_t T : {512, 2048, 8192, 32768}) {
      const Contender ours = kind.ours(sizes(T, kTokens), type);
      const Pair pair =
          alternate(ours.forward_backward, shortest.forward_backward, arguments.seconds);
      const Contender row = kind.ours(sizes(T, T), type);
      row.forward_backward();
      memory_meter::reset_peak();
      const int64_t before = memory_meter::live_bytes();
      row.forward_backward();
      const int64_t peak = memory_meter::peak_bytes() - before;
      std::printf(
          "{\"kind\": \"%s\", \"T\": %ld, \"tokens\": %ld, \"dtype\": \"%s\", \"us_per_token\": "
          "%.3f, \"against_T512\": %.3f, \"peak_bytes_per_token_of_one_row\": %.0f}\n",
          kind.name.c_str(), T, kTokens, dtype.c_str(), pair.a * 1e3 / kTokens, 1 / pair.ratio,
          static_cast<double>(peak) / static_cast<double>(T));
      std::fflush(stdout);
    }
  }
}

int run(int argc, char** argv) {
  const Arguments arguments = parse(argc, argv);
  memory_meter::install();
  at::set_num_threads(static_cast<int>(arguments.threads));
  at::globalContext().setFloat32MatmulPrecision(arguments.matmul);
  for (const Kind& kind : all_kinds()) {
    if (std::count(arguments.kinds.begin(), arguments.kinds.end(), kind.name) == 0) continue;
    if (arguments.only != "lengths") ratios(kind, arguments);
    if (arguments.only != "ratios") lengths(kind, arguments);
  }
  return 0;
}

}  // namespace
}  // namespace strata::bench

int main(int argc, char** argv) {
  strata::prepare_process();
  try {
    return strata::bench::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "linear_attention: %s\n", error.what());
    return 1;
  }
}
