#pragma once
// Weights and gradients of all layers of this rank, in flat buffers by (layer, type of the values,
// tp ranks to sum over), tied parameters by themselves (parallel-runtime.md 5.2). What of them this
// rank owns is told by slices().
//
// Tied parameters: every layer that uses one has a buffer of its own for it. In one process they
// share the values and, unless sums are canonical, the gradient. Otherwise finish() adds the sums
// of the uses: locally, then over the ranks of the stages that hold the others. Model-wide ones
// (ParamMeta) have a layout of their own in which all ranks of a stage are replicas.
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "parallel/engine/gradient_buffer.h"
#include "parallel/engine/owned_slice.h"
#include "parallel/engine/value_buffer.h"

namespace strata {

struct BufferBytes {
  int64_t values = 0;     // weights held always
  int64_t gathered = 0;   // memory for whole weights under ZeRO 3
  int64_t gradients = 0;  // held over a step
  int64_t scratch = 0;    // for gradients on their way, ZeRO 2 and 3
};

class ParameterBuffers {
 public:
  ParameterBuffers(at::Device device, bool canonical) : pool_(device), canonical_(canonical) {}
  ParameterBuffers(const ParameterBuffers&) = delete;
  ParameterBuffers& operator=(const ParameterBuffers&) = delete;

  // What is known of a parameter that several layers share.
  struct Tie {
    Communicator* stages = nullptr;        // one rank of each stage, where several use it
    bool counted = true;                   // in the norm, by this process
    std::vector<int> uses;                 // its layers
    std::optional<ParallelLayout> layout;  // of a model-wide parameter: all ranks are replicas
  };
  // Which part of an aligned buffer a parameter lies in (matrix_owners.h); the others are cut
  // evenly.
  using Homes = std::map<const Parameter*, int>;
  // Collective over the layer's groups. Layers in increasing order; `ties` by parameter name.
  void add_layer(int layer, const ParallelLayout& layout, const std::vector<Parameter*>& parameters,
                 const std::map<std::string, Tie>& ties, const Homes& homes);
  void build();  // Collective, after the last add_layer

  // What of a trainable parameter's flat local part a shard of its layer has.
  Range held_by(const Parameter& parameter, int shard) const;

  // Weights. All are Collective over the layer's shards, in the same order on all its ranks.
  void fetch(int layer);    // ZeRO 3: starts to gather; otherwise nothing
  void need(int layer);     // they can be used now
  void release(int layer);  // ZeRO 3: until the next fetch they are not needed
  void values_changed();    // own parts were written: completes whole buffers

  // Gradients.
  void begin_step();
  void add(int layer, bool last);  // Collective; .grad() of one micro-batch, `last` of the step
  void finish();                   // Collective: all sums are complete afterwards

  const std::vector<OwnedSlice>& slices() const noexcept { return slices_; }
  const std::vector<OwnedSlice>& frozen() const noexcept { return frozen_; }  // without gradient
  BufferBytes bytes() const;
  double waited_s() const noexcept { return waited_s_; }  // for gradients, in the last step

 private:
  struct Group {
    std::vector<Parameter*> parameters;
    std::unique_ptr<ValueBuffer> values;
    std::shared_ptr<GradientBuffer> gradients;  // none: frozen
    Group* first_use = nullptr;                 // of a tied parameter in this process
    ScratchRing* ring = nullptr;
    Communicator* stages = nullptr;
    std::vector<int> uses;  // layers of a tied parameter
    Communicator* shards = nullptr;
    bool shares_gradient() const { return first_use && first_use->gradients == gradients; }
  };
  void add_group(int layer, const ParallelLayout& layout, std::vector<Parameter*> parameters,
                 const Tie* tie, const Homes& homes);
  bool by_layer(const Group& group) const;
  void sum_by_layer(Group& first_use);
  void add_slices(const Group& group, const ParallelLayout& layout, const FlatLayout& flat,
                  bool counted);

  BlockPool pool_;
  bool canonical_;
  std::map<int, std::vector<std::unique_ptr<Group>>> layers_;
  std::map<std::string, Group*> first_uses_;
  std::map<const Parameter*, std::pair<const Group*, size_t>> places_;  // and number in the group
  std::map<std::pair<Communicator*, at::ScalarType>, std::unique_ptr<ScratchRing>> rings_;
  std::vector<OwnedSlice> slices_, frozen_;
  double waited_s_ = 0;
};

}  // namespace strata
