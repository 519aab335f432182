#pragma once
// What `strata ckpt list|inspect|verify|diff` find out, as values, as text for people and as JSON
// text. Nothing here prints, exits or is collective. Functions that open a checkpoint throw
// CheckpointError when it cannot be read, except where they report that as a result.
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "parallel/checkpoint/checkpoint.h"

namespace strata {

struct CheckpointRow {
  std::string name, time_utc, problem;      // problem: "" when valid
  int64_t step = 0, tokens = 0, bytes = 0;  // bytes: of all its files
  std::string loss;                         // state "loss" when it is there
};
// Committed checkpoints below root, newest first.
std::vector<CheckpointRow> list_checkpoints(const std::filesystem::path& root);
std::string list_text(const std::vector<CheckpointRow>& rows);
std::string list_json(const std::vector<CheckpointRow>& rows);

struct TensorStatistics {  // of the finite elements; counts of the others
  double least = 0, greatest = 0, mean = 0, rms = 0;
  int64_t nan = 0, infinite = 0;
};
struct TensorRow {
  std::string path;
  TensorInfo info;
  int64_t bytes = 0, pieces = 0;
  std::optional<TensorStatistics> statistics;
};
struct ShardRow {
  std::string name;
  int64_t bytes = 0, pieces = 0;
};
struct CheckpointSummary {
  std::filesystem::path directory;
  int64_t step = 0, tokens = 0, samples = 0, elements = 0, bytes = 0;
  std::string time_utc, run_id, parent, model_fingerprint, model_hash;
  std::map<std::string, std::string> writer, aliases;
  CheckpointState state;
  std::vector<ShardRow> shards;
  std::vector<TensorRow> tensors;  // those asked for, by path
};
struct InspectOptions {
  std::string tensors = "*";  // glob on "/model/<name>" or "<name>"
  bool statistics = false;    // reads (and checks) all elements of those tensors
};
CheckpointSummary inspect_checkpoint(const std::filesystem::path& directory,
                                     const InspectOptions& options = {});
std::string inspect_text(const CheckpointSummary& summary);
std::string inspect_json(const CheckpointSummary& summary);

struct VerifyReport {
  std::filesystem::path directory;
  bool full = false;  // data blocks were read
  int64_t tensors = 0, blocks = 0, bytes = 0;
  std::vector<std::string> problems;  // empty: good
};
enum class VerifyDepth {
  Quick,
  Full
};  // Quick: manifest, piece tables, sizes; Full: every data block too
VerifyReport verify_checkpoint(const std::filesystem::path& directory, VerifyDepth depth);
std::string verify_text(const VerifyReport& report);
std::string verify_json(const VerifyReport& report);

struct TensorDifference {
  std::string path;
  std::string structure;  // "only in A", "shape [2] and [3]", ...; "" when only values differ
  int64_t elements = 0, different = 0;
  double max_absolute = 0, max_relative = 0;  // NaN against a number counts as infinite
};
struct DiffReport {
  std::filesystem::path a, b;
  double tolerance = 0;
  int64_t compared = 0;  // tensors in both
  bool by_hash = false;  // weights were found equal by their stored hashes, without reading
  std::vector<TensorDifference> differences;  // structure first, then largest max_absolute first
  std::vector<std::string>
      config;  // lines of config.ini only one side has: "- a" or "+ b"; never decides
  bool same() const noexcept { return differences.empty(); }
};
struct DiffOptions {
  double tolerance = 0;  // tensors whose max_absolute is at most this count as equal
  bool optim = false;    // /optim, /state too; default: /model and /model_ema
};
DiffReport diff_checkpoints(const std::filesystem::path& a, const std::filesystem::path& b,
                            const DiffOptions& options = {});
std::string diff_text(const DiffReport& report);
std::string diff_json(const DiffReport& report);

}  // namespace strata
