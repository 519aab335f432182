#include "launch/sampler.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "core/error.h"
#include "core/generation_cache.h"
#include "core/rng.h"
#include "core/text.h"

namespace strata {
namespace sampler_detail {

// Ids from the likeliest to the least likely, lower ids first among equals.
std::vector<int64_t> by_likelihood(const double* logits, int64_t count) {
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  return order;
}

// How many of the likeliest together have probability top_p; at least one.
int64_t nucleus(const std::vector<int64_t>& order, int64_t count, const double* logits,
                const SamplingOptions& options) {
  const double most = logits[order[0]];
  std::vector<double> weights;
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    weights.push_back(
        std::exp((logits[order[static_cast<size_t>(i)]] - most) / options.temperature));
    sum += weights.back();
  }
  double reached = 0;
  for (int64_t i = 0; i < count; ++i) {
    reached += weights[static_cast<size_t>(i)];
    if (reached >= options.top_p * sum) return i + 1;
  }
  return count;
}

int64_t widest_tp(const Plan& plan) {
  int tp = 1;
  for (const LayerStrategy& layer : plan.layers) tp = std::max(tp, layer.tp);
  return tp;
}

bool cuts_tokens(const Plan& plan) {
  for (const LayerStrategy& layer : plan.layers) {
    if (layer.sequence_parallel && layer.tp > 1) return true;
  }
  return false;
}

// A text that grows, and what the model says comes next. Where the family remembers, only new
// tokens are run; otherwise, and once the text is longer than the model's positions, the last
// `context` tokens are run anew each time.
class Text {
 public:
  Text(ParallelManager& model, std::vector<int32_t> ids, int64_t context)
      : model_(model),
        ids_(std::move(ids)),
        context_(context),
        // Single tokens cannot be cut over ranks.
        remembers_(model.spec().generates_from_cache() && !cuts_tokens(model.plan())),
        multiple_(cuts_tokens(model.plan()) ? widest_tp(model.plan()) : 1) {}

  Tensor next_logits() {
    const auto size = static_cast<int64_t>(ids_.size());
    const int64_t most = model_.spec().max_positions();
    if (remembers_ && (most == 0 || size <= most)) return run(cache_.tokens, size, &cache_);
    return run(size - std::min(size, context_), size, nullptr);
  }
  void add(int32_t id) { ids_.push_back(id); }

 private:
  // Logits after the last of the tokens [begin, end).
  Tensor run(int64_t begin, int64_t end, GenerationCache* cache) {
    const int64_t used = end - begin, length = (used + multiple_ - 1) / multiple_ * multiple_;
    Batch batch;
    batch.tokens = at::zeros({1, length}, at::TensorOptions().dtype(at::kLong));
    for (int64_t i = 0; i < used; ++i)
      batch.tokens.data_ptr<int64_t>()[i] = ids_[static_cast<size_t>(begin + i)];
    batch.positions = default_positions(1, length);
    if (cache) batch.positions += begin;
    batch.cache = cache;
    const Tensor logits = model_.logits(batch);
    if (cache) cache->tokens = end;
    return logits.select(0, 0).select(0, used - 1);
  }

  ParallelManager& model_;
  std::vector<int32_t> ids_;
  int64_t context_;
  bool remembers_;
  int64_t multiple_;  // sequence-parallel layers cut tokens over tp
  GenerationCache cache_;
};

}  // namespace sampler_detail

int64_t choose_token(const Tensor& logits_V, const SamplingOptions& options, int64_t sample,
                     int64_t position) {
  using namespace sampler_detail;
  STRATA_CHECK(logits_V.dim() == 1 && logits_V.size(0) > 0, "logits of one position are needed");
  const Tensor host = logits_V.detach().to(at::kCPU, at::kDouble).contiguous();
  const double* logits = host.data_ptr<double>();
  const int64_t vocabulary = host.size(0);
  if (options.temperature == 0) return std::max_element(logits, logits + vocabulary) - logits;
  const std::vector<int64_t> order = by_likelihood(logits, vocabulary);
  int64_t count = options.top_k > 0 ? std::min(options.top_k, vocabulary) : vocabulary;
  if (options.top_p < 1) count = nucleus(order, count, logits, options);
  // Adding Gumbel noise to scaled logits and taking the largest draws from their softmax. The
  // sample is part of the stream's name; position and id are the element.
  const Rng rng(options.seed, "sample", cat("token ", sample));
  int64_t best = order[0];
  double best_value = -INFINITY;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t id = order[static_cast<size_t>(i)];
    const double u =
        rng.uniform(static_cast<uint64_t>(position) * static_cast<uint64_t>(vocabulary) +
                    static_cast<uint64_t>(id));
    const double value = logits[id] / options.temperature - std::log(-std::log(u));
    if (value > best_value) {
      best_value = value;
      best = id;
    }
  }
  return best;
}

std::vector<int32_t> generate(ParallelManager& model, std::vector<int32_t> prompt, int64_t tokens,
                              int64_t context, const SamplingOptions& options, int64_t sample,
                              const std::function<bool(int32_t)>& each) {
  if (!model.spec().causal()) {
    throw ConfigError("model.name", model.spec().family(), "a causal family",
                      " (this one cannot continue a text)");
  }
  if (prompt.empty()) throw ConfigError("sample.prompt", "nothing", "at least one token");
  Communicator& job = model.pool().job();
  sampler_detail::Text text(model, std::move(prompt), context);
  std::vector<int32_t> made;
  for (int64_t n = 0; n < tokens; ++n) {
    const Tensor logits_V = text.next_logits();
    std::string chosen(sizeof(int64_t), '\0');
    if (job.rank() == 0) {
      const int64_t id = choose_token(logits_V, options, sample, n);
      std::memcpy(chosen.data(), &id, sizeof id);
    }
    job.broadcast_bytes(chosen, 0);
    int64_t id = 0;
    std::memcpy(&id, chosen.data(), sizeof id);
    text.add(static_cast<int32_t>(id));
    made.push_back(static_cast<int32_t>(id));
    if (each && !each(static_cast<int32_t>(id))) break;
  }
  return made;
}

}  // namespace strata
