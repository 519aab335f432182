#pragma once
// A folder of reference results: config.json and model.safetensors as the family's ecosystem writes
// them, and expected.safetensors with what the reference computed in fp64 (batch, logits, loss,
// gradients, maybe a short training).
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "core/batch.h"
#include "models/register.h"

namespace strata {

struct ParityCase {
  std::filesystem::path folder;
  std::shared_ptr<const ModelSpec> model;
  Batch batch;    // [B, T]
  Tensor logits;  // [B, T, V] fp64; undefined when not given
  std::optional<double> loss;
  std::map<std::string, Tensor> gradients;  // by the family's own tensor names and forms

  // Steps of AdamW (learning rate 1e-3, betas 0.9 and 0.95, eps 1e-8, decay 0.1 on tensors of two
  // and more dimensions) with clipping at 1.
  struct Trace {
    Tensor tokens;           // [steps, B, T]
    Tensor labels;           // [steps, B, T], aligned with the logits
    Tensor loss, grad_norm;  // [steps] fp64
    std::optional<double> final_param_norm;
  };
  std::optional<Trace> trace;
};

// Throws DataError for what is missing or does not fit together, ConfigError for an unknown model.
ParityCase read_parity_case(const std::filesystem::path& folder, const ModelOptions& options = {});

// The batch with rows added so that `row_multiple` divides them and tokens so that `time_multiple`
// divides those; what is added carries no label, and is padding to bidirectional models.
Batch pad_batch(const Batch& batch, int64_t row_multiple, int64_t time_multiple, bool causal);

}  // namespace strata
