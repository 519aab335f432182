// How evenly owners share the updates of the 12 layers of the L model of bench/train_step.cpp: by
// the cost model, and by the processor time of each owner's matrices. Owners are taken one after
// the other in one process, which leaves out what would disturb the comparison: other processes on
// the same cores. One line of JSON for each number of owners.
//
//   owner_balance [--rule=muon|soap|galore] [--owners=2,4,8] [--rounds=3]
//
// Under mpirun every process is an owner (and --owners is their number), and all work at the same
// time.
//
// planned, measured: work of the busiest owner over the mean. SOAP and GaLore: mean update, with
// its share of a refresh.
#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <string>
#include <vector>

#include "bench/matrix_updates.h"
#include "core/config/reader.h"
#include "core/error.h"
#include "core/prepare_process.h"
#include "core/text.h"
#include "models/register.h"
#include "optim/optimizer_plan.h"
#include "optim/rules/galore.h"
#include "optim/rules/muon.h"
#include "optim/rules/soap.h"
#include "parallel/comm/process.h"

namespace strata::owner_balance_bench {

struct Arguments {
  std::string rule = "muon";
  std::vector<int64_t> owners{2, 4, 8};
  int64_t rounds = 3;
};

Arguments parse(int argc, char** argv) {
  Arguments a;
  for (int i = 1; i < argc; ++i) {
    const std::string text = argv[i];
    const size_t equals = text.find('=');
    const std::string key = text.substr(0, equals),
                      value = equals == std::string::npos ? "" : text.substr(equals + 1);
    bool good = true;
    if (key == "--rule") {
      a.rule = value;
    } else if (key == "--owners") {
      a.owners.clear();
      for (const std::string& one : split(value, ',')) {
        a.owners.emplace_back();
        good = good && parse_integer(one, a.owners.back()) && a.owners.back() > 0;
      }
    } else {
      good = key == "--rounds" && parse_integer(value, a.rounds) && a.rounds > 0;
    }
    if (!good) {
      throw ConfigError("argument", text, "--rule=muon|soap|galore --owners=N1,N2,... --rounds=N");
    }
  }
  return a;
}

// A rule, and one like it that refreshes at every update.
struct Rules {
  std::unique_ptr<UpdateRule> rule, between, refreshing;
  double period = 1;
};

Rules rules_of(const std::string& name) {
  constexpr int64_t kNever = 1 << 30;
  if (name == "muon") return {make_muon({}), make_muon({}), nullptr, 1};
  if (name == "soap") {
    return {make_soap({}), make_soap({.precondition_frequency = kNever}),
            make_soap({.precondition_frequency = 1}),
            static_cast<double>(SoapConfig{}.precondition_frequency)};
  }
  if (name == "galore") {
    return {make_galore({.rank = 192}), make_galore({.rank = 192, .update_proj_gap = kNever}),
            make_galore({.rank = 192, .update_proj_gap = 1}),
            static_cast<double>(GaloreConfig{}.update_proj_gap)};
  }
  throw ConfigError("--rule", name, "muon, soap, galore");
}

std::vector<bench::UpdatedMatrix> owned_by(int owner, const OptimizerPlan& plan,
                                           const UpdateRule& rule) {
  std::vector<bench::UpdatedMatrix> out;
  for (const MatrixAssignment& a : plan.matrices) {
    if (a.owners.front() == owner)
      out.push_back(bench::make_matrix(a.parameter, {a.rows, a.cols}, rule));
  }
  return out;
}

double busiest_over_mean(const std::vector<double>& work) {
  const double sum = std::accumulate(work.begin(), work.end(), 0.0);
  return *std::max_element(work.begin(), work.end()) * static_cast<double>(work.size()) / sum;
}

// Processor time of a mean update of what `owner` owns.
double share_ms(int owner, const OptimizerPlan& plan, const Rules& rules, int64_t rounds) {
  std::vector<bench::UpdatedMatrix> mine = owned_by(owner, plan, *rules.between);
  const double mean = bench::time_updates(*rules.between, mine, rounds).cpu_ms;
  if (!rules.refreshing) return mean;
  const double refresh = bench::time_updates(*rules.refreshing, mine, rounds).cpu_ms;
  return mean + (refresh - mean) / rules.period;
}

// Of all owners; those of other processes are theirs to measure.
std::vector<double> measure(int owners, const OptimizerPlan& plan, const Rules& rules,
                            int64_t rounds, Communicator& job) {
  const Tensor ms = at::zeros({owners}, at::TensorOptions().dtype(at::kDouble));
  double* values = ms.data_ptr<double>();
  for (int owner = 0; owner < owners; ++owner) {
    if (job.size() == 1 || job.rank() == owner)
      values[owner] = share_ms(owner, plan, rules, rounds);
  }
  job.all_reduce(ms, ReduceOp::Sum, {}).wait_host();
  return {values, values + owners};
}

void run(Arguments a, Communicator& job) {
  if (job.size() > 1) a.owners = {job.size()};
  std::shared_ptr<const ModelSpec> spec = make_model_from_json(
      R"({"model_type": "llama", "hidden_size": 768, "num_hidden_layers": 12,
          "num_attention_heads": 12, "intermediate_size": 2048, "vocab_size": 32000,
          "max_position_embeddings": 1024})",
      "bench");
  for (const int64_t owners : a.owners) {
    Rules rules = rules_of(a.rule);
    const auto set =
        std::make_shared<const RuleSet>(std::move(rules.rule), make_adamw({}), RuleSetConfig{}, 1);
    UniformPlan request;
    request.world_size = static_cast<int>(owners);
    request.strategy.zero = 1;
    request.global_batch = owners;
    const OptimizerPlan plan = plan_optimizer(spec, make_uniform_plan(request, spec->layer_count()),
                                              set, ManagerOptions{}, {});
    const std::vector<double> ms = measure(static_cast<int>(owners), plan, rules, a.rounds, job);
    if (job.rank() != 0) continue;
    std::printf(
        "{\"name\": \"owner_balance\", \"rule\": \"%s\", \"owners\": %lld, \"processes\": %d, "
        "\"planned\": %.3f, \"measured\": %.3f, \"mean_ms\": %.1f}\n",
        a.rule.c_str(), static_cast<long long>(owners), job.size(), plan.imbalance(),
        busiest_over_mean(ms),
        std::accumulate(ms.begin(), ms.end(), 0.0) / static_cast<double>(ms.size()));
    std::fflush(stdout);
  }
}

}  // namespace strata::owner_balance_bench

int main(int argc, char** argv) {
  strata::prepare_process();
  using namespace strata;
  try {
    at::set_num_threads(1);
    const auto arguments = owner_balance_bench::parse(argc, argv);
    const bool parallel = std::getenv("OMPI_COMM_WORLD_SIZE") || std::getenv("PMI_SIZE");
    if (parallel) start_mpi();
    {
      const auto job = parallel ? make_mpi_communicator() : make_self_communicator();
      owner_balance_bench::run(arguments, *job);
    }
    if (parallel) finish_mpi();
    return 0;
  } catch (const Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return e.exit_code();
  }
}
