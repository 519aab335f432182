#include "parallel/engine/memory_forecast.h"

#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <map>
#include <string>

#include "core/error.h"
#include "core/memory_meter.h"
#include "core/text.h"
#include "parallel/engine/borders.h"
#include "parallel/plan/schedule.h"
#include "parallel/plan/simulate.h"

namespace strata {
namespace memory_forecast_detail {

struct LayerMemory {
  int64_t kept = 0;       // from forward to backward, beside its input
  int64_t output = 0;     // what the output takes that is not kept anyway: the next layer keeps it
  int64_t transient = 0;  // beyond all that while running
};

// One micro-batch forward and backward through one layer.
LayerMemory measure(StageLayer& layer, ParameterBuffers& buffers, const Tensor& x,
                    const Batch& batch) {
  using namespace memory_meter;
  LayerMemory out;
  buffers.need(layer.index);
  const int64_t before = live_bytes();
  reset_peak();
  Tensor y = layer.runner->forward(0, x, batch);
  const int64_t with_output = live_bytes();
  out.transient = peak_bytes() - with_output;
  const Tensor dy = at::ones_like(y);
  y = Tensor();
  const int64_t between = live_bytes() - static_cast<int64_t>(dy.nbytes());
  out.kept = between - before;
  out.output = with_output - between;
  reset_peak();
  layer.runner->backward(0, dy);
  out.transient = std::max(out.transient, peak_bytes() - between);
  for (Parameter* p : layer.parameters) p->value.mutable_grad().reset();
  buffers.release(layer.index);
  return out;
}

}  // namespace memory_forecast_detail

MemoryForecast forecast_memory(const ModelSpec& spec, const Plan& plan, Stage& stage,
                               const ManagerOptions& options, const Batch& like) {
  using namespace memory_forecast_detail;
  STRATA_CHECK(memory_meter::installed(), "the forecast needs the memory meter");
  Borders borders(plan, stage.ranks());
  const MicrobatchShape shape{plan.rows_per_microbatch(), like.length(), false};
  int64_t first_row = shape.rows;
  for (const StageLayer& layer : stage.layers())
    first_row = std::min(first_row, borders.part(layer.index, shape).rows.begin);

  MemoryForecast out;
  std::map<std::string, LayerMemory> known;
  const auto memory_of = [&](StageLayer& layer) {
    const ActivationPart in = borders.part(layer.index, shape);
    const LayerStrategy& s = layer.layout.strategy();
    const std::string kind =
        cat(spec.cost_class(layer.index), " ", s.dp, " ", s.tp, " ", s.zero, " ", s.shards, " ",
            s.sequence_parallel, " ", recompute_name(s.recompute));
    const auto found = known.find(kind);
    if (found != known.end()) return found->second;
    Tensor x;
    if (layer.index > 0) {
      x = at::zeros(spec.boundary(layer.index - 1, in.rows.size(), in.time.size()),
                    at::TensorOptions().dtype(options.dtype).device(options.device));
    }
    const Batch batch = like.slice(in.rows.begin - first_row, in.rows.end - first_row);
    return known[kind] = measure(layer, stage.buffers(), x, batch);
  };
  int64_t largest_chunk = 0, moving = 0;
  for (int c = 0; c < plan.chunks; ++c) {
    const auto [first, last] = stage.chunk(c);
    int64_t kept = 0;
    for (int l = first; l <= last; ++l) {
      const LayerMemory m = memory_of(stage.layer(l));
      kept += m.kept + (l < last ? m.output : 0);
      out.transient = std::max(out.transient, m.transient);
    }
    // What arrives from another stage belongs to nobody's output here. One more is on its way in,
    // and the gradient of one on its way out; the other way round at the other end.
    const auto boundary = [&](int before) {
      const ActivationPart in = borders.part(before, shape);
      return element_count(spec.boundary(before, in.rows.size(), in.time.size())) *
             static_cast<int64_t>(c10::elementSize(options.dtype));
    };
    if (first > 0 && plan.stages > 1) {
      kept += boundary(first - 1);
      moving += 2 * boundary(first - 1);
    }
    if (last + 1 < spec.layer_count() && plan.stages > 1) moving += 2 * boundary(last);
    largest_chunk = std::max(largest_chunk, kept);
  }
  out.transient += moving;
  const Simulation simulation = simulate(
      make_schedule(plan.schedule, plan.stages, static_cast<int>(plan.microbatches), plan.chunks),
      unit_costs(plan.chunks));
  out.in_flight = simulation.peak_live[static_cast<size_t>(stage.index())];
  out.activations = largest_chunk * out.in_flight;
  out.buffers = stage.buffers().bytes();
  return out;
}

}  // namespace strata
