// Training step of a Llama of the sizes S, M and L on random tokens: forward, backward, gradient
// reduction, AdamW. One line of JSON per run; no data loading, no logging.
//
//   S d256 L4 H4 ff704 V4096 T256 B8     M d512 L8 H8 ff1408 V8192 T512 B4     L d768 L12 H12
//   ff2048 V32000 T1024 B2
//
//   [mpirun -n N] train_step --size=S --dtype=fp32|bf16|fp64 [--steps=5] [--warmup=2] [--threads=2]
//   [--tp=1]
// Under mpirun the batch is per data-parallel rank.
#include <ATen/Parallel.h>
#include <ATen/ops/randint.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "core/config/reader.h"
#include "core/error.h"
#include "core/prepare_process.h"
#include "core/text.h"
#include "models/register.h"
#include "optim/distributed_optimizer.h"
#include "parallel/comm/process.h"

namespace strata {
namespace {

struct Size {
  int64_t width, layers, heads, ffn, vocabulary, length, batch;
};
const std::map<std::string, Size> kSizes{{"S", {256, 4, 4, 704, 4096, 256, 8}},
                                         {"M", {512, 8, 8, 1408, 8192, 512, 4}},
                                         {"L", {768, 12, 12, 2048, 32000, 1024, 2}}};

struct Arguments {
  std::string size = "S", dtype = "fp32";
  int64_t steps = 5, warmup = 2, threads = 2, tp = 1;
};

Arguments parse(int argc, char** argv) {
  Arguments a;
  for (int i = 1; i < argc; ++i) {
    const std::string text = argv[i];
    const size_t equals = text.find('=');
    const std::string key = text.substr(0, equals),
                      value = equals == std::string::npos ? "" : text.substr(equals + 1);
    if (key == "--size" && kSizes.count(value)) {
      a.size = value;
    } else if (key == "--dtype") {
      a.dtype = value;
    } else if (key == "--steps" && parse_integer(value, a.steps)) {
    } else if (key == "--warmup" && parse_integer(value, a.warmup)) {
    } else if (key == "--threads" && parse_integer(value, a.threads)) {
    } else if (key == "--tp" && parse_integer(value, a.tp)) {
    } else {
      throw ConfigError(
          "argument", text,
          "--size=S|M|L --dtype=fp32|bf16|fp64 --steps=N --warmup=N --threads=N --tp=N");
    }
  }
  return a;
}

void run(const Arguments& a, std::unique_ptr<Communicator> job) {
  const Size& s = kSizes.at(a.size);
  std::shared_ptr<const ModelSpec> spec = make_model_from_json(
      cat(R"({"model_type": "llama", "hidden_size": )", s.width, R"(, "num_hidden_layers": )",
          s.layers, R"(, "num_attention_heads": )", s.heads, R"(, "intermediate_size": )", s.ffn,
          R"(, "vocab_size": )", s.vocabulary, R"(, "max_position_embeddings": )", s.length, "}"),
      "bench");
  const bool first = job->rank() == 0;
  UniformPlan request;
  request.world_size = job->size();
  request.strategy.tp = static_cast<int>(a.tp);
  request.global_batch = s.batch * job->size() / a.tp;
  const Plan plan = make_uniform_plan(request, spec->layer_count());
  if (auto problems = check_plan(plan, *spec); !problems.empty()) throw ConfigError(problems);
  CommPool pool(std::move(job));
  ManagerOptions options;
  options.dtype = parse_train_dtype(a.dtype);
  auto manager = ParallelManager::build(spec, plan, pool, options);
  auto source = make_initial_weights(1);
  manager->load_weights(*source);
  ConfigReader defaults;
  const auto rules = std::make_shared<const RuleSet>(rule_registry().make("adamw", defaults));
  DistributedOptimizer optimizer(*manager, rules, {});
  optimizer.load_masters(*source);

  Batch batch;
  batch.tokens =
      at::randint(s.vocabulary, {s.batch, s.length}, at::TensorOptions().dtype(at::kLong));
  batch.labels =
      at::randint(s.vocabulary, {s.batch, s.length}, at::TensorOptions().dtype(at::kLong));
  std::vector<double> seconds, model_seconds;
  double loss = 0;
  for (int64_t step = 0; step < a.warmup + a.steps; ++step) {
    const auto begin = std::chrono::steady_clock::now();
    const StepLoss share = manager->forward_backward({&batch, 1});
    const auto middle = std::chrono::steady_clock::now();
    loss = optimizer.step({step, 1e-4}, share).loss;
    const auto end = std::chrono::steady_clock::now();
    if (step < a.warmup) continue;
    seconds.push_back(std::chrono::duration<double>(end - begin).count());
    model_seconds.push_back(std::chrono::duration<double>(middle - begin).count());
  }
  std::sort(seconds.begin(), seconds.end());
  std::sort(model_seconds.begin(), model_seconds.end());
  const double median = seconds[seconds.size() / 2];
  double flops = 0;
  for (int l = 0; l < spec->layer_count(); ++l) flops += 3 * spec->flops_per_token(l, s.length);
  const double tokens = static_cast<double>(request.global_batch * s.length);
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  if (first) {
    std::printf(
        "{\"name\": \"train_step\", \"size\": \"%s\", \"dtype\": \"%s\", \"ranks\": %d, \"tp\": "
        "%lld, \"threads\": %d, "
        "\"ms\": %.1f, \"forward_backward_ms\": %.1f, \"tokens_per_s\": %.0f, \"gflops\": %.1f, "
        "\"peak_mib\": %ld, "
        "\"loss\": %.4f}\n",
        a.size.c_str(), a.dtype.c_str(), plan.world_size, static_cast<long long>(a.tp),
        at::get_num_threads(), 1e3 * median, 1e3 * model_seconds[model_seconds.size() / 2],
        tokens / median, flops * tokens / median / 1e9, usage.ru_maxrss / 1024, loss);
  }
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  strata::prepare_process();
  using namespace strata;
  try {
    const Arguments arguments = parse(argc, argv);
    at::set_num_threads(static_cast<int>(arguments.threads));
    // Under mpirun several ranks take part; alone, MPI is not needed.
    const bool parallel = std::getenv("OMPI_COMM_WORLD_SIZE") || std::getenv("PMI_SIZE");
    if (parallel) start_mpi();
    run(arguments, parallel ? make_mpi_communicator() : make_self_communicator());
    if (parallel) finish_mpi();
    return 0;
  } catch (const Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return e.exit_code();
  }
}
