#include "parallel/engine/executor.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/text.h"
#include "parallel/nn/probe.h"

namespace strata {
namespace executor_detail {

// Forward passes only: a micro-batch goes through all chunks before the next one starts.
Schedule forward_schedule(int stages, int chunks, int microbatches) {
  StageSchedule ops;
  for (int m = 0; m < microbatches; ++m) {
    for (int c = 0; c < chunks; ++c) ops.push_back({ScheduleOp::Kind::Forward, c, m});
  }
  return {stages, chunks, microbatches,
          std::vector<StageSchedule>(static_cast<size_t>(stages), ops)};
}

// Sum of numbers in the shape of a binary tree: a power of two of them per rank, summed as a tree
// over ranks, gives the bits that one process gets.
class TreeSum {
 public:
  void add(double x) {
    int64_t count = 1;
    while (!levels_.empty() && levels_.back().first == count) {
      x = levels_.back().second + x;
      count *= 2;
      levels_.pop_back();
    }
    levels_.emplace_back(count, x);
  }
  double total() const {
    double sum = 0;
    for (auto it = levels_.rbegin(); it != levels_.rend(); ++it) sum = it->second + sum;
    return sum;
  }

 private:
  std::vector<std::pair<int64_t, double>> levels_;
};

struct LossSum {
  TreeSum loss;
  int64_t counted = 0, correct = 0;
  void add(const StepLoss& one) {
    loss.add(one.loss_sum);
    counted += one.counted;
    correct += one.correct;
  }
  StepLoss result() const { return {loss.total(), counted, correct}; }
};

}  // namespace executor_detail

void Executor::Walk::enter(int layer) {
  STRATA_CHECK(at_ < visits_.size() && visits_[at_] == layer,
               cat("layer ", layer, " is run out of order"));
  buffers_.need(layer);
  if (at_ + 1 < visits_.size()) buffers_.fetch(visits_[at_ + 1]);
}

void Executor::Walk::leave() {
  const int layer = visits_[at_++];
  if (at_ == visits_.size() || visits_[at_] != layer) buffers_.release(layer);
}

Executor::Executor(const ModelSpec& spec, const Plan& plan, CommPool& pool, Stage& stage,
                   const ManagerOptions& options)
    : spec_(&spec),
      plan_(&plan),
      pool_(&pool),
      stage_(&stage),
      dtype_(options.dtype),
      device_(options.device),
      training_(make_schedule(plan.schedule, plan.stages, static_cast<int>(plan.microbatches),
                              plan.chunks)),
      borders_(plan, stage.ranks()),
      links_(plan, pool) {
  const MicrobatchShape shape{plan.rows_per_microbatch(), 1, false};
  rows_ = borders_.part(stage.layers().front().index, shape).rows;
  for (const StageLayer& layer : stage.layers()) {
    const Range rows = borders_.part(layer.index, shape).rows;
    rows_ = {std::min(rows_.begin, rows.begin), std::max(rows_.end, rows.end)};
  }
}

Executor::Run Executor::begin(Mode mode, std::span<const Batch> batches, const Schedule& schedule) {
  const int64_t time = batches.empty() ? 0 : batches[0].length();
  MicrobatchShape shape{plan_->rows_per_microbatch(), time, false};
  if (mode == Mode::Logits) shape = {batches[0].rows(), time, true};
  for (const Batch& batch : batches) {
    STRATA_CHECK(
        batch.length() == time && batch.rows() == (shape.whole_rows ? shape.rows : rows_.size()),
        cat("a micro-batch of ", batch.rows(), " rows of ", batch.length(), " tokens"));
  }
  const StageSchedule& ops = schedule.ops[static_cast<size_t>(stage_->index())];
  std::vector<int> visits;
  for (const ScheduleOp& op : ops) {
    const auto [first, last] = stage_->chunk(op.chunk);
    if (op.kind == ScheduleOp::Kind::Forward) {
      for (int l = first; l <= last; ++l) visits.push_back(l);
    } else if (op.kind != ScheduleOp::Kind::WeightGrad) {
      for (int l = last; l >= first; --l) visits.push_back(l);
    }
  }
  const int parts = plan_->stages * plan_->chunks;
  const auto form = [this, shape, parts](const PipelineTransfer& t) {
    // Both directions of a border carry the output of the layer before it.
    const int before = t.gradient ? t.virtual_stage - 1 : t.virtual_stage;
    STRATA_CHECK(before >= 0 && before + 1 < parts, "no such border");
    int layer = 0;
    for (int l = 0; l < spec_->layer_count(); ++l) {
      if (plan_->virtual_stage[static_cast<size_t>(l)] == before) layer = l;
    }
    const ActivationPart held = borders_.part(layer, shape);
    return at::empty(spec_->boundary(layer, held.rows.size(), held.time.size()),
                     at::TensorOptions().dtype(dtype_).device(device_));
  };
  links_.begin(receives_of(schedule, stage_->index()), form);
  return {mode,
          batches,
          shape,
          0,
          Walk(stage_->buffers(), std::move(visits)),
          std::vector<int64_t>(static_cast<size_t>(spec_->layer_count()), 0)};
}

StepLoss Executor::forward_backward(std::span<const Batch> batches, double loss_scale) {
  Run run = begin(Mode::Train, batches, training_);
  run.loss_scale = loss_scale;
  timeline_.clear();
  step_begin_ = std::chrono::steady_clock::now();
  stage_->buffers().begin_step();
  executor_detail::LossSum loss;
  for (const ScheduleOp& op : training_.ops[static_cast<size_t>(stage_->index())]) {
    timeline_.push_back({op, 0, 0});  // begin: when its input is there
    if (op.kind == ScheduleOp::Kind::Forward) {
      const Tensor y = forward_chunk(run, op.chunk, op.microbatch);
      if (last_part(op.chunk))
        loss.add(loss_of(y, batch_of(run, spec_->layer_count() - 1, op.microbatch)));
    } else if (op.kind == ScheduleOp::Kind::WeightGrad) {
      weight_chunk(run, op);
    } else {
      backward_chunk(run, op);
    }
    timeline_.back().end = now_s();
  }
  links_.finish();
  stage_->buffers().finish();
  return loss.result();
}

StepLoss Executor::forward(std::span<const Batch> batches) {
  const Schedule schedule = executor_detail::forward_schedule(plan_->stages, plan_->chunks,
                                                              static_cast<int>(batches.size()));
  Run run = begin(Mode::Evaluate, batches, schedule);
  executor_detail::LossSum loss;
  for (const ScheduleOp& op : schedule.ops[static_cast<size_t>(stage_->index())]) {
    const Tensor y = forward_chunk(run, op.chunk, op.microbatch);
    if (last_part(op.chunk))
      loss.add(loss_of(y, batch_of(run, spec_->layer_count() - 1, op.microbatch)));
  }
  links_.finish();
  return loss.result();
}

Tensor Executor::logits(const Batch& batch) {
  const Schedule schedule = executor_detail::forward_schedule(plan_->stages, plan_->chunks, 1);
  Run run = begin(Mode::Logits, std::span(&batch, 1), schedule);
  Tensor y;
  for (int c = 0; c < plan_->chunks; ++c) y = forward_chunk(run, c, 0);
  links_.finish();
  if (plan_->stages == 1) return y;
  if (!stage_->holds_last_layer()) {
    y = at::empty({batch.rows(), batch.length(), spec_->vocabulary()},
                  at::TensorOptions().dtype(accumulate_dtype(dtype_)).device(device_));
  } else {
    y = y.contiguous();
  }
  stage_->pipe().broadcast(y, plan_->stages - 1, {0, SiteOp::Logits}).wait();
  return y;
}

Tensor Executor::forward_chunk(Run& run, int chunk, int microbatch) {
  const auto [first, last] = stage_->chunk(chunk);
  Tensor x;
  if (part(chunk) > 0) {
    const int from = (part(chunk) - 1) % plan_->stages;
    x = links_.receive({false, from, stage_->index(), part(chunk) - 1, microbatch});
  }
  if (run.mode == Mode::Train) timeline_.back().begin = now_s();
  for (int l = first; l <= last; ++l) {
    StageLayer& layer = stage_->layer(l);
    x = borders_.enter(l, x, run.shape);
    const Batch batch = batch_of(run, l, microbatch);
    run.walk.enter(l);
    if (run.mode == Mode::Train) {
      x = layer.runner->forward(microbatch, x, batch);
    } else if (run.mode == Mode::Logits && l + 1 == spec_->layer_count()) {
      x = layer.runner->layer().logits(x);
    } else {
      x = layer.runner->forward_only(x, batch);
      if (batch.probe && l + 1 < spec_->layer_count())
        batch.probe->layer_output(l, x, batch, layer.layout);
    }
    run.walk.leave();
  }
  if (!last_part(chunk)) {
    STRATA_CHECK(x.scalar_type() == dtype_,
                 cat("layer ", last, " hands on ", dtype_name(x.scalar_type()),
                     "; between stages it must be ", dtype_name(dtype_)));
    links_.send(
        {false, stage_->index(), (part(chunk) + 1) % plan_->stages, part(chunk), microbatch}, x);
  }
  return x;
}

void Executor::backward_chunk(Run& run, const ScheduleOp& op) {
  const int chunk = op.chunk, microbatch = op.microbatch;
  const auto [first, last] = stage_->chunk(chunk);
  Tensor dy;
  if (last_part(chunk)) {
    dy = at::zeros({2}, at::TensorOptions().dtype(accumulate_dtype(dtype_)).device(device_));
    dy.select(0, 0).fill_(run.loss_scale);
  } else {
    const int from = (part(chunk) + 1) % plan_->stages;
    dy = links_.receive({true, from, stage_->index(), part(chunk) + 1, microbatch});
  }
  timeline_.back().begin = now_s();
  for (int l = last; l >= first; --l) {
    run.walk.enter(l);
    LayerRunner& runner = *stage_->layer(l).runner;
    if (op.kind == ScheduleOp::Kind::InputGrad) {
      dy = runner.input_backward(microbatch, dy);
    } else {
      dy = runner.backward(microbatch, dy);
      add_gradients(run, l);
    }
    run.walk.leave();
    dy = borders_.leave(l, dy, run.shape);
  }
  if (part(chunk) > 0) {
    links_.send({true, stage_->index(), (part(chunk) - 1) % plan_->stages, part(chunk), microbatch},
                dy);
  }
}

void Executor::weight_chunk(Run& run, const ScheduleOp& op) {
  timeline_.back().begin = now_s();
  const auto [first, last] = stage_->chunk(op.chunk);
  for (int l = last; l >= first; --l) {
    stage_->layer(l).runner->weight_backward(op.microbatch);
    add_gradients(run, l);
  }
}

void Executor::add_gradients(Run& run, int layer) {
  const bool all = ++run.backwards[static_cast<size_t>(layer)] == plan_->microbatches;
  stage_->buffers().add(layer, all);
}

Batch Executor::batch_of(const Run& run, int layer, int microbatch) const {
  const Batch& batch = run.batches[static_cast<size_t>(microbatch)];
  if (run.shape.whole_rows) return batch;
  const Range rows = borders_.part(layer, run.shape).rows;
  if (rows == rows_) return batch;
  return batch.slice(rows.begin - rows_.begin, rows.end - rows_.begin);
}

double Executor::now_s() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - step_begin_).count();
}

// The loss is identical on all ranks of a tp group: its first rank counts it.
StepLoss Executor::loss_of(const Tensor& result, const Batch& batch) {
  if (stage_->layers().back().layout.tp_index() != 0) return {};
  const Tensor host = result.to(at::kCPU, at::kDouble);
  StepLoss loss;
  loss.loss_sum = host.data_ptr<double>()[0];
  loss.correct = std::llround(host.data_ptr<double>()[1]);
  loss.counted = batch.labels.ne(kIgnoreLabel).sum().item<int64_t>();
  return loss;
}

}  // namespace strata
