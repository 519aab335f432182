// strata ckpt list|inspect|verify|diff
#include <ATen/TensorOperators.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "core/config/reader.h"
#include "core/error.h"
#include "core/text.h"
#include "launch/command_line.h"
#include "launch/commands.h"
#include "parallel/checkpoint/checkpoint.h"

namespace strata {
namespace cmd_ckpt_detail {

constexpr int kDifferent = 10, kUnreadable = 4;

std::string padded(std::string text, size_t width) {
  text.resize(std::max(width, text.size()), ' ');
  return text;
}

int64_t bytes_in(const std::filesystem::path& directory) {
  int64_t total = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory, error)) {
    if (entry.is_regular_file(error)) total += static_cast<int64_t>(entry.file_size(error));
  }
  return total;
}

// A run directory, or the folder of its checkpoints.
std::filesystem::path root_of(const std::filesystem::path& path) {
  if (!std::filesystem::is_directory(path)) throw CheckpointError(cat(path.string(), " is not a folder."));
  return std::filesystem::is_directory(path / "checkpoints") ? path / "checkpoints" : path;
}

// The folder of one checkpoint: itself, or the newest of a run.
std::filesystem::path checkpoint_of(const std::filesystem::path& path) {
  if (std::filesystem::exists(path / "manifest.json")) return path;
  const auto latest = find_latest(root_of(path), [](const std::string& text) { std::cerr << text << '\n'; });
  if (!latest) throw CheckpointError(cat(path.string(), " is neither a checkpoint nor a run with one."));
  return *latest;
}

int list(const Arguments& arguments) {
  CommandLine line("ckpt list", "RUN_DIR", "Lists the checkpoints of a run, oldest first.");
  line.positional("RUN_DIR", 1, 1);
  line.no_overrides();
  if (!line.parse(arguments)) return 0;
  std::vector<std::filesystem::path> found;
  for (const auto& entry : std::filesystem::directory_iterator(root_of(line.words()[0]))) {
    if (entry.is_directory() && starts_with(entry.path().filename().string(), "step-")) found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end());
  for (const std::filesystem::path& path : found) {
    const std::string why = why_invalid(path);
    std::cout << padded(path.filename().string(), 20) << "  " << padded(bytes_text(static_cast<double>(bytes_in(path))), 10)
              << "  " << (why.empty() ? cat("valid, ", CheckpointReader(path).tokens(), " tokens") : "INVALID: " + why)
              << '\n';
  }
  if (found.empty()) std::cout << "no checkpoints\n";
  return 0;
}

struct Statistics {
  double least = 0, most = 0, mean = 0, rms = 0;
  int64_t not_finite = 0;
};

Statistics statistics(const Tensor& tensor) {
  const Tensor values = tensor.to(at::kDouble).reshape({-1});
  Statistics out;
  if (values.numel() == 0) return out;
  out.not_finite = values.numel() - values.isfinite().sum().item<int64_t>();
  out.least = values.min().item<double>();
  out.most = values.max().item<double>();
  out.mean = values.mean().item<double>();
  out.rms = std::sqrt(values.square().mean().item<double>());
  return out;
}

void inspect_text(const CheckpointReader& reader, const std::string& pattern, bool with_statistics) {
  std::cout << "step " << reader.step() << ", " << reader.samples() << " samples, " << reader.tokens() << " tokens\n";
  std::cout << "model fingerprint " << reader.model_fingerprint() << ", hash "
            << (reader.model_hash().empty() ? "none" : reader.model_hash()) << '\n';
  for (const auto& [key, value] : reader.state()) std::cout << "  " << padded(key, 18) << value << '\n';
  for (const auto& [path, info] : reader.tensors()) {
    if (!glob_match(pattern, path)) continue;
    std::cout << padded(path, 60) << ' ' << padded(dtype_name(info.dtype), 5) << shape_text(info.shape);
    if (with_statistics) {
      const Statistics s = statistics(reader.read_whole(path));
      char text[160];
      std::snprintf(text, sizeof text, "  min %.4g  max %.4g  mean %.4g  rms %.4g", s.least, s.most, s.mean, s.rms);
      std::cout << text;
      if (s.not_finite > 0) std::cout << "  NOT FINITE: " << s.not_finite;
    }
    std::cout << '\n';
  }
}

void inspect_json(const CheckpointReader& reader, const std::string& pattern, bool with_statistics) {
  nlohmann::ordered_json tensors = nlohmann::ordered_json::object();
  for (const auto& [path, info] : reader.tensors()) {
    if (!glob_match(pattern, path)) continue;
    nlohmann::ordered_json entry = {{"dtype", dtype_name(info.dtype)}, {"shape", info.shape}};
    if (with_statistics) {
      const Statistics s = statistics(reader.read_whole(path));
      entry.update({{"min", s.least}, {"max", s.most}, {"mean", s.mean}, {"rms", s.rms}, {"not_finite", s.not_finite}});
    }
    tensors[path] = std::move(entry);
  }
  nlohmann::ordered_json state = nlohmann::ordered_json::object();
  for (const auto& [key, value] : reader.state()) {
    const auto json = nlohmann::ordered_json::parse(value, nullptr, false);
    state[key] = json.is_discarded() ? nlohmann::ordered_json(value) : json;
  }
  const nlohmann::ordered_json out = {{"step", reader.step()},       {"samples", reader.samples()},
                                      {"tokens", reader.tokens()},   {"model_fingerprint", reader.model_fingerprint()},
                                      {"hash", reader.model_hash()}, {"state", state},
                                      {"tensors", tensors}};
  std::cout << out.dump(2) << '\n';
}

int inspect(const Arguments& arguments) {
  CommandLine line("ckpt inspect", "DIR [--tensor GLOB] [--stats] [--json]",
                   "Says what a checkpoint (or the newest one of a run) holds. Exit code 4 when it cannot be read.");
  line.positional("DIR", 1, 1);
  line.option("tensor", "GLOB", "only tensors whose path matches, for example /model/*");
  line.flag("stats", "read every tensor: minimum, maximum, mean, root mean square, values that are not finite");
  line.flag("json", "print JSON");
  line.no_overrides();
  if (!line.parse(arguments)) return 0;
  const CheckpointReader reader(checkpoint_of(line.words()[0]));
  const std::string pattern = line.value("tensor").value_or("*");
  (line.has("json") ? inspect_json : inspect_text)(reader, pattern, line.has("stats"));
  return 0;
}

int verify(const Arguments& arguments) {
  CommandLine line("ckpt verify", "DIR [--quick]",
                   "Checks a checkpoint (or the newest one of a run): manifest, files, sizes, and every data block against its\n"
                   "checksum. Exit code 4 when anything is wrong.");
  line.positional("DIR", 1, 1);
  line.flag("quick", "without reading the data blocks");
  line.no_overrides();
  if (!line.parse(arguments)) return 0;
  const std::filesystem::path directory = checkpoint_of(line.words()[0]);
  std::vector<std::string> problems;
  const std::string why = why_invalid(directory);
  if (!why.empty()) problems.push_back(why);
  if (problems.empty() && !line.has("quick")) problems = CheckpointReader(directory).verify_blocks();
  for (const std::string& problem : problems) std::cout << problem << '\n';
  std::cout << directory.string() << ": " << (problems.empty() ? "good" : "DAMAGED") << '\n';
  return problems.empty() ? 0 : kUnreadable;
}

struct Difference {
  std::string path, what;
  double largest = 0;         // of |a - b|, infinite for shapes and missing tensors
  bool outside = true;
};

Difference compare(const std::string& path, const Tensor& a, const Tensor& b, double tolerance) {
  const Tensor x = a.to(at::kDouble), y = b.to(at::kDouble);
  const Tensor gap = (x - y).abs();
  const double largest = gap.numel() == 0 ? 0 : gap.max().item<double>();
  const double scale = x.numel() == 0 ? 1 : std::max(x.abs().max().item<double>(), 1e-300);
  const int64_t count = gap.ne(0).sum().item<int64_t>();
  char text[160];
  std::snprintf(text, sizeof text, "largest difference %.3g (relative %.3g), %lld of %lld elements", largest,
                largest / scale, static_cast<long long>(count), static_cast<long long>(gap.numel()));
  return {path, text, largest, !(largest <= tolerance)};
}

std::vector<Difference> differences(const CheckpointReader& a, const CheckpointReader& b, bool with_optimizer,
                                    double tolerance) {
  std::vector<Difference> out;
  const auto wanted = [&](const std::string& path) { return with_optimizer || starts_with(path, "/model/"); };
  for (const auto& [path, info] : a.tensors()) {
    if (!wanted(path)) continue;
    const auto other = b.tensors().find(path);
    if (other == b.tensors().end()) {
      out.push_back({path, "only in the first", INFINITY, true});
    } else if (other->second.shape != info.shape) {
      out.push_back({path, cat("shapes ", shape_text(info.shape), " and ", shape_text(other->second.shape)), INFINITY, true});
    } else {
      const Tensor x = a.read_whole(path), y = b.read_whole(path);
      if (!x.equal(y)) out.push_back(compare(path, x, y, tolerance));
    }
  }
  for (const auto& [path, info] : b.tensors()) {
    if (wanted(path) && a.tensors().count(path) == 0) out.push_back({path, "only in the second", INFINITY, true});
  }
  std::stable_sort(out.begin(), out.end(), [](const auto& x, const auto& y) { return x.largest > y.largest; });
  return out;
}

int diff(const Arguments& arguments) {
  CommandLine line("ckpt diff", "A B [--tol X] [--optim]",
                   "Compares the weights of two checkpoints (or of the newest ones of two runs), whatever layouts wrote them.\n"
                   "Exit code 0: equal; 10: different; 4: one cannot be read.");
  line.positional("DIR", 2, 2);
  line.option("tol", "X", "absolute differences up to this are equal; default 0");
  line.flag("optim", "compare optimizer state too");
  line.no_overrides();
  if (!line.parse(arguments)) return 0;
  double tolerance = 0;
  if (const auto text = line.value("tol")) {
    if (!parse_number(*text, tolerance) || !(tolerance >= 0)) throw ConfigError("--tol", cat('"', *text, '"'), "number >= 0");
  }
  const CheckpointReader a(checkpoint_of(line.words()[0])), b(checkpoint_of(line.words()[1]));
  const bool optimizer = line.has("optim");
  if (!optimizer && !a.model_hash().empty() && a.model_hash() == b.model_hash()) {
    std::cout << "equal (hash " << a.model_hash() << ")\n";
    return 0;
  }
  const std::vector<Difference> found = differences(a, b, optimizer, tolerance);
  const bool outside = std::any_of(found.begin(), found.end(), [](const Difference& d) { return d.outside; });
  for (const Difference& d : found) std::cout << padded(d.path, 60) << ' ' << d.what << '\n';
  std::cout << (found.empty() ? "equal" : outside ? "different" : "equal within the tolerance") << '\n';
  return outside ? kDifferent : 0;
}

}  // namespace cmd_ckpt_detail

int cmd_ckpt(const Arguments& arguments) {
  using namespace cmd_ckpt_detail;
  const std::vector<std::string> later = {"prune", "reindex", "consolidate", "compress"};
  if (!arguments.empty() && std::count(later.begin(), later.end(), arguments[0]) > 0) {
    throw ConfigError({cat("strata ckpt ", arguments[0], ": not part of this version. There are: list, inspect, verify, diff")});
  }
  const std::string verb = take_verb("ckpt", arguments, {"list", "inspect", "verify", "diff"});
  if (verb == "list") return list(after_verb(arguments));
  if (verb == "inspect") return inspect(after_verb(arguments));
  if (verb == "verify") return verify(after_verb(arguments));
  if (verb == "diff") return diff(after_verb(arguments));
  return 0;
}

}  // namespace strata
