#include "parallel/nn/head.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/logical_and.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>

#include "core/error.h"
#include "core/ops/activation.h"
#include "core/ops/linear.h"
#include "core/ops/streams.h"
#include "core/text.h"

namespace strata {
namespace head_detail {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// What one evaluation of the loss needs besides tensors.
struct Setting : torch::CustomClassHolder {
  Setting(const ParallelLayout& l, const HeadOptions& o, int64_t v)
      : layout(l), options(o), vocabulary(v) {
    columns =
        owned_ranges(split_vocabulary(l.vocabulary_unit()), {v, 1}, l.tp_index(), l.tp_size())[0];
  }
  ParallelLayout layout;
  HeadOptions options;
  int64_t vocabulary;
  Range columns;    // of the vocabulary, held here
  double beta = 1;  // of a ternary head
};

// The projection of a ternary head below a region: its gain reads whole rows on every rank, and
// each rank's gradient is a part of the sum.
class BitHead final : public Region {
 public:
  BitHead(const std::string& name, int64_t width, int64_t vocabulary,
          const BitLinearOptions& options, const ParallelLayout& layout)
      : Region(layout) {
    linear = add<BitLinear>(name, width, vocabulary, split_vocabulary(layout.vocabulary_unit()),
                            options, layout);
  }
  Tensor forward(const Tensor& x, const Batch&) override { return (*linear)(x); }
  std::shared_ptr<BitLinear> linear;
};

// Row maxima and sums over the whole vocabulary of a chunk's logits.
struct ChunkSums {
  Tensor max_N, sums_3N;
};
ChunkSums reduce_chunk(const Tensor& logits, const Tensor& targets, const Setting& s) {
  ChunkSums out;
  out.max_N = ops::row_max(logits);
  s.layout.tp().all_reduce(out.max_N, ReduceOp::Max, s.layout.site(SiteOp::LossMax)).wait();
  out.sums_3N = ops::exp_sums(logits, out.max_N, targets, s.columns.begin,
                              s.options.loss.label_smoothing > 0);
  s.layout.tp().all_reduce(out.sums_3N, ReduceOp::Sum, s.layout.site(SiteOp::LossSums)).wait();
  return out;
}

// Counted labels whose arg-max prediction is right. The smallest index wins ties, in every layout.
Tensor correct_predictions(const Tensor& logits, const ChunkSums& sums, const Tensor& targets,
                           const Setting& s) {
  const int64_t none = s.vocabulary;
  Tensor best = at::full({logits.size(0)}, none, targets.options());
  if (logits.size(1) > 0) {
    Tensor index = logits.argmax(1);
    Tensor value = logits.gather(1, index.unsqueeze(1)).squeeze(1).to(sums.max_N.scalar_type());
    best = at::where(value.eq(sums.max_N), index + s.columns.begin, none);
  }
  s.layout.tp().all_reduce(best, ReduceOp::Min, s.layout.site(SiteOp::Accuracy)).wait();
  return at::logical_and(best.eq(targets), targets.ne(kIgnoreLabel)).sum();
}

// x [N, D], weight [V here, D], bias [V here] or none -> [2]. The gradient for an upstream factor
// of 1 is formed chunk by chunk while the chunk's logits are in memory; backward only scales it.
// A ternary head has a gain and no bias, and `matrix` are its codes.
struct ChunkedLoss : torch::autograd::Function<ChunkedLoss> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight,
                        const std::optional<Tensor>& bias, const std::optional<Tensor>& gain,
                        const Tensor& matrix, const Tensor& targets,
                        const c10::intrusive_ptr<Setting>& setting, bool need_gradient) {
    const Setting& s = *setting;
    const at::ScalarType wide = accumulate_dtype(x.scalar_type());
    const Tensor w = matrix.to(x.scalar_type());
    const bool ternary = gain && matrix.scalar_type() == at::kChar;
    const int64_t tokens = x.size(0), chunk = std::max<int64_t>(1, s.options.chunk_tokens);
    Tensor loss = at::zeros({}, x.options().dtype(wide)),
           correct = at::zeros({}, x.options().dtype(wide));
    Tensor dx, dw, db, dgain;
    if (need_gradient) {
      dx = at::empty_like(x);
      dw = at::zeros(weight.sizes(), x.options().dtype(wide));
      if (bias) db = at::zeros(bias->sizes(), dw.options());
      if (gain) dgain = at::zeros(gain->sizes(), x.options().dtype(wide));
    }
    for (int64_t begin = 0; begin < tokens; begin += chunk) {
      const int64_t n = std::min(chunk, tokens - begin);
      Tensor x_c = x.narrow(0, begin, n), t_c = targets.narrow(0, begin, n);
      // Asked for each chunk: the last one may be too short.
      const bool integers =
          ternary && ops::multiplies_integers(x_c, {.codes_OI = matrix}, s.options.bit->rows);
      ops::BitRows rows;
      if (gain) rows = ops::bit_rows(x_c, *gain, s.options.bit->rows, {}, integers);
      Tensor logits = gain ? ops::bit_product(rows, integers ? matrix : w, s.beta, x.scalar_type())
                           : at::mm(x_c, w.t());
      if (bias) logits.add_(bias->to(logits.scalar_type()));
      ChunkSums sums = reduce_chunk(logits, t_c, s);
      loss += ops::token_losses(sums.sums_3N, sums.max_N, t_c, s.vocabulary, s.options.loss).sum();
      if (need_gradient) {
        ops::cross_entropy_backward_(logits, sums.sums_3N, sums.max_N, t_c, s.columns.begin,
                                     s.vocabulary, s.options.loss);
        if (gain) {
          const auto g = ops::bit_backward(logits, x_c, *gain, rows, w, s.beta);
          dx.narrow(0, begin, n).copy_(g.x);
          dgain.add_(g.gain);
          dw.add_(ops::bit_weight_gradient(logits, rows));
          continue;
        }
        dx.narrow(0, begin, n).copy_(at::mm(logits, w));
        if (bias) db.add_(logits.to(wide).sum(0));
        if (wide == x.scalar_type()) {
          dw.addmm_(logits.t(), x_c);
        } else {
          dw.add_(at::mm(logits.t(), x_c));
        }
      } else {
        correct += correct_predictions(logits, sums, t_c, s);
      }
    }
    if (need_gradient) {
      ctx->save_for_backward({dx, dw.to(weight.scalar_type()),
                              bias ? db.to(bias->scalar_type()) : Tensor(),
                              gain ? dgain.to(gain->scalar_type()) : Tensor()});
    }
    return at::stack({loss, correct});
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    auto saved = ctx->get_saved_variables();
    const Tensor scale = grads[0].select(0, 0);
    const auto scaled = [&](const Tensor& g) {
      return g.defined() ? g * scale.to(g.scalar_type()) : g;
    };
    return {scaled(saved[0]), scaled(saved[1]), scaled(saved[2]), scaled(saved[3]),
            Tensor(),         Tensor(),         Tensor(),         Tensor()};
  }
};

}  // namespace head_detail

HeadLayer::HeadLayer(int64_t width, int64_t vocabulary, HeadOptions options,
                     const ParallelLayout& layout)
    : Layer(layout), width_(width), vocabulary_(vocabulary), options_(std::move(options)) {
  if (options_.norm == HeadOptions::Norm::Rms)
    rms_ = rms_norm(options_.norm_name, width, options_.norm_eps);
  if (options_.norm == HeadOptions::Norm::Layer)
    layer_ = layer_norm(options_.norm_name, width, options_.norm_eps, options_.norm_bias);
  if (!options_.transform_name.empty()) {
    dense_ = linear(options_.transform_name + ".dense", width, width, replicated(),
                    {.bias = true, .init_std = options_.init_std});
    transform_norm_ =
        layer_norm(options_.transform_name + ".LayerNorm", width, options_.transform_eps);
  }
  if (options_.bit) {
    STRATA_CHECK(!options_.tied && ends_with(options_.weight_name, ".weight"),
                 "a ternary head is not tied and its weight is called NAME.weight");
    const std::string name =
        options_.weight_name.substr(0, options_.weight_name.size() - std::string(".weight").size());
    options_.bit->kind = ParamKind::Head;
    bit_ =
        add<head_detail::BitHead>("", name, width, vocabulary, *options_.bit, layout)->linear.get();
    weight_ = bit_->weight();
    return;
  }
  weight_ = param(options_.weight_name, {vocabulary, width},
                  split_vocabulary(layout.vocabulary_unit()), Init::normal(options_.init_std),
                  {.kind = options_.tied ? ParamKind::Embedding : ParamKind::Head});
  if (!options_.bias_name.empty()) {
    bias_ = param(options_.bias_name, {vocabulary}, split_vocabulary(layout.vocabulary_unit()),
                  Init::zeros(), {.fp32 = true, .weight_decay = false});
  }
}

Tensor HeadLayer::norm(const Tensor& x) const {
  switch (options_.norm) {
    case HeadOptions::Norm::Rms:
      return rms_(x);
    case HeadOptions::Norm::Layer:
      return layer_(x);
    case HeadOptions::Norm::None:
      break;
  }
  return x;
}

Tensor HeadLayer::reduced(const Tensor& x) const {
  const int64_t n = options_.reduce.streams;
  if (n == 1) return norm(x);
  const Tensor streams = x.size(-1) == width_ ? ops::expand_streams(x, n) : x;  // no block before
  if (options_.reduce.order == StreamReduce::Order::NormThenSum) {
    Shape shape = x.sizes().vec();
    shape.back() = n;
    shape.push_back(width_);
    return ops::sum_streams(norm(streams.reshape(shape)).flatten(2), n);
  }
  const Tensor sum = ops::sum_streams(streams, n);
  const bool mean = options_.reduce.order == StreamReduce::Order::MeanThenNorm;
  return norm(mean ? sum / static_cast<double>(n) : sum);
}

Tensor HeadLayer::normalise(const Tensor& x) const {
  const Tensor y = reduced(x);
  if (options_.transform_name.empty()) return y;
  return transform_norm_(ops::activation(dense_(y), options_.transform_activation));
}

Tensor HeadLayer::forward(const Tensor& x, const Batch& batch) {
  STRATA_CHECK(batch.labels.defined(), "the head needs labels");
  const Tensor entered = region_enter(normalise(x), layout());
  const bool need_gradient =
      at::GradMode::is_enabled() && (entered.requires_grad() || weight_.requires_grad());
  Tensor x_ND = entered.reshape({-1, entered.size(-1)}), labels_N = batch.labels.reshape({-1});
  if (options_.labelled_only) {
    const Tensor labelled = labels_N.ne(kIgnoreLabel).nonzero().squeeze(1);
    x_ND = x_ND.index_select(0, labelled);
    labels_N = labels_N.index_select(0, labelled);
  }
  auto setting = c10::make_intrusive<head_detail::Setting>(layout(), options_, vocabulary_);
  std::optional<Tensor> bias, gain;
  if (bias_.defined()) bias = bias_;
  Tensor matrix = weight_;
  if (bit_ != nullptr) {
    const ops::TernaryCodes& codes = bit_->codes();
    gain = bit_->gain();
    setting->beta = codes.scale;
    if (codes.ternary()) matrix = codes.codes_OI;
  }
  return head_detail::ChunkedLoss::apply(x_ND, weight_, bias, gain, matrix.detach(), labels_N,
                                         setting, need_gradient);
}

void HeadLayer::weights_changed() {
  if (bit_ != nullptr) refresh_codes(std::span<BitLinear* const>(&bit_, 1), layout());
}

Tensor HeadLayer::logits(const Tensor& x) {
  at::NoGradGuard no_grad;
  const Tensor h = region_enter(normalise(x), layout());
  const at::ScalarType wide = accumulate_dtype(h.scalar_type());
  Tensor local = (bit_ != nullptr ? (*bit_)(h) : ops::linear(h, weight_, bias_)).to(wide);
  const int count = layout().tp_size();
  if (count == 1) return local;
  // Parts are ragged: gather equal blocks with the vocabulary first, then cut.
  const ShardSpec spec = split_vocabulary(layout().vocabulary_unit());
  const int64_t block = owned_ranges(spec, {vocabulary_, 1}, 0, count)[0].size();
  const int64_t tokens = local.numel() / std::max<int64_t>(1, local.size(-1));
  const int64_t rows = h.numel() / h.size(-1);
  Tensor in = at::zeros({block, rows}, local.options());
  if (tokens > 0) in.narrow(0, 0, local.size(-1)).copy_(local.reshape({rows, local.size(-1)}).t());
  Tensor out = at::empty({block * count, rows}, local.options());
  layout().tp().all_gather(out, in, layout().site(SiteOp::Logits)).wait();
  std::vector<Tensor> parts;
  for (int r = 0; r < count; ++r) {
    parts.push_back(
        out.narrow(0, r * block, owned_ranges(spec, {vocabulary_, 1}, r, count)[0].size()));
  }
  Shape shape = h.sizes().vec();
  shape.back() = vocabulary_;
  return at::cat(parts, 0).t().reshape(shape).contiguous();
}

}  // namespace strata
