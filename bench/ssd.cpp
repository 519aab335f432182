// The state-space scans and the quasiseparable mixer, forward and backward, against the same chunks
// composed of ATen operations, measured in turns in one process. One line of JSON per comparison;
// with --flat the cost per token and the most tensor memory as the text gets longer.
//
//   ssd [--rounds=7] [--threads=2] [--flat]
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/softplus.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "core/config/reader.h"
#include "core/error.h"
#include "core/memory_meter.h"
#include "core/ops/quasiseparable.h"
#include "core/ops/ssd.h"
#include "core/prepare_process.h"
#include "core/text.h"

namespace strata {
namespace {

struct Case {
  int64_t B, T, H = 8, P = 64, N = 64, G = 1;
};

// Leaves and the gradient of the output.
struct Inputs {
  std::vector<Tensor> leaves;
  Tensor dy;
};
Inputs draw(const Case& c, at::ScalarType dtype) {
  const auto narrow = at::TensorOptions().dtype(dtype),
             wide = at::TensorOptions().dtype(at::kFloat);
  Inputs in;
  in.leaves.push_back(at::randn({c.B, c.T, c.H, c.P}, wide).to(dtype));
  in.leaves.push_back(at::randn({c.H}, wide).abs().neg());
  for (int scan = 0; scan < 2; ++scan) {
    in.leaves.push_back(at::softplus(at::randn({c.B, c.T, c.H}, wide) - 3.0));
    in.leaves.push_back(at::randn({c.B, c.T, c.G, c.N}, wide).to(dtype));
    in.leaves.push_back(at::randn({c.B, c.T, c.G, c.N}, wide).to(dtype));
  }
  in.leaves.push_back(at::randn({c.B, c.T, c.H}, wide));
  for (Tensor& leaf : in.leaves) leaf.requires_grad_();
  in.dy = at::randn({c.B, c.T, c.H, c.P}, wide).to(narrow.dtype());
  return in;
}

using Op = std::function<Tensor(const std::vector<Tensor>&)>;

double seconds(const Op& op, const Inputs& in) {
  for (const Tensor& leaf : in.leaves) leaf.mutable_grad() = Tensor();
  const auto start = std::chrono::steady_clock::now();
  op(in.leaves).backward(in.dy);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

Op mixer(bool fast) {
  return [fast](const std::vector<Tensor>& v) {
    const ops::ScanInputs f{v[2], v[3], v[4]}, b{v[5], v[6], v[7]};
    return fast ? ops::quasiseparable(v[0], v[1], f, b, v[8])
                : ops::quasiseparable_composite(v[0], v[1], f, b, v[8]);
  };
}
Op scan(bool fast) {
  return [fast](const std::vector<Tensor>& v) {
    return fast ? ops::ssd(v[0], v[2], v[1], v[3], v[4]).y
                : ops::ssd_composite(v[0], v[2], v[1], v[3], v[4]).y;
  };
}

void compare(const std::string& name, const Case& c, at::ScalarType dtype, int64_t rounds) {
  const Inputs in = draw(c, dtype);
  const Op fast = name == "ssd" ? scan(true) : mixer(true);
  const Op composed = name == "ssd" ? scan(false) : mixer(false);
  seconds(fast, in);
  seconds(composed, in);
  std::vector<double> mine, theirs;
  for (int64_t round = 0; round < rounds; ++round) {
    mine.push_back(seconds(fast, in));
    theirs.push_back(seconds(composed, in));
  }
  const double a = median(mine), b = median(theirs);
  std::printf(
      "{\"op\": \"%s\", \"dtype\": \"%s\", \"B\": %ld, \"T\": %ld, \"H\": %ld, \"P\": %ld, "
      "\"N\": %ld, \"kernel_ms\": %.2f, \"composed_ms\": %.2f, \"ratio\": %.2f}\n",
      name.c_str(), dtype_name(dtype).c_str(), static_cast<long>(c.B), static_cast<long>(c.T),
      static_cast<long>(c.H), static_cast<long>(c.P), static_cast<long>(c.N), 1e3 * a, 1e3 * b,
      b / a);
  std::fflush(stdout);
}

// The lengths are measured in turns: a busy machine slows all of them alike.
void flat(int64_t rounds) {
  const std::vector<int64_t> lengths{512, 2048, 8192, 32768};
  std::vector<std::vector<double>> times(lengths.size());
  std::vector<double> bytes(lengths.size());
  for (int64_t round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < lengths.size(); ++i) {
      const Inputs in = draw({32768 / lengths[i], lengths[i]}, at::kFloat);  // equal work
      const int64_t before = memory_meter::live_bytes();
      seconds(mixer(true), in);
      memory_meter::reset_peak();
      times[i].push_back(seconds(mixer(true), in));
      bytes[i] = static_cast<double>(memory_meter::peak_bytes() - before);
    }
  }
  for (size_t i = 0; i < lengths.size(); ++i) {
    std::printf(
        "{\"op\": \"quasiseparable\", \"T\": %ld, \"us_per_token\": %.3f, "
        "\"peak_bytes_per_token\": "
        "%.0f}\n",
        static_cast<long>(lengths[i]), 1e6 * median(times[i]) / 32768, bytes[i] / 32768);
  }
}

int main_of(int argc, char** argv) {
  memory_meter::install();
  int64_t rounds = 7, threads = 2;
  bool lengths = false;
  for (int i = 1; i < argc; ++i) {
    const std::string text = argv[i];
    if (text == "--flat") {
      lengths = true;
    } else if (starts_with(text, "--rounds=") && parse_integer(text.substr(9), rounds)) {
    } else if (starts_with(text, "--threads=") && parse_integer(text.substr(10), threads)) {
    } else {
      throw ConfigError("argument", text, "--rounds=N --threads=N --flat");
    }
  }
  at::set_num_threads(static_cast<int>(threads));
  if (lengths) {
    flat(rounds);
    return 0;
  }
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    for (const Case& c : {Case{2, 2048}, Case{1, 8192}}) {
      for (const char* name : {"ssd", "quasiseparable"}) compare(name, c, dtype, rounds);
    }
  }
  return 0;
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  strata::prepare_process();
  try {
    return strata::main_of(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
}
