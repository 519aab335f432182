#include "parallel/engine/weight_source.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/io/safetensors.h"
#include "core/ops/bit_linear.h"
#include "core/text.h"
#include "parallel/checkpoint/checkpoint.h"

namespace strata {
namespace weight_source_detail {

class InitialWeights final : public WeightSource {
 public:
  explicit InitialWeights(uint64_t seed) : seed_(seed) {}
  Tensor read(const Parameter& parameter, const Box& box, at::ScalarType dtype) const override {
    return initial_values(parameter.meta, parameter.init, seed_, box, dtype);
  }
  std::string description() const override { return cat("initial values of seed ", seed_); }

 private:
  uint64_t seed_;
};

// Rows of the foreign tensor `name` as its parts give them; 0 where they leave gaps or overlap.
int64_t rows_of_parts(const std::vector<ParamMeta>& metas, const ModelSpec& spec,
                      const std::string& name) {
  std::vector<Range> parts;
  for (const ParamMeta& meta : metas) {
    const ForeignTensor foreign = spec.foreign(meta.name);
    if (foreign.name == name) parts.push_back(foreign.rows);
  }
  std::sort(parts.begin(), parts.end(),
            [](const Range& a, const Range& b) { return a.begin < b.begin; });
  int64_t end = 0;
  for (const Range& part : parts) {
    if (part.begin != end) return 0;
    end = part.end;
  }
  return end;
}

// What `strata ckpt convert --ternary` writes instead of X.weight.
struct PackedTernary {
  std::string codes, beta;  // [O, ceil(I / 4)] uint8, scalar
  explicit PackedTernary(const std::string& weight)
      : codes(with_ending(weight, ".codes")), beta(with_ending(weight, ".beta")) {}
  bool in(const io::SafetensorsReader& reader) const {
    return !codes.empty() && reader.contains(codes) && reader.contains(beta);
  }
  Tensor read(const io::SafetensorsReader& reader, int64_t features) const {
    return ops::ternary_weight(
        {ops::unpack_codes(reader.read(codes), features), reader.read(beta).item<double>()});
  }

 private:
  static std::string with_ending(const std::string& weight, const char* ending) {
    constexpr std::string_view kWeight = ".weight";
    if (!ends_with(weight, kWeight)) return "";
    return weight.substr(0, weight.size() - kWeight.size()) + ending;
  }
};

class SafetensorsWeights final : public WeightSource {
 public:
  SafetensorsWeights(const std::string& path, const ModelSpec& spec)
      : path_(path), reader_(path), spec_(spec) {
    std::vector<std::string> problems;
    std::set<std::string> wanted;
    const std::vector<ParamMeta> metas = parameter_metas(spec);
    for (const ParamMeta& meta : metas) {
      const ForeignTensor foreign = name_in_file(meta.name);
      Shape logical = meta.logical;  // of each tensor of the file
      if (!foreign.parts.empty()) logical.at(0) /= static_cast<int64_t>(foreign.parts.size());
      if (foreign.part()) logical.at(0) = rows_of_parts(metas, spec, foreign.name);
      for (const std::string& name : foreign.names()) {
        wanted.insert(name);
        const PackedTernary packed(name);
        if (logical.size() == 2 && packed.in(reader_)) {
          wanted.insert({packed.codes, packed.beta});
          const auto check = [&](const std::string& part, const Shape& wanted_shape) {
            const Shape& shape = reader_.entry(part).shape;
            if (shape != wanted_shape)
              problems.push_back(cat("shape       ", part, ": file has ", shape_text(shape),
                                     ", model wants ", shape_text(wanted_shape)));
          };
          check(packed.codes, {logical[0], (logical[1] + 3) / 4});
          check(packed.beta, {});
          continue;
        }
        if (!reader_.contains(name)) {
          problems.push_back(cat("missing     ", name, did_you_mean(name, reader_.names())));
          continue;
        }
        Shape shape = reader_.entry(name).shape;
        if (foreign.transposed) std::swap(shape.at(0), shape.at(1));
        if (shape != logical) {
          problems.push_back(cat("shape       ", name, ": file has ",
                                 shape_text(reader_.entry(name).shape), ", model wants ",
                                 shape_text(logical), foreign.transposed ? " transposed" : ""));
        }
      }
    }
    for (const std::string& name : reader_.names()) {
      if (wanted.count(name) == 0 && !spec.foreign_ignored(name))
        problems.push_back(cat("unexpected  ", name));
    }
    if (!problems.empty()) {
      throw CheckpointError(
          cat(path, " does not fit this ", spec.family(), " model:\n  ", join(problems, "\n  ")));
    }
  }

  Tensor read(const Parameter& parameter, const Box& box, at::ScalarType dtype) const override {
    const ForeignTensor foreign = name_in_file(parameter.meta.name);
    if (!foreign.parts.empty()) {
      std::vector<Tensor> parts;
      for (const std::string& name : foreign.parts) parts.push_back(reader_.read(name));
      return box_view(at::cat(parts, 0), box).to(dtype).contiguous();
    }
    const PackedTernary packed(foreign.name);
    if (packed.in(reader_)) {
      return box_view(packed.read(reader_, parameter.meta.logical.at(1)), box)
          .to(dtype)
          .contiguous();
    }
    if (foreign.transposed)
      return box_view(reader_.read(foreign.name).t(), box).to(dtype).contiguous();
    if (box.offset.empty()) return reader_.read(foreign.name).to(dtype);
    const int64_t first = foreign.rows.begin + box.offset[0];
    Tensor rows = reader_.read_rows(foreign.name, first, first + box.extent[0]);
    Box inner = box;
    inner.offset[0] = 0;
    return box_view(rows, inner).to(dtype).contiguous();
  }
  std::string description() const override { return path_; }

 private:
  ForeignTensor name_in_file(const std::string& parameter) const {
    ForeignTensor foreign = spec_.foreign(parameter);
    if (reader_.contains(foreign.name)) return foreign;
    for (const std::string& alias : spec_.foreign_aliases(parameter)) {
      if (reader_.contains(alias)) foreign.name = alias;
    }
    return foreign;
  }

  std::string path_;
  io::SafetensorsReader reader_;
  const ModelSpec& spec_;
};

class CheckpointWeights final : public WeightSource {
 public:
  explicit CheckpointWeights(std::shared_ptr<const CheckpointReader> reader)
      : reader_(std::move(reader)) {}
  Tensor read(const Parameter& parameter, const Box& box, at::ScalarType dtype) const override {
    return reader_->read(cat("/model/", parameter.meta.name), box).to(dtype);
  }
  std::string description() const override { return cat("checkpoint of step ", reader_->step()); }

 private:
  std::shared_ptr<const CheckpointReader> reader_;
};

}  // namespace weight_source_detail

std::unique_ptr<WeightSource> make_initial_weights(uint64_t seed) {
  return std::make_unique<weight_source_detail::InitialWeights>(seed);
}
std::unique_ptr<WeightSource> make_safetensors_weights(const std::string& path,
                                                       const ModelSpec& spec) {
  return std::make_unique<weight_source_detail::SafetensorsWeights>(path, spec);
}
std::unique_ptr<WeightSource> make_checkpoint_weights(
    std::shared_ptr<const CheckpointReader> reader) {
  return std::make_unique<weight_source_detail::CheckpointWeights>(std::move(reader));
}

}  // namespace strata
