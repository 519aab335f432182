#include "parallel/checkpoint/inspect.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <set>

#include "core/error.h"
#include "core/text.h"
#include "parallel/checkpoint/catalogue.h"
#include "parallel/checkpoint/discovery.h"

namespace strata {
namespace inspect_detail {

// Calls `use` with consecutive slices of a tensor along axis 0, each of a bounded number of
// elements.
void for_each_slice(const Shape& shape, const std::function<void(const Box&)>& use) {
  constexpr int64_t kElements = 4 << 20;
  const int64_t elements = element_count(shape);
  if (elements == 0) return;
  Box box{Shape(shape.size(), 0), shape};
  if (shape.empty()) return use(box);
  const int64_t step = std::max<int64_t>(1, kElements / (elements / shape[0]));
  for (int64_t row = 0; row < shape[0]; row += step) {
    box.offset[0] = row;
    box.extent[0] = std::min(step, shape[0] - row);
    use(box);
  }
}

TensorStatistics statistics_of(const CheckpointReader& reader, const std::string& path,
                               const Shape& shape) {
  TensorStatistics out;
  out.least = std::numeric_limits<double>::infinity();
  out.greatest = -out.least;
  double sum = 0, squares = 0;
  int64_t finite = 0;
  for_each_slice(shape, [&](const Box& box) {
    const Tensor values = reader.read(path, box).to(at::kDouble).contiguous();
    const double* data = values.const_data_ptr<double>();
    for (int64_t i = 0; i < values.numel(); ++i) {
      const double value = data[i];
      if (std::isnan(value)) {
        ++out.nan;
      } else if (std::isinf(value)) {
        ++out.infinite;
      } else {
        ++finite;
        sum += value;
        squares += value * value;
        out.least = std::min(out.least, value);
        out.greatest = std::max(out.greatest, value);
      }
    }
  });
  if (finite == 0) {
    out.least = out.greatest = 0;
    return out;
  }
  out.mean = sum / static_cast<double>(finite);
  out.rms = std::sqrt(squares / static_cast<double>(finite));
  return out;
}

bool is_weight(const std::string& path) {
  return starts_with(path, "/model/") || starts_with(path, "/model_ema/");
}

// Bytes first: equal bytes are equal, NaN included.
void compare_values(const CheckpointReader& a, const CheckpointReader& b, const Shape& shape,
                    TensorDifference& out) {
  for_each_slice(shape, [&](const Box& box) {
    const Tensor left = a.read(out.path, box), right = b.read(out.path, box);
    if (std::memcmp(left.const_data_ptr(), right.const_data_ptr(), left.nbytes()) == 0) return;
    const Tensor wide_left = left.to(at::kDouble).contiguous(),
                 wide_right = right.to(at::kDouble).contiguous();
    const double* x = wide_left.const_data_ptr<double>();
    const double* y = wide_right.const_data_ptr<double>();
    const auto width = static_cast<size_t>(left.element_size());
    const auto* p = static_cast<const char*>(left.const_data_ptr());
    const auto* q = static_cast<const char*>(right.const_data_ptr());
    for (int64_t i = 0; i < left.numel(); ++i) {
      const size_t at = static_cast<size_t>(i) * width;
      if (std::memcmp(p + at, q + at, width) == 0) continue;
      ++out.different;
      double absolute = std::abs(x[i] - y[i]);
      if (std::isnan(absolute)) absolute = std::numeric_limits<double>::infinity();
      const double scale = std::max(std::abs(x[i]), std::abs(y[i]));
      const double relative = absolute == 0             ? 0
                              : std::isfinite(absolute) ? absolute / scale
                                                        : absolute;
      out.max_absolute = std::max(out.max_absolute, absolute);
      out.max_relative = std::max(out.max_relative, relative);
    }
  });
}

std::string config_of(const CheckpointReader& reader) {
  try {
    return reader.file_text("config.ini");
  } catch (const CheckpointError&) {
    return "";
  }
}

std::vector<std::string> config_difference(const CheckpointReader& a, const CheckpointReader& b) {
  const std::vector<std::string> left = split(config_of(a), '\n'),
                                 right = split(config_of(b), '\n');
  const std::set<std::string> in_left(left.begin(), left.end()),
      in_right(right.begin(), right.end());
  std::vector<std::string> out;
  for (const std::string& line : left) {
    if (in_right.count(line) == 0) out.push_back("- " + line);
  }
  for (const std::string& line : right) {
    if (in_left.count(line) == 0) out.push_back("+ " + line);
  }
  return out;
}

}  // namespace inspect_detail

std::vector<CheckpointRow> list_checkpoints(const std::filesystem::path& root) {
  std::error_code error;
  if (!std::filesystem::is_directory(root, error))
    throw CheckpointError(cat(root.string(), ": no such directory"));
  std::vector<CheckpointRow> rows;
  for (const auto& [step, path] : checkpoint_detail::steps_below(root)) {
    CheckpointRow row;
    row.name = path.filename().string();
    row.step = step;
    for (const auto& entry : std::filesystem::directory_iterator(path, error)) {
      if (entry.is_regular_file(error)) row.bytes += static_cast<int64_t>(entry.file_size(error));
    }
    try {
      const checkpoint_detail::Catalogue catalogue = checkpoint_detail::load_catalogue(path);
      row.time_utc = catalogue.manifest.time_utc;
      row.tokens = catalogue.manifest.tokens;
      const auto loss = catalogue.manifest.state.find("loss");
      if (loss != catalogue.manifest.state.end()) row.loss = loss->second;
    } catch (const CheckpointError& failure) {
      row.problem = failure.what();
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

CheckpointSummary inspect_checkpoint(const std::filesystem::path& directory,
                                     const InspectOptions& options) {
  const checkpoint_detail::Catalogue catalogue = checkpoint_detail::load_catalogue(directory);
  const checkpoint_detail::Manifest& manifest = catalogue.manifest;
  CheckpointSummary out;
  out.directory = directory;
  out.step = manifest.step;
  out.tokens = manifest.tokens;
  out.samples = manifest.samples;
  out.elements = manifest.elements_total;
  out.bytes = manifest.bytes_total;
  out.time_utc = manifest.time_utc;
  out.run_id = manifest.run_id;
  out.parent = manifest.parent;
  out.model_fingerprint = manifest.model_fingerprint;
  out.model_hash = manifest.model_hash;
  out.writer = manifest.writer;
  out.aliases = manifest.aliases;
  out.state = manifest.state;
  for (const auto& shard : catalogue.shards) {
    out.shards.push_back({shard.file, shard.bytes, static_cast<int64_t>(shard.pieces.size())});
  }
  std::optional<CheckpointReader> reader;
  if (options.statistics) reader.emplace(directory);
  for (const auto& [path, tensor] : catalogue.tensors) {
    const std::string name = path.substr(path.find('/', 1) + 1);
    if (!glob_match(options.tensors, path) && !glob_match(options.tensors, name)) continue;
    TensorRow row;
    row.path = path;
    row.info = {tensor.dtype, tensor.shape};
    row.bytes = checkpoint_detail::box_bytes(tensor.shape, tensor.dtype);
    row.pieces = static_cast<int64_t>(tensor.parts.size());
    if (reader) row.statistics = inspect_detail::statistics_of(*reader, path, tensor.shape);
    out.tensors.push_back(std::move(row));
  }
  return out;
}

VerifyReport verify_checkpoint(const std::filesystem::path& directory, VerifyDepth depth) {
  VerifyReport report;
  report.directory = directory;
  report.full = depth == VerifyDepth::Full;
  try {
    const checkpoint_detail::Catalogue catalogue = checkpoint_detail::load_catalogue(directory);
    report.tensors = static_cast<int64_t>(catalogue.tensors.size());
    if (depth == VerifyDepth::Quick) return report;
    for (const auto& shard : catalogue.shards) {
      for (const auto& piece : shard.pieces) {
        report.blocks += static_cast<int64_t>(piece.crcs.size());
        report.bytes += piece.bytes;
      }
    }
    const CheckpointReader reader(directory);
    report.problems = reader.verify_blocks();
    for (const checkpoint_detail::ManifestFile& file : catalogue.manifest.files) {
      if (file.kind == "shard" || file.kind == "sidecar") continue;
      try {
        reader.file_text(file.name);
      } catch (const CheckpointError& error) {
        report.problems.push_back(error.what());
      }
    }
  } catch (const CheckpointError& error) {
    report.problems.push_back(error.what());
  }
  return report;
}

DiffReport diff_checkpoints(const std::filesystem::path& a, const std::filesystem::path& b,
                            const DiffOptions& options) {
  const CheckpointReader left(a), right(b);
  DiffReport report;
  report.a = a;
  report.b = b;
  report.tolerance = options.tolerance;
  report.by_hash = !left.model_hash().empty() && left.model_hash() == right.model_hash();
  const auto wanted = [&](const std::string& path) {
    return options.optim || inspect_detail::is_weight(path);
  };
  for (const auto& [path, info] : left.tensors()) {
    if (!wanted(path)) continue;
    TensorDifference difference;
    difference.path = path;
    difference.elements = element_count(info.shape);
    const auto other = right.tensors().find(path);
    if (other == right.tensors().end()) {
      difference.structure = "only in A";
    } else if (info.shape != other->second.shape) {
      difference.structure =
          cat("shape ", shape_text(info.shape), " and ", shape_text(other->second.shape));
    } else if (info.dtype != other->second.dtype) {
      difference.structure =
          cat("type ", dtype_name(info.dtype), " and ", dtype_name(other->second.dtype));
    }
    if (other != right.tensors().end()) ++report.compared;
    if (difference.structure.empty()) {
      if (report.by_hash && starts_with(path, "/model/")) continue;
      inspect_detail::compare_values(left, right, info.shape, difference);
      if (difference.different == 0 || difference.max_absolute <= options.tolerance) {
        // A changed bit pattern of equal value (+0 and -0) is a difference unless a tolerance was
        // given.
        if (difference.different == 0 || options.tolerance > 0) continue;
      }
    }
    report.differences.push_back(std::move(difference));
  }
  for (const auto& [path, info] : right.tensors()) {
    if (wanted(path) && !left.contains(path)) {
      report.differences.push_back({path, "only in B", element_count(info.shape), 0, 0, 0});
    }
  }
  std::stable_sort(report.differences.begin(), report.differences.end(),
                   [](const auto& x, const auto& y) {
                     if (x.structure.empty() != y.structure.empty()) return !x.structure.empty();
                     return x.max_absolute > y.max_absolute;
                   });
  report.config = inspect_detail::config_difference(left, right);
  return report;
}

}  // namespace strata
