#pragma once
// Where weights come from: the initialisation, a safetensors folder, a checkpoint. Reads logical
// boxes, so any layout can ask for exactly its part, in fp32 or fp64 for masters.
#include <memory>
#include <string>

#include "parallel/nn/model_spec.h"
#include "parallel/nn/parameter.h"

namespace strata {

class CheckpointReader;

class WeightSource {
 public:
  virtual ~WeightSource() = default;
  // Elements of `box` as a CPU tensor of that extent in `dtype`.
  virtual Tensor read(const Parameter& parameter, const Box& box, at::ScalarType dtype) const = 0;
  virtual std::string description() const = 0;  // for messages: "initial values of seed 7"
};

std::unique_ptr<WeightSource> make_initial_weights(uint64_t seed);
// The family's own files (spec.foreign). Throws CheckpointError with one table of everything
// missing, unexpected or of another shape.
std::unique_ptr<WeightSource> make_safetensors_weights(const std::string& path,
                                                       const ModelSpec& spec);

// A checkpoint of Strata: /model/<name>.
std::unique_ptr<WeightSource> make_checkpoint_weights(
    std::shared_ptr<const CheckpointReader> reader);

}  // namespace strata
