#pragma once
// Rows of token ids as every layer sees them. Labels are already aligned with the logits: models
// never shift.
#include <cstdint>

#include "core/tensor.h"

namespace strata {

class GenerationCache;
class Probe;

inline constexpr int64_t kIgnoreLabel = -100;  // the only ignored label

struct Batch {
  Tensor tokens;  // [B, T] int64
  Tensor labels;  // [B, T] int64, kIgnoreLabel where there is no loss; undefined when only logits
                  // are wanted
  Tensor positions;  // [B, T] int64, restarts at each document
  Tensor segments;   // [B, T] int32, equal within a document, negative = padding: -1 where the
                     // data has it, -2 where it was only added to make tokens divisible; undefined:
                     // one document per row
  int64_t step = 0;  // optimizer step, for dropout keys
  int64_t first_row = 0;  // number of row 0 within the step's global batch, for dropout keys
  bool training = false;  // dropout is active
  // Set while a text is continued: the batch holds the tokens that follow those it remembers, and
  // all ranks hold all rows. Such batches are not packed (no segments).
  GenerationCache* cache = nullptr;
  Probe* probe = nullptr;  // set in evaluations that look inside (parallel/nn/probe.h)

  int64_t rows() const { return tokens.defined() ? tokens.size(0) : 0; }
  int64_t length() const { return tokens.defined() ? tokens.size(1) : 0; }
  // Rows [begin, end) as views; first_row moves along.
  Batch slice(int64_t begin, int64_t end) const;
};

// Positions 0, 1, 2, ... in every row: [rows, length] int64.
Tensor default_positions(int64_t rows, int64_t length);

}  // namespace strata
