#include "parallel/engine/stage.h"

#include <algorithm>
#include <tuple>

#include "core/error.h"
#include "core/text.h"
#include "parallel/engine/pipeline_links.h"
#include "parallel/plan/mesh.h"

namespace strata {
namespace stage_detail {

// A dp group in shards (consecutive members) and copies (equal places of all shard groups).
std::vector<int> shard_group(const std::vector<int>& dp, int shards, int index) {
  const int first = index / shards * shards;
  return {dp.begin() + first, dp.begin() + first + shards};
}
std::vector<int> copy_group(const std::vector<int>& dp, int shards, int index) {
  std::vector<int> out;
  for (int at = index % shards; at < static_cast<int>(dp.size()); at += shards)
    out.push_back(dp[static_cast<size_t>(at)]);
  return out;
}

std::vector<int> pipe_group(const Plan& plan, int rank) {
  std::vector<int> out;
  for (int stage = 0; stage < plan.stages; ++stage)
    out.push_back(stage * plan.ranks_per_stage() + rank % plan.ranks_per_stage());
  return out;
}

std::vector<int> stage_group(const Plan& plan, int stage) {
  std::vector<int> out;
  for (int g = 0; g < plan.ranks_per_stage(); ++g)
    out.push_back(stage * plan.ranks_per_stage() + g);
  return out;
}

// The stages that use a shared parameter, the first being its owner's.
std::vector<int> stages_of(const SharedParameter& shared, const Plan& plan) {
  std::vector<int> out;
  for (const int layer : shared.layers) out.push_back(plan.stage_of(layer));
  std::sort(out.begin(), out.end());
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

// Rank `index` of each of them.
std::vector<int> across(const std::vector<int>& stages, const Plan& plan, int index) {
  std::vector<int> out;
  for (const int stage : stages) out.push_back(stage * plan.ranks_per_stage() + index);
  return out;
}

}  // namespace stage_detail

Stage::Stage(const ModelSpec& spec, const Plan& plan, CommPool& pool, const ManagerOptions& options)
    : index_(pool.job().rank() / plan.ranks_per_stage()),
      layer_count_(spec.layer_count()),
      buffers_(options.device, options.canonical_sums) {
  create_groups(spec, plan, pool);
  ranks_ = &pool.group(stage_detail::stage_group(plan, index_));
  pipe_ = &pool.group(stage_detail::pipe_group(plan, pool.job().rank()));
  build_layers(spec, plan, pool, options);
}

void Stage::create_groups(const ModelSpec& spec, const Plan& plan, CommPool& pool) {
  std::vector<std::vector<int>> groups;
  for (int rank = 0; rank < plan.world_size; ++rank)
    groups.push_back(stage_detail::pipe_group(plan, rank));
  for (int stage = 0; stage < plan.stages; ++stage)
    groups.push_back(stage_detail::stage_group(plan, stage));
  const auto metas = parameter_metas(spec);
  std::set<std::tuple<int, int, int>> seen;
  for (const LayerStrategy& s : plan.layers) {
    if (!seen.insert({s.dp, s.tp, s.shard_count()}).second) continue;
    const Mesh mesh(plan.world_size, plan.stages, s);
    for (auto& ranks : mesh.all_groups(MeshAxis::Tensor)) groups.push_back(std::move(ranks));
    for (const auto& dp : mesh.all_groups(MeshAxis::Data)) {
      for (int index = 0; index < s.dp; ++index) {
        groups.push_back(stage_detail::shard_group(dp, s.shard_count(), index));
        groups.push_back(stage_detail::copy_group(dp, s.shard_count(), index));
      }
      groups.push_back(dp);
    }
    std::set<int>& sizes = replica_sizes_[s.tp];
    for (const ParamMeta& meta : metas) {
      const int copies = meta.shard.cut() ? replicas(meta.shard, meta.logical, s.tp) : 1;
      if (copies > 1 && copies < s.tp) sizes.insert(copies);
    }
    for (int size : sizes) {
      for (const auto& tp : mesh.all_groups(MeshAxis::Tensor)) {
        for (size_t at = 0; at < tp.size(); at += static_cast<size_t>(size))
          groups.emplace_back(tp.begin() + at, tp.begin() + at + size);
      }
    }
  }
  for (const SharedParameter& shared : spec.shared_parameters()) {
    const auto stages = stage_detail::stages_of(shared, plan);
    for (int g = 0; stages.size() > 1 && g < plan.ranks_per_stage(); ++g)
      groups.push_back(stage_detail::across(stages, plan, g));
  }
  std::erase_if(groups, [](const auto& ranks) { return ranks.size() == 1; });
  pool.create(std::move(groups));
  pool.create_channels(pipeline_pairs(plan));
}

ParallelLayout Stage::layout_of(int layer, const Plan& plan, CommPool& pool,
                                const ManagerOptions& options) const {
  const LayerStrategy& s = plan.layers[static_cast<size_t>(layer)];
  const int rank = pool.job().rank();
  const Mesh mesh(plan.world_size, plan.stages, s);
  const std::vector<int> tp = mesh.group(MeshAxis::Tensor, rank),
                         dp = mesh.group(MeshAxis::Data, rank);
  const Coordinates at = mesh.coordinates(rank);
  ParallelLayout::Parts parts;
  parts.strategy = s;
  parts.tp = &pool.group(tp);
  parts.dp = &pool.group(dp);
  parts.shards = &pool.group(stage_detail::shard_group(dp, s.shard_count(), at.dp));
  parts.copies = &pool.group(stage_detail::copy_group(dp, s.shard_count(), at.dp));
  for (int size : replica_sizes_.at(s.tp)) {
    const int first = at.tp / size * size;
    parts.replica_groups[size] =
        &pool.group(std::vector<int>(tp.begin() + first, tp.begin() + first + size));
  }
  parts.layer = static_cast<uint16_t>(layer);
  parts.device = options.device;
  parts.dtype = options.dtype;
  parts.seed = options.seed;
  parts.vocabulary_unit = options.vocabulary_unit;
  return ParallelLayout(parts);
}

void Stage::build_layers(const ModelSpec& spec, const Plan& plan, CommPool& pool,
                         const ManagerOptions& options) {
  const auto shared = ties(spec, plan, pool, options);
  chunks_.assign(static_cast<size_t>(plan.chunks), {layer_count_, -1});
  for (int l = 0; l < layer_count_; ++l) {
    if (plan.stage_of(l) != index_) continue;
    auto& [first, last] = chunks_[static_cast<size_t>(plan.chunk_of(l))];
    first = std::min(first, l);
    last = std::max(last, l);
    StageLayer layer{l, layout_of(l, plan, pool, options), nullptr, {}};
    auto module = spec.make_layer(l, layer.layout);
    for (const auto& owned : collect_layer(spec, l, *module))
      layer.parameters.push_back(owned.parameter);
    layer.runner = std::make_unique<LayerRunner>(
        std::move(module), layer.layout.strategy().recompute, layer.parameters);
    layers_.push_back(std::move(layer));
  }
  const std::vector<MatrixLayer> matrices = matrix_layers();
  const int ranks = plan.ranks_per_stage();
  const auto homes = matrix_homes(matrices, options.matrix_cost, ranks);
  for (const StageLayer& layer : layers_)
    buffers_.add_layer(layer.index, layer.layout, layer.parameters, shared, homes);
  matrices_ = place_matrices(
      matrices, options.matrix_cost, options.matrix_sharing, homes,
      [&](const Parameter& p, int shard) { return buffers_.held_by(p, shard); }, ranks,
      ranks_->rank());
  for (const auto& [first, last] : chunks_)
    STRATA_CHECK(first <= last, cat("stage ", index_, " has a chunk without layers"));
  buffers_.build();
}

// Every parameter of the stage once.
std::vector<MatrixLayer> Stage::matrix_layers() const {
  std::vector<MatrixLayer> out;
  std::set<std::string> seen;
  for (const StageLayer& layer : layers_) {
    MatrixLayer of{layer.index, layer.layout.strategy(), {}};
    for (Parameter* p : layer.parameters) {
      if (seen.insert(p->meta.name).second) of.parameters.push_back(p);
    }
    out.push_back(std::move(of));
  }
  return out;
}

std::map<std::string, ParameterBuffers::Tie> Stage::ties(const ModelSpec& spec, const Plan& plan,
                                                         CommPool& pool,
                                                         const ManagerOptions& options) const {
  std::map<std::string, ParameterBuffers::Tie> out;
  const int g = pool.job().rank() % plan.ranks_per_stage();
  for (const SharedParameter& shared : spec.shared_parameters()) {
    const auto stages = stage_detail::stages_of(shared, plan);
    ParameterBuffers::Tie tie;
    if (stages.size() > 1 && std::count(stages.begin(), stages.end(), index_) > 0) {
      tie.stages = &pool.group(stage_detail::across(stages, plan, g));
      tie.counted = index_ == stages.front();
    }
    tie.uses = shared.layers;
    if (shared.model_wide) {
      ParallelLayout::Parts parts;
      parts.strategy.dp = plan.ranks_per_stage();
      parts.dp = parts.copies = ranks_;
      parts.device = options.device;
      parts.dtype = options.dtype;
      parts.seed = options.seed;
      tie.layout.emplace(parts);
    }
    out[shared.name] = tie;
  }
  return out;
}

StageLayer& Stage::layer(int index) {
  const auto it = std::lower_bound(layers_.begin(), layers_.end(), index,
                                   [](const StageLayer& l, int i) { return l.index < i; });
  STRATA_CHECK(it != layers_.end() && it->index == index,
               cat("layer ", index, " is not of stage ", index_));
  return *it;
}

std::pair<int, int> Stage::chunk(int chunk) const { return chunks_.at(static_cast<size_t>(chunk)); }

bool Stage::holds_last_layer() const { return layers_.back().index == layer_count_ - 1; }

}  // namespace strata
