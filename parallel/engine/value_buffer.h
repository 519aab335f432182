#pragma once
// Weights of a group of parameters of one layer in one flat buffer. Of its shards().size() equal
// parts this rank owns and updates one (all of it without ZeRO):
//
//   ZeRO 0, 1, 2   the whole buffer always exists; after an update gather() completes it
//   ZeRO 3         only the own part exists; fetch() / need() gather the whole before use into
//                  memory that release() gives back
#include <memory>
#include <optional>
#include <vector>

#include "parallel/engine/flat_layout.h"
#include "parallel/engine/transient_tensor.h"
#include "parallel/nn/layout.h"
#include "parallel/nn/parameter.h"

namespace strata {

class ValueBuffer {
 public:
  // Collective over layout.shards(). Points every parameter's value into the buffer. `same`: values
  // of the same parameters elsewhere in this process (tied layers), whose memory is shared.
  ValueBuffer(const ParallelLayout& layout, const std::vector<Parameter*>& parameters,
              const FlatLayout& flat, ValueBuffer* same);

  const Tensor& own() const noexcept { return own_; }  // flat
  int64_t bytes() const;                               // held always

  Work gather();  // Collective over shards(): the whole from the parts; nothing at ZeRO 0 and 3
  void fetch(BlockPool& pool);  // Collective over shards(): ZeRO 3 starts to gather the whole
  void need();                  // waits for it
  void release(BlockPool& pool);

 private:
  ParallelLayout layout_;
  bool shared_;                   // with `same`
  std::vector<int64_t> borders_;  // of an aligned layout
  Tensor whole_, own_;
  std::optional<TransientTensor> transient_;
  Work in_flight_;
};

}  // namespace strata
