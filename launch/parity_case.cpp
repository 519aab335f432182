#include "launch/parity_case.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/zeros_like.h>

#include "core/error.h"
#include "core/io/file.h"
#include "core/io/safetensors.h"
#include "core/text.h"

namespace strata {
namespace parity_case_detail {

constexpr const char* kExpected = "expected.safetensors";

Tensor wanted(const io::SafetensorsReader& reader, const std::string& name) {
  if (!reader.contains(name))
    throw DataError(cat(kExpected, ": tensor \"", name, "\" is missing."));
  return reader.read(name);
}

Tensor tokens_BT(const io::SafetensorsReader& reader, const std::string& name) {
  const Tensor t = wanted(reader, name).to(at::kLong);
  if (t.dim() != 2 || t.numel() == 0) {
    throw DataError(cat(kExpected, ": \"", name, "\" has shape ", shape_text(t.sizes()),
                        ", allowed: [rows, tokens]."));
  }
  return t;
}

void check_range(const Tensor& ids, const std::string& name, int64_t vocabulary, bool labels) {
  const int64_t least = ids.min().item<int64_t>(), most = ids.max().item<int64_t>();
  const bool low = least < 0 && !(labels && least == kIgnoreLabel);
  if (low || most >= vocabulary) {
    throw DataError(cat(kExpected, ": \"", name, "\" holds id ", low ? least : most,
                        ", allowed: 0 to ", vocabulary - 1, labels ? " and -100." : "."));
  }
}

// [rows, T] from [rows, T] or [1, T].
Tensor for_rows(const Tensor& t, const Tensor& tokens, const std::string& name) {
  if (t.dim() != 2 || t.size(1) != tokens.size(1) ||
      (t.size(0) != 1 && t.size(0) != tokens.size(0))) {
    throw DataError(cat(kExpected, ": \"", name, "\" has shape ", shape_text(t.sizes()),
                        ", the batch has ", shape_text(tokens.sizes()), "."));
  }
  return t.expand({tokens.size(0), tokens.size(1)}).contiguous();
}

// Positions that start again where the segment changes.
Tensor positions_of(const Tensor& segments) {
  Tensor out = default_positions(segments.size(0), segments.size(1));
  const int32_t* s = segments.const_data_ptr<int32_t>();
  int64_t* p = out.mutable_data_ptr<int64_t>();
  const int64_t T = segments.size(1);
  for (int64_t i = 0; i < segments.numel(); ++i) {
    const bool goes_on = i % T != 0 && s[i] == s[i - 1];
    p[i] = goes_on ? p[i - 1] + 1 : 0;
  }
  return out;
}

Batch read_batch(const io::SafetensorsReader& reader, int64_t vocabulary) {
  Batch batch;
  batch.tokens = tokens_BT(reader, "input_ids");
  batch.labels = tokens_BT(reader, "targets");
  if (batch.labels.sizes() != batch.tokens.sizes()) {
    throw DataError(cat(kExpected, ": \"targets\" has shape ", shape_text(batch.labels.sizes()),
                        ", \"input_ids\" ", shape_text(batch.tokens.sizes()), "."));
  }
  check_range(batch.tokens, "input_ids", vocabulary, false);
  check_range(batch.labels, "targets", vocabulary, true);
  batch.positions = default_positions(batch.rows(), batch.length());
  if (reader.contains("attention_mask")) {
    const Tensor mask =
        for_rows(reader.read("attention_mask").to(at::kInt), batch.tokens, "attention_mask");
    batch.segments = mask.ne(0).to(at::kInt) - 1;  // 1 -> 0, 0 -> -1
  } else if (reader.contains("segments")) {
    batch.segments = for_rows(reader.read("segments").to(at::kInt), batch.tokens, "segments");
    batch.positions = positions_of(batch.segments);
  }
  for (const char* name : {"positions", "position_ids"}) {
    if (reader.contains(name))
      batch.positions = for_rows(reader.read(name).to(at::kLong), batch.tokens, name);
  }
  return batch;
}

std::optional<ParityCase::Trace> read_trace(const io::SafetensorsReader& reader,
                                            const ModelSpec& model) {
  if (!reader.contains("trace.tokens")) return std::nullopt;
  ParityCase::Trace trace;
  trace.tokens = reader.read("trace.tokens").to(at::kLong);
  if (trace.tokens.dim() != 3) {
    throw DataError(cat(kExpected, ": \"trace.tokens\" has shape ",
                        shape_text(trace.tokens.sizes()), ", allowed: [steps, rows, tokens]."));
  }
  check_range(trace.tokens, "trace.tokens", model.vocabulary(), false);
  if (reader.contains("trace.targets")) {
    trace.labels = reader.read("trace.targets").to(at::kLong);
  } else {
    // The tokens are their own labels, one place on.
    trace.labels = at::full_like(trace.tokens, kIgnoreLabel);
    const int64_t T = trace.tokens.size(2);
    if (T > 1) trace.labels.narrow(2, 0, T - 1).copy_(trace.tokens.narrow(2, 1, T - 1));
  }
  trace.loss = wanted(reader, "trace.loss").to(at::kDouble);
  trace.grad_norm = wanted(reader, "trace.grad_norm").to(at::kDouble);
  if (trace.loss.numel() != trace.tokens.size(0) ||
      trace.grad_norm.numel() != trace.tokens.size(0)) {
    throw DataError(cat(kExpected,
                        ": \"trace.loss\" and \"trace.grad_norm\" need one number for each of the ",
                        trace.tokens.size(0), " steps."));
  }
  if (reader.contains("trace.final_param_norm")) {
    trace.final_param_norm = reader.read("trace.final_param_norm").to(at::kDouble).item<double>();
  }
  return trace;
}

// Adds `count` places of `value` at the end of dimension `dim` (0: rows, 1: tokens).
Tensor extended(const Tensor& t, int64_t dim, int64_t count, int64_t value) {
  if (!t.defined() || count == 0) return t;
  const std::vector<int64_t> pad =
      dim == 1 ? std::vector<int64_t>{0, count} : std::vector<int64_t>{0, 0, 0, count};
  return at::constant_pad_nd(t, pad, value);
}

}  // namespace parity_case_detail

ParityCase read_parity_case(const std::filesystem::path& folder, const ModelOptions& options) {
  using namespace parity_case_detail;
  for (const char* name : {"config.json", "model.safetensors", kExpected}) {
    if (name == std::string("model.safetensors") &&
        std::filesystem::exists(folder / "model.safetensors.index.json")) {
      continue;
    }
    if (!std::filesystem::exists(folder / name)) {
      throw DataError(cat((folder / name).string(),
                          " is missing. A parity folder has config.json, model.safetensors and ",
                          kExpected, "."));
    }
  }
  ParityCase out;
  out.folder = folder;
  const std::filesystem::path config = folder / "config.json";
  out.model = make_model_from_json(io::read_text(config), config.string(), options);
  const io::SafetensorsReader reader((folder / kExpected).string());
  out.batch = read_batch(reader, out.model->vocabulary());
  if (reader.contains("logits")) out.logits = reader.read("logits").to(at::kDouble);
  if (reader.contains("loss")) out.loss = reader.read("loss").to(at::kDouble).item<double>();
  for (const std::string& name : reader.names()) {
    // "grad.mixer_in" and "grad.mixer_out" are activations of one layer.
    if (!starts_with(name, "grad.") || starts_with(name, "grad.mixer_")) continue;
    out.gradients[name.substr(5)] = reader.read(name).to(at::kDouble);
  }
  out.trace = read_trace(reader, *out.model);
  return out;
}

Batch pad_batch(const Batch& batch, int64_t row_multiple, int64_t time_multiple, bool causal) {
  using parity_case_detail::extended;
  const auto missing = [](int64_t have, int64_t multiple) {
    return (multiple - have % multiple) % multiple;
  };
  const int64_t rows = missing(batch.rows(), row_multiple),
                time = missing(batch.length(), time_multiple);
  Batch out = batch;
  if (time > 0 && !causal && !out.segments.defined())
    out.segments = at::zeros_like(out.tokens, at::kInt);
  out.tokens = extended(extended(out.tokens, 1, time, 0), 0, rows, 0);
  out.labels = extended(extended(out.labels, 1, time, kIgnoreLabel), 0, rows, kIgnoreLabel);
  out.positions = extended(out.positions, 1, time, 0);
  if (rows > 0)
    out.positions = at::cat({out.positions, default_positions(rows, out.positions.size(1))});
  // Added rows are real tokens (a row of padding alone has nothing to attend to); added tokens are
  // padding, told from the data's own where a model may look at that.
  out.segments = extended(extended(out.segments, 1, time, causal ? -1 : -2), 0, rows, 0);
  return out;
}

}  // namespace strata
