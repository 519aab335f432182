#pragma once
// Numbers of a run for programs: metrics.jsonl, one JSON object per step, written by rank 0 as the
// step ends.
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/io/file.h"

namespace strata {

// Matrix Nuclear-Norm of what a layer hands on (launch/hidden_states.h).
struct LayerNuclearNorm {
  std::string layer;        // "model.layers.3"
  double nuclear_norm = 0;  // mean over rows
  double per_token = 0;     // the same divided by T, as the paper reports it
};

// Mixing matrices of residual streams (residual = mhc_lite | mhc | hc).
struct StreamReport {
  double sum_gap = 0;   // largest |row or column sum - 1| of any token and sub-layer
  double diagonal = 0;  // mean share of a stream that stays in its place
  // Of the product of the sub-layers' mean matrices: the largest weight that arrives at a stream,
  // and that leaves one.
  double forward_gain = 0, backward_gain = 0;
};

struct EvalResult {
  double loss = 0;      // mean over counted labels, natural logarithm
  double accuracy = 0;  // part of the labels predicted right
  int64_t counted = 0, rows = 0;
  std::optional<double> bits_per_byte;
  double seconds = 0;
  std::vector<LayerNuclearNorm> hidden;  // where asked for
  std::optional<StreamReport> streams;   // of models that have several

  double perplexity() const;
};

struct StepRecord {
  int64_t step = 0;  // steps done, this one included
  double loss = 0, grad_norm = 0, lr = 0;
  bool skipped = false;
  int64_t tokens = 0, samples = 0;  // since the start of the run
  double seconds = 0, tokens_per_s = 0;
  double flops_utilisation = 0;  // 0..1 of the measured peak
  double data_wait_s = 0, reduction_wait_s = 0;
  int64_t memory_bytes = 0;  // peak resident size of rank 0
  std::optional<EvalResult> eval;
};

// One line without its newline. Numbers read back equal; NaN is null.
std::string metrics_line(const StepRecord& record);

class MetricsFile {
 public:
  // Opens for appending, after dropping every line of a step after `last_step` and a line cut short
  // by a crash: what is left belongs to one uninterrupted run. Throws StorageError.
  MetricsFile(const std::filesystem::path& path, int64_t last_step);
  // A failure is logged once a minute, not thrown: a run is worth more than its log.
  void append(const StepRecord& record);

 private:
  io::File file_;
  double last_warning_s_ = -1e9;
};

// What is kept of a metrics file's text. Pure.
std::string metrics_until(const std::string& text, int64_t last_step);

}  // namespace strata
