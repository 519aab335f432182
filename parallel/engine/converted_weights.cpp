#include "parallel/engine/converted_weights.h"

#include <ATen/TensorOperators.h>

#include <cmath>
#include <map>
#include <mutex>
#include <string_view>

#include "core/error.h"
#include "core/ops/low_rank.h"
#include "core/ops/monarch.h"
#include "core/text.h"

namespace strata {
namespace converted_weights_detail {

constexpr const char* kFirst = ".blkdiag1";
constexpr const char* kSecond = ".blkdiag2";
constexpr const char* kWeight = ".weight";
constexpr const char* kLowRankA = ".lowrank_a";
constexpr const char* kLowRankB = ".lowrank_b";

std::string stem(const std::string& name, const char* suffix) {
  return name.substr(0, name.size() - std::string(suffix).size());
}

class ConvertedWeights final : public WeightSource {
 public:
  ConvertedWeights(const WeightSource& source, const ModelSpec& from,
                   const ConversionOptions& options)
      : source_(source), options_(options) {
    for (const ParamMeta& meta : parameter_metas(from)) metas_[meta.name] = meta;
  }

  Tensor read(const Parameter& wanted, const Box& box, at::ScalarType dtype) const override {
    const std::string& name = wanted.meta.name;
    const ParamMeta* same = find(name);
    if (same != nullptr && same->logical == wanted.meta.logical) {
      Parameter p;
      p.meta = *same;
      return source_.read(p, box, dtype);
    }
    const std::lock_guard lock(mutex_);
    Tensor& made = made_[name];
    if (!made.defined()) make(wanted.meta);
    return box_view(made_.at(name), box).to(dtype).contiguous();
  }
  std::string description() const override { return cat(source_.description(), ", converted"); }

  const std::vector<ProjectionError>& errors() const { return errors_; }

 private:
  const ParamMeta* find(const std::string& name) const {
    const auto at = [&](const std::string& text) {
      const auto it = metas_.find(text);
      return it == metas_.end() ? nullptr : &it->second;
    };
    if (const ParamMeta* exact = at(name)) return exact;
    for (const auto& [a, b] : options_.aliases) {
      for (const auto& [from, to] : {std::pair(a, b), std::pair(b, a)}) {
        const size_t place = name.find(from);
        if (place == std::string::npos) continue;
        std::string other = name;
        if (const ParamMeta* found = at(other.replace(place, from.size(), to))) return found;
      }
    }
    return nullptr;
  }

  Tensor whole(const ParamMeta& meta) const {
    Parameter p;
    p.meta = meta;
    return source_.read(p, {Shape(meta.logical.size(), 0), meta.logical}, at::kDouble);
  }

  // Fills made_ with `wanted` and what comes with it.
  void make(const ParamMeta& wanted) const {
    const std::string& name = wanted.name;
    if (ends_with(name, kWeight) && wanted.logical.size() == 2) {
      const std::string linear = stem(name, kWeight);
      const ParamMeta *first = find(linear + kFirst), *second = find(linear + kSecond);
      const int64_t out = wanted.logical[0], in = wanted.logical[1];
      if (first != nullptr && second != nullptr) {
        made_[name] = ops::monarch_to_dense(whole(*first), whole(*second), out, in);
        return;
      }
      const ParamMeta *a = find(linear + kLowRankA), *b = find(linear + kLowRankB);
      if (a != nullptr && b != nullptr) {
        made_[name] = whole(*a).matmul(whole(*b));
        return;
      }
      const ParamMeta* blocks = find(name);
      if (blocks != nullptr && blocks->logical.size() == 3) {
        made_[name] = ops::block_diagonal_to_dense(whole(*blocks), out, in, options_.shuffled);
        return;
      }
    }
    for (const char* suffix : {kLowRankA, kLowRankB}) {
      if (!ends_with(name, suffix)) continue;
      const std::string linear = stem(name, suffix);
      const ParamMeta* dense = find(linear + kWeight);
      if (dense == nullptr || dense->logical.size() != 2) break;
      const int64_t rank = wanted.logical[std::string_view(suffix) == kLowRankA ? 1 : 0];
      return truncate(linear, whole(*dense), rank);
    }
    for (const char* suffix : {kFirst, kSecond, kWeight}) {
      if (!ends_with(name, suffix) || wanted.logical.size() != 3) continue;
      const std::string linear = stem(name, suffix);
      const ParamMeta* dense = find(linear + kWeight);
      if (dense == nullptr || dense->logical.size() != 2) break;
      return project(linear, wanted.logical[0], std::string_view(suffix) == kWeight, whole(*dense));
    }
    throw CheckpointError(cat(name, " ", shape_text(wanted.logical), " is neither in ",
                              source_.description(), " nor can it be made from what is there"));
  }

  void project(const std::string& linear, int64_t blocks, bool block_diagonal,
               const Tensor& dense) const {
    Tensor near;
    if (block_diagonal) {
      const Tensor w = ops::project_to_block_diagonal(dense, blocks, options_.shuffled);
      near = ops::block_diagonal_to_dense(w, dense.size(0), dense.size(1), options_.shuffled);
      made_[linear + kWeight] = w;
    } else {
      const auto f = ops::project_to_monarch(dense, blocks);
      near = ops::monarch_to_dense(f.w1_KQP, f.w2_LSR, dense.size(0), dense.size(1));
      made_[linear + kFirst] = f.w1_KQP;
      made_[linear + kSecond] = f.w2_LSR;
    }
    const double size = dense.norm().item<double>();
    errors_.push_back({linear, size > 0 ? (dense - near).norm().item<double>() / size : 0});
  }

  void truncate(const std::string& linear, const Tensor& dense, int64_t rank) const {
    ops::LowRankFactors f = ops::low_rank_factors(dense, rank);
    made_[linear + kLowRankA] = std::move(f.A_OK);
    made_[linear + kLowRankB] = std::move(f.B_KI);
    const double size = dense.norm().item<double>();
    errors_.push_back({linear, size > 0 ? std::sqrt(f.squared_error) / size : 0});
  }

  const WeightSource& source_;
  ConversionOptions options_;
  std::map<std::string, ParamMeta> metas_;
  mutable std::mutex mutex_;
  mutable std::map<std::string, Tensor> made_;  // fp64, whole
  mutable std::vector<ProjectionError> errors_;
};

}  // namespace converted_weights_detail

std::unique_ptr<WeightSource> make_converted_weights(const WeightSource& source,
                                                     const ModelSpec& from,
                                                     const ConversionOptions& options) {
  return std::make_unique<converted_weights_detail::ConvertedWeights>(source, from, options);
}

const std::vector<ProjectionError>& projection_errors(const WeightSource& converted) {
  const auto* weights = dynamic_cast<const converted_weights_detail::ConvertedWeights*>(&converted);
  STRATA_CHECK(weights != nullptr, "these weights are not converted");
  return weights->errors();
}

}  // namespace strata
