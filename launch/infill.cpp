#include "launch/infill.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/text.h"

namespace strata {
namespace infill_detail {

// Tokens must be divisible where layers cut them over ranks.
int64_t token_multiple(const Plan& plan) {
  int tp = 1;
  for (const LayerStrategy& layer : plan.layers) {
    if (layer.sequence_parallel) tp = std::max(tp, layer.tp);
  }
  return tp;
}

Batch batch_of(const std::vector<int32_t>& ids, int64_t multiple) {
  const auto used = static_cast<int64_t>(ids.size());
  const int64_t length = (used + multiple - 1) / multiple * multiple;
  Batch batch;
  batch.tokens = at::zeros({1, length}, at::TensorOptions().dtype(at::kLong));
  for (int64_t t = 0; t < used; ++t) {
    batch.tokens.data_ptr<int64_t>()[t] = ids[static_cast<size_t>(t)];
  }
  batch.positions = default_positions(1, length);
  if (length > used) {
    batch.segments = at::zeros({1, length}, at::TensorOptions().dtype(at::kInt));
    batch.segments.slice(1, used, length).fill_(-2);
  }
  return batch;
}

}  // namespace infill_detail

std::vector<int32_t> encode_hidden(const Tokenizer& tokenizer, std::string_view text,
                                   std::string_view marker, int64_t mask_id) {
  std::vector<int32_t> ids;
  size_t begin = 0;
  while (true) {
    const size_t end = marker.empty() ? std::string_view::npos : text.find(marker, begin);
    const std::string_view piece =
        text.substr(begin, end == std::string_view::npos ? std::string_view::npos : end - begin);
    if (!piece.empty()) {
      const std::vector<int32_t> part = tokenizer.encode(piece);
      ids.insert(ids.end(), part.begin(), part.end());
    }
    if (end == std::string_view::npos) return ids;
    ids.push_back(static_cast<int32_t>(mask_id));
    begin = end + marker.size();
  }
}

int64_t most_certain(const Tensor& logits_TV, const std::vector<int64_t>& hidden, int64_t mask_id) {
  STRATA_CHECK(!hidden.empty(), "no hidden place to choose from");
  int64_t best = hidden[0];
  double best_probability = -1;
  for (const int64_t place : hidden) {
    const Tensor row = logits_TV.select(0, place).detach().to(at::kCPU, at::kDouble).contiguous();
    const double* logits = row.const_data_ptr<double>();
    double most = -INFINITY;
    for (int64_t id = 0; id < row.size(0); ++id) {
      if (id != mask_id) most = std::max(most, logits[id]);
    }
    double sum = 0;
    for (int64_t id = 0; id < row.size(0); ++id) {
      if (id != mask_id) sum += std::exp(logits[id] - most);
    }
    if (1 / sum > best_probability) {
      best_probability = 1 / sum;
      best = place;
    }
  }
  return best;
}

std::vector<int32_t> fill_hidden(ParallelManager& model, std::vector<int32_t> ids, int64_t mask_id,
                                 const SamplingOptions& options, int64_t sample,
                                 const std::function<void(int64_t, int32_t)>& each) {
  if (model.spec().causal()) {
    throw ConfigError("model.name", model.spec().family(), "a bidirectional family",
                      " (this one continues texts)");
  }
  std::vector<int64_t> hidden;
  for (size_t t = 0; t < ids.size(); ++t) {
    if (ids[t] == mask_id) hidden.push_back(static_cast<int64_t>(t));
  }
  if (hidden.empty()) {
    throw ConfigError("sample.prompt", "a text without hidden places",
                      "at least one occurrence of sample.mask",
                      cat(" (", model.spec().family(), " fills hidden tokens)"));
  }
  const int64_t most = model.spec().max_positions();
  if (most > 0 && static_cast<int64_t>(ids.size()) > most) {
    throw ConfigError("sample.prompt", cat(ids.size(), " tokens"), cat("at most ", most));
  }
  Communicator& job = model.pool().job();
  const int64_t multiple = infill_detail::token_multiple(model.plan());
  while (!hidden.empty()) {
    const Tensor logits_TV = model.logits(infill_detail::batch_of(ids, multiple)).select(0, 0);
    int64_t chosen[2] = {0, 0};  // place, id
    std::string bytes(sizeof chosen, '\0');
    if (job.rank() == 0) {
      chosen[0] = most_certain(logits_TV, hidden, mask_id);
      const Tensor row = logits_TV.select(0, chosen[0]).to(at::kCPU, at::kDouble).clone();
      if (mask_id < row.size(0)) row.slice(0, mask_id, mask_id + 1).fill_(-INFINITY);
      chosen[1] = choose_token(row, options, sample, chosen[0]);
      std::memcpy(bytes.data(), chosen, sizeof chosen);
    }
    job.broadcast_bytes(bytes, 0);
    std::memcpy(chosen, bytes.data(), sizeof chosen);
    ids[static_cast<size_t>(chosen[0])] = static_cast<int32_t>(chosen[1]);
    hidden.erase(std::find(hidden.begin(), hidden.end(), chosen[0]));
    if (each) each(chosen[0], static_cast<int32_t>(chosen[1]));
  }
  return ids;
}

}  // namespace strata
