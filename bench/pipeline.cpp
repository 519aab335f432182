// Pipeline schedules as the engine runs them, beside what the simulator says: bubble (idle share of
// all stages) and what communication adds to it. One stage per rank.
//
//   mpirun -n 4 pipeline [--microbatches=8] [--forward_ms=4] [--steps=5] [--size=sleep|S]
//
// --size=sleep: layers that sleep forward_ms in a forward pass and twice that in a backward pass,
// as a device would compute: real activations, transfers and schedules, and ranks do not compete
// for cores. --size=S: the Llama of train_step; give every rank a core of its own.
#include <ATen/TensorOperators.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <map>
#include <thread>

#include "core/config/reader.h"
#include "core/error.h"
#include "core/ops/deferred.h"
#include "core/prepare_process.h"
#include "core/text.h"
#include "models/register.h"
#include "parallel/comm/process.h"
#include "parallel/engine/manager.h"
#include "parallel/plan/schedule.h"
#include "parallel/plan/simulate.h"

namespace strata {
namespace {

constexpr int64_t kRows = 2, kLength = 256, kWidth = 256;

void sleep_ms(double ms) {
  std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(ms));
}

struct Sleep : torch::autograd::Function<Sleep> {
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& x, double ms) {
    ctx->saved_data["ms"] = ms;
    sleep_ms(ms);
    return x.clone();
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    const double ms = ctx->saved_data["ms"].toDouble();
    sleep_ms(ms);
    if (ops::DeferredGradients* later = ops::deferred_gradients()) {
      later->add([ms] { sleep_ms(ms); });
    } else {
      sleep_ms(ms);
    }
    return {grads[0], Tensor()};
  }
};

class SleepLayer final : public Layer {
 public:
  SleepLayer(bool first, bool last, double ms, const ParallelLayout& layout)
      : Layer(layout), first_(first), last_(last), ms_(ms) {
    scale_ = param("scale", {kWidth}, replicated(), Init::ones());
  }
  Tensor forward(const Tensor& x, const Batch& batch) override {
    const Tensor in =
        first_ ? at::zeros({batch.rows(), batch.length(), kWidth}, scale_.options()) : x;
    const Tensor y = Sleep::apply(in * scale_, ms_);
    if (!last_) return y;
    const Tensor loss = y.sum();
    return at::stack({loss, at::zeros({}, loss.options())});
  }

 private:
  bool first_, last_;
  double ms_;
  Tensor scale_;
};

class SleepSpec final : public ModelSpec {
 public:
  SleepSpec(int layers, double ms) : layers_(layers), ms_(ms) {}
  std::string family() const override { return "sleep"; }
  int layer_count() const override { return layers_; }
  std::string layer_name(int layer) const override { return cat("layer", layer); }
  std::string cost_class(int) const override { return "sleep"; }
  std::shared_ptr<Layer> make_layer(int layer, const ParallelLayout& layout) const override {
    return std::make_shared<SleepLayer>(layer == 0, layer == layers_ - 1, ms_, layout);
  }
  Shape boundary(int, int64_t rows, int64_t time) const override { return {rows, time, kWidth}; }
  double flops_per_token(int, int64_t) const override { return 0; }
  int64_t vocabulary() const override { return 2; }
  std::string foreign_config() const override { return "{}"; }

 private:
  int layers_;
  double ms_;
};

struct Arguments {
  int64_t microbatches = 8, steps = 5;
  double forward_ms = 4;
  std::string size = "sleep";
};

Arguments parse(int argc, char** argv) {
  Arguments a;
  for (int i = 1; i < argc; ++i) {
    const std::string text = argv[i];
    const size_t equals = std::min(text.find('='), text.size());
    const std::string key = text.substr(0, equals),
                      value = text.substr(std::min(equals + 1, text.size()));
    const bool known = (key == "--microbatches" && parse_integer(value, a.microbatches)) ||
                       (key == "--steps" && parse_integer(value, a.steps)) ||
                       (key == "--forward_ms" && parse_number(value, a.forward_ms)) ||
                       (key == "--size" && (value == "sleep" || value == "S"));
    if (!known)
      throw ConfigError("argument", text,
                        "--microbatches=N --steps=N --forward_ms=X --size=sleep|S");
    if (key == "--size") a.size = value;
  }
  return a;
}

std::shared_ptr<const ModelSpec> make_spec(const Arguments& a, int parts) {
  // As many layers as the finest cut has parts, so that every schedule has the same work.
  if (a.size == "sleep") return std::make_shared<SleepSpec>(parts, a.forward_ms / 2);
  return make_model_from_json(
      R"({"model_type": "llama", "hidden_size": 256, "num_hidden_layers": 14, "num_attention_heads": 4,
          "intermediate_size": 704, "vocab_size": 512, "max_position_embeddings": 256})",
      "bench");
}

using Timeline = std::vector<SimulatedOp>;

// All ranks' timelines, on all.
std::vector<Timeline> gather(Communicator& job, std::span<const SimulatedOp> mine) {
  const std::string bytes(reinterpret_cast<const char*>(mine.data()), mine.size_bytes());
  std::vector<Timeline> out;
  for (const std::string& text : job.all_gather_bytes(bytes)) {
    Timeline one(text.size() / sizeof(SimulatedOp));
    std::memcpy(one.data(), text.data(), text.size());
    out.push_back(std::move(one));
  }
  return out;
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

struct Measured {
  double makespan = 0, bubble = 0;
};
Measured measure(const std::vector<Timeline>& timelines) {
  Measured m;
  double busy = 0;
  for (const Timeline& stage : timelines) {
    for (const SimulatedOp& op : stage) busy += op.end - op.begin;
    m.makespan = std::max(m.makespan, stage.back().end);
  }
  m.bubble = 1 - busy / (m.makespan * static_cast<double>(timelines.size()));
  return m;
}

void bench(const Arguments& a, const std::string& schedule, CommPool& pool, int stages) {
  const int chunks = schedule == "interleaved" ? 2 : 1;
  const auto spec = make_spec(a, 2 * stages);
  UniformPlan request{stages, stages, chunks, {}, kRows * a.microbatches, a.microbatches, schedule};
  Plan plan = make_uniform_plan(request, spec->layer_count());
  // All layers of the sleeping model take the same time, first and last as well.
  for (int l = 0; a.size == "sleep" && l < spec->layer_count(); ++l)
    plan.virtual_stage[static_cast<size_t>(l)] = l * stages * chunks / spec->layer_count();
  if (auto problems = check_plan(plan, *spec, kLength); !problems.empty())
    throw ConfigError(problems);
  auto model = ParallelManager::build(spec, plan, pool, {});
  model->load_weights(*make_initial_weights(1));
  std::vector<Batch> batches;
  for (int64_t m = 0; m < a.microbatches; ++m) {
    Batch b;
    b.tokens = at::zeros({kRows, kLength}, at::TensorOptions().dtype(at::kLong));
    b.labels = b.tokens;
    batches.push_back(b);
  }
  std::vector<double> makespans, bubbles;
  std::map<std::tuple<int, int, int>, std::vector<double>> times;  // stage, kind, chunk
  for (int64_t step = 0; step <= a.steps; ++step) {
    pool.job().barrier();
    model->forward_backward(batches);
    const auto timelines = gather(pool.job(), model->timeline());
    if (step == 0) continue;
    const Measured m = measure(timelines);
    makespans.push_back(m.makespan);
    bubbles.push_back(m.bubble);
    for (int s = 0; s < stages; ++s) {
      for (const SimulatedOp& op : timelines[static_cast<size_t>(s)])
        times[{s, static_cast<int>(op.op.kind), op.op.chunk}].push_back(op.end - op.begin);
    }
  }
  if (pool.job().rank() != 0) return;
  SimulationCosts costs;
  costs.op = [&](int stage, const ScheduleOp& op) {
    return median(times.at({stage, static_cast<int>(op.kind), op.chunk}));
  };
  const Simulation simulation =
      simulate(make_schedule(schedule, stages, static_cast<int>(a.microbatches), chunks), costs);
  const double makespan = median(makespans), bubble = median(bubbles);
  std::printf(
      "{\"name\": \"pipeline\", \"compute\": \"%s\", \"stages\": %d, \"microbatches\": %lld, "
      "\"schedule\": \"%s\", \"measured_ms\": %.2f, \"simulated_ms\": %.2f, "
      "\"exposed_communication\": %.4f, \"bubble\": %.4f, \"simulated_bubble\": %.4f}\n",
      a.size.c_str(), stages, static_cast<long long>(a.microbatches), schedule.c_str(),
      1e3 * makespan, 1e3 * simulation.makespan, makespan / simulation.makespan - 1, bubble,
      simulation.bubble_share());
  std::fflush(stdout);
}

}  // namespace
}  // namespace strata

int main(int argc, char** argv) {
  strata::prepare_process();
  using namespace strata;
  try {
    const Arguments arguments = parse(argc, argv);
    start_mpi();
    {
      CommPool pool(make_mpi_communicator());
      const int stages = pool.job().size();
      for (const std::string schedule : {"gpipe", "1f1b", "interleaved", "zb-h1"}) {
        if (why_not_schedule(schedule, stages, static_cast<int>(arguments.microbatches),
                             schedule == "interleaved" ? 2 : 1)
                .empty())
          bench(arguments, schedule, pool, stages);
      }
    }
    finish_mpi();
    return 0;
  } catch (const Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return e.exit_code();
  }
}
