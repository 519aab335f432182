#include "launch/sampler.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "core/error.h"
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
  std::vector<int32_t> ids = std::move(prompt);
  std::vector<int32_t> made;
  const int64_t multiple =
      sampler_detail::widest_tp(model.plan());  // sequence-parallel layers cut tokens over tp
  for (int64_t n = 0; n < tokens; ++n) {
    const int64_t used = std::min(static_cast<int64_t>(ids.size()), context);
    const int64_t length = (used + multiple - 1) / multiple * multiple;
    Batch batch;
    batch.tokens = at::zeros({1, length}, at::TensorOptions().dtype(at::kLong));
    for (int64_t i = 0; i < used; ++i) {
      batch.tokens.data_ptr<int64_t>()[i] = ids[ids.size() - static_cast<size_t>(used - i)];
    }
    batch.positions = default_positions(1, length);
    const Tensor logits = model.logits(batch);
    std::string chosen(sizeof(int64_t), '\0');
    if (job.rank() == 0) {
      const int64_t id = choose_token(logits.select(0, 0).select(0, used - 1), options, sample, n);
      std::memcpy(chosen.data(), &id, sizeof id);
    }
    job.broadcast_bytes(chosen, 0);
    int64_t id = 0;
    std::memcpy(&id, chosen.data(), sizeof id);
    ids.push_back(static_cast<int32_t>(id));
    made.push_back(static_cast<int32_t>(id));
    if (each && !each(static_cast<int32_t>(id))) break;
  }
  return made;
}

}  // namespace strata
