#include <cmath>
#include <nlohmann/json.hpp>

#include "core/table.h"
#include "core/text.h"
#include "parallel/checkpoint/inspect.h"

namespace strata {
namespace inspect_text_detail {

using Table = std::vector<std::vector<std::string>>;

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.4g", value);
  return text;
}

// JSON has no infinities: they are written as texts.
nlohmann::json number_json(double value) {
  if (std::isfinite(value)) return value;
  return short_number(value);
}

nlohmann::json state_json(const CheckpointState& state) {
  nlohmann::json out = nlohmann::json::object();
  for (const auto& [key, value] : state) {
    const nlohmann::json parsed = nlohmann::json::parse(value, nullptr, false);
    out[key] = parsed.is_discarded() ? nlohmann::json(value) : parsed;
  }
  return out;
}

std::string dump(const nlohmann::json& json) {
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace inspect_text_detail

std::string list_text(const std::vector<CheckpointRow>& rows) {
  if (rows.empty()) return "no checkpoints\n";
  inspect_text_detail::Table table = {{"checkpoint", "written", "tokens", "size", "loss", "state"}};
  for (const CheckpointRow& row : rows) {
    table.push_back({row.name, row.time_utc.empty() ? "-" : row.time_utc, cat(row.tokens),
                     bytes_text(static_cast<double>(row.bytes)), row.loss.empty() ? "-" : row.loss,
                     row.problem.empty() ? "valid" : "damaged: " + row.problem});
  }
  return table_text(table);
}

std::string list_json(const std::vector<CheckpointRow>& rows) {
  nlohmann::json out = nlohmann::json::array();
  for (const CheckpointRow& row : rows) {
    out.push_back({{"name", row.name},
                   {"step", row.step},
                   {"tokens", row.tokens},
                   {"bytes", row.bytes},
                   {"written", row.time_utc},
                   {"valid", row.problem.empty()},
                   {"problem", row.problem}});
    if (!row.loss.empty()) out.back()["loss"] = nlohmann::json::parse(row.loss, nullptr, false);
  }
  return inspect_text_detail::dump(out);
}

std::string inspect_text(const CheckpointSummary& summary) {
  std::string out = table_text({
      {"directory", summary.directory.string()},
      {"step", cat(summary.step)},
      {"tokens", cat(summary.tokens)},
      {"samples", cat(summary.samples)},
      {"written", summary.time_utc},
      {"run", summary.run_id.empty() ? "-" : summary.run_id},
      {"resumed from", summary.parent.empty() ? "-" : summary.parent},
      {"fingerprint", summary.model_fingerprint.empty() ? "-" : summary.model_fingerprint},
      {"weights hash", summary.model_hash.empty() ? "-" : summary.model_hash},
      {"elements", cat(summary.elements)},
      {"data", bytes_text(static_cast<double>(summary.bytes))},
  });
  for (const auto& [alias, owner] : summary.aliases)
    out += cat("alias  ", alias, " = ", owner, "\n");
  for (const auto& [key, value] : summary.state) out += cat("state  ", key, " = ", value, "\n");
  for (const auto& [key, value] : summary.writer) out += cat("writer  ", key, " = ", value, "\n");
  inspect_text_detail::Table shards = {{"shard", "size", "pieces"}};
  for (const ShardRow& shard : summary.shards) {
    shards.push_back({shard.name, bytes_text(static_cast<double>(shard.bytes)), cat(shard.pieces)});
  }
  out += "\n" + table_text(shards);
  const bool statistics = !summary.tensors.empty() && summary.tensors[0].statistics.has_value();
  inspect_text_detail::Table tensors = {{"tensor", "type", "shape", "size", "pieces"}};
  if (statistics) {
    for (const char* column : {"least", "greatest", "mean", "rms", "nan", "inf"})
      tensors[0].push_back(column);
  }
  for (const TensorRow& row : summary.tensors) {
    tensors.push_back({row.path, dtype_name(row.info.dtype), shape_text(row.info.shape),
                       bytes_text(static_cast<double>(row.bytes)), cat(row.pieces)});
    if (!row.statistics) continue;
    const TensorStatistics& s = *row.statistics;
    for (const double value : {s.least, s.greatest, s.mean, s.rms}) {
      tensors.back().push_back(inspect_text_detail::short_number(value));
    }
    tensors.back().push_back(cat(s.nan));
    tensors.back().push_back(cat(s.infinite));
  }
  return out + "\n" + table_text(tensors);
}

std::string inspect_json(const CheckpointSummary& summary) {
  nlohmann::json out = {{"directory", summary.directory.string()},
                        {"step", summary.step},
                        {"tokens", summary.tokens},
                        {"samples", summary.samples},
                        {"written", summary.time_utc},
                        {"run_id", summary.run_id},
                        {"parent", summary.parent},
                        {"model_fingerprint", summary.model_fingerprint},
                        {"model_hash", summary.model_hash},
                        {"elements", summary.elements},
                        {"bytes", summary.bytes},
                        {"aliases", summary.aliases},
                        {"writer", summary.writer},
                        {"state", inspect_text_detail::state_json(summary.state)}};
  out["shards"] = nlohmann::json::array();
  for (const ShardRow& shard : summary.shards) {
    out["shards"].push_back(
        {{"name", shard.name}, {"bytes", shard.bytes}, {"pieces", shard.pieces}});
  }
  out["tensors"] = nlohmann::json::array();
  for (const TensorRow& row : summary.tensors) {
    nlohmann::json item = {{"path", row.path},
                           {"dtype", dtype_name(row.info.dtype)},
                           {"shape", row.info.shape},
                           {"bytes", row.bytes},
                           {"pieces", row.pieces}};
    if (row.statistics) {
      const TensorStatistics& s = *row.statistics;
      item["statistics"] = {{"least", s.least}, {"greatest", s.greatest}, {"mean", s.mean},
                            {"rms", s.rms},     {"nan", s.nan},           {"infinite", s.infinite}};
    }
    out["tensors"].push_back(std::move(item));
  }
  return inspect_text_detail::dump(out);
}

std::string verify_text(const VerifyReport& report) {
  std::string out = report.directory.string();
  if (report.problems.empty()) {
    out += report.full ? cat(": good; ", report.tensors, " tensors, ", report.blocks, " blocks, ",
                             bytes_text(static_cast<double>(report.bytes)), " checked\n")
                       : cat(": good; ", report.tensors, " tensors, data blocks not read\n");
    return out;
  }
  out += cat(": damaged, ", report.problems.size(),
             report.problems.size() == 1 ? " problem\n" : " problems\n");
  for (const std::string& problem : report.problems) out += "  " + problem + "\n";
  return out;
}

std::string verify_json(const VerifyReport& report) {
  return inspect_text_detail::dump({{"directory", report.directory.string()},
                                    {"depth", report.full ? "full" : "quick"},
                                    {"good", report.problems.empty()},
                                    {"tensors", report.tensors},
                                    {"blocks", report.blocks},
                                    {"bytes", report.bytes},
                                    {"problems", report.problems}});
}

std::string diff_text(const DiffReport& report) {
  constexpr size_t kMost = 50;
  std::string out = cat(
      "A ", report.a.string(), "\nB ", report.b.string(), "\n", report.compared,
      " tensors in both, ", report.differences.size(), " differ",
      report.tolerance > 0 ? cat(" by more than ", number_text(report.tolerance)) : std::string(),
      report.by_hash ? " (weights equal by hash)" : "", "\n");
  if (!report.differences.empty()) {
    inspect_text_detail::Table table = {
        {"tensor", "different", "elements", "max abs", "max rel", ""}};
    for (size_t i = 0; i < std::min(kMost, report.differences.size()); ++i) {
      const TensorDifference& d = report.differences[i];
      if (d.structure.empty()) {
        table.push_back({d.path, cat(d.different), cat(d.elements),
                         inspect_text_detail::short_number(d.max_absolute),
                         inspect_text_detail::short_number(d.max_relative)});
      } else {
        table.push_back({d.path, "-", cat(d.elements), "-", "-", d.structure});
      }
    }
    out += table_text(table);
    if (report.differences.size() > kMost)
      out += cat("... and ", report.differences.size() - kMost, " more\n");
  }
  if (!report.config.empty()) {
    out += "config.ini:\n";
    for (const std::string& line : report.config) out += "  " + line + "\n";
  }
  return out;
}

std::string diff_json(const DiffReport& report) {
  nlohmann::json differences = nlohmann::json::array();
  for (const TensorDifference& d : report.differences) {
    differences.push_back({{"path", d.path},
                           {"structure", d.structure},
                           {"elements", d.elements},
                           {"different", d.different},
                           {"max_absolute", inspect_text_detail::number_json(d.max_absolute)},
                           {"max_relative", inspect_text_detail::number_json(d.max_relative)}});
  }
  return inspect_text_detail::dump({{"a", report.a.string()},
                                    {"b", report.b.string()},
                                    {"tolerance", report.tolerance},
                                    {"same", report.same()},
                                    {"compared", report.compared},
                                    {"by_hash", report.by_hash},
                                    {"differences", differences},
                                    {"config", report.config}});
}

}  // namespace strata
