#include "launch/metrics.h"

#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/log.h"
#include "core/text.h"

namespace strata {

double EvalResult::perplexity() const { return std::exp(loss); }

std::string metrics_line(const StepRecord& r) {
  nlohmann::ordered_json json = {{"step", r.step},
                                 {"loss", r.loss},
                                 {"grad_norm", r.grad_norm},
                                 {"lr", r.lr},
                                 {"tokens", r.tokens},
                                 {"samples", r.samples},
                                 {"seconds", r.seconds},
                                 {"tokens_per_s", r.tokens_per_s},
                                 {"mfu", r.flops_utilisation},
                                 {"data_wait_s", r.data_wait_s},
                                 {"reduction_wait_s", r.reduction_wait_s},
                                 {"memory_bytes", r.memory_bytes}};
  if (r.skipped) json["skipped"] = true;
  if (r.eval) {
    json["eval_loss"] = r.eval->loss;
    json["eval_perplexity"] = r.eval->perplexity();
    json["eval_accuracy"] = r.eval->accuracy;
    json["eval_rows"] = r.eval->rows;
    if (r.eval->bits_per_byte) json["eval_bits_per_byte"] = *r.eval->bits_per_byte;
    if (const auto& s = r.eval->streams) {
      json["eval_stream_sum_gap"] = s->sum_gap;
      json["eval_stream_diagonal"] = s->diagonal;
      json["eval_stream_forward_gain"] = s->forward_gain;
      json["eval_stream_backward_gain"] = s->backward_gain;
    }
  }
  return json.dump();
}

std::string metrics_until(const std::string& text, int64_t last_step) {
  std::string out;
  size_t begin = 0;
  for (size_t end = text.find('\n'); end != std::string::npos;
       begin = end + 1, end = text.find('\n', begin)) {
    const std::string line = text.substr(begin, end - begin);
    const auto json = nlohmann::json::parse(line, nullptr, false);
    const bool whole =
        json.is_object() && json.contains("step") && json["step"].is_number_integer();
    if (whole && json["step"].get<int64_t>() <= last_step) out += line + "\n";
  }
  return out;
}

MetricsFile::MetricsFile(const std::filesystem::path& path, int64_t last_step) {
  std::string kept;
  if (std::filesystem::exists(path)) kept = metrics_until(io::read_text(path), last_step);
  io::write_text_atomic(path, kept);
  file_ = io::File(path, io::File::Mode::ReadWrite);
}

void MetricsFile::append(const StepRecord& record) {
  try {
    const std::string line = metrics_line(record) + "\n";
    file_.write_at(file_.size(), line.data(), line.size());
  } catch (const StorageError& error) {
    const double now =
        std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
    if (now - last_warning_s_ < 60) return;
    last_warning_s_ = now;
    log::warn("metrics.jsonl: ", error.what(), " Training goes on without this line.");
  }
}

}  // namespace strata
