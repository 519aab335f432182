#pragma once
// The layers that one rank runs, with their communicators and buffers: what build() of the manager
// makes of a plan.
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "parallel/comm/pool.h"
#include "parallel/engine/layer_runner.h"
#include "parallel/engine/manager.h"
#include "parallel/engine/parameter_buffers.h"
#include "parallel/nn/model_spec.h"

namespace strata {

struct StageLayer {
  int index = 0;  // in the model
  ParallelLayout layout;
  std::unique_ptr<LayerRunner> runner;
  std::vector<Parameter*> parameters;
};

class Stage {
 public:
  // Collective over the job.
  Stage(const ModelSpec& spec, const Plan& plan, CommPool& pool, const ManagerOptions& options);

  int index() const noexcept { return index_; }       // of this stage
  Communicator& ranks() noexcept { return *ranks_; }  // of this stage
  Communicator& pipe() noexcept { return *pipe_; }    // equal ranks of all stages
  ParameterBuffers& buffers() noexcept { return buffers_; }
  const ParameterBuffers& buffers() const noexcept { return buffers_; }
  // Matrices that ranks of this stage update as wholes; expensive ones first.
  const MatrixPlacement& matrices() const noexcept { return matrices_; }
  std::vector<StageLayer>& layers() noexcept { return layers_; }  // increasing
  StageLayer& layer(int index);
  // First and last layer of one of this stage's chunks, in numbers of the model.
  std::pair<int, int> chunk(int chunk) const;
  bool holds_last_layer() const;

 private:
  void create_groups(const ModelSpec& spec, const Plan& plan, CommPool& pool);
  ParallelLayout layout_of(int layer, const Plan& plan, CommPool& pool,
                           const ManagerOptions& options) const;
  void build_layers(const ModelSpec& spec, const Plan& plan, CommPool& pool,
                    const ManagerOptions& options);
  std::vector<MatrixLayer> matrix_layers() const;
  std::map<std::string, ParameterBuffers::Tie> ties(const ModelSpec& spec, const Plan& plan,
                                                    CommPool& pool,
                                                    const ManagerOptions& options) const;

  int index_ = 0, layer_count_ = 0;
  Communicator* ranks_ = nullptr;
  Communicator* pipe_ = nullptr;
  std::map<int, std::set<int>> replica_sizes_;  // by tp: of groups with equal replicated units
  std::vector<StageLayer> layers_;
  std::vector<std::pair<int, int>> chunks_;
  ParameterBuffers buffers_;
  MatrixPlacement matrices_;
};

}  // namespace strata
