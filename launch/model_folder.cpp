#include "launch/model_folder.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/scalar_tensor.h>

#include <map>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/io/file.h"
#include "core/io/safetensors.h"
#include "core/ops/bit_linear.h"
#include "core/text.h"
#include "launch/cmd_ckpt.h"
#include "launch/densify.h"
#include "launch/run_config.h"
#include "parallel/checkpoint/checkpoint.h"

namespace strata {
namespace model_folder_detail {

using Tensors = std::vector<std::pair<std::string, Tensor>>;
// Of tensors that several parameters make up: by their first rows.
using Parts = std::map<std::string, std::map<int64_t, Tensor>>;

void add(const ModelSpec& model, const ParamMeta& meta, const Tensor& value, bool ternary,
         Tensors& out, Parts& parts) {
  const ForeignTensor foreign = model.foreign(meta.name);
  if (foreign.part()) {
    parts[foreign.name][foreign.rows.begin] = value;
    return;
  }
  if (!ternary) {
    out.emplace_back(foreign.name, foreign.transposed ? value.t().contiguous() : value);
    return;
  }
  const double beta = ops::absolute_sum(value) / static_cast<double>(value.numel());
  const ops::TernaryCodes codes = ops::ternary_codes(value, beta);
  const std::string linear = foreign.name.substr(0, foreign.name.size() - 7);
  out.emplace_back(linear + ".codes", ops::pack_codes(codes.codes_OI));
  out.emplace_back(linear + ".beta", at::scalar_tensor(codes.scale, at::kFloat));
}

}  // namespace model_folder_detail

ModelFolder open_model_folder(const std::filesystem::path& folder, const ExtraFamilies& families) {
  ModelFolder out;
  if (std::filesystem::exists(folder / "config.json") &&
      !std::filesystem::exists(folder / "manifest.json")) {
    const std::string file = (folder / "config.json").string();
    out.model = make_model_from_json(io::read_text(file), file);
    out.weights = make_safetensors_weights(folder.string(), *out.model);
    return out;
  }
  const std::filesystem::path checkpoint = checkpoint_of(folder);
  RunInput input;
  input.path = (checkpoint / "config.ini").string();
  input.data = RunInput::Data::ForVocabulary;
  input.families = families;
  out.checkpoint = checkpoint;
  out.model = model_of(read_run_config(input), checkpoint);
  out.weights = make_checkpoint_weights(std::make_shared<const CheckpointReader>(checkpoint));
  return out;
}

size_t write_model_folder(const std::filesystem::path& to, const nlohmann::ordered_json& config,
                          const ModelSpec& model, const WeightSource& source,
                          const std::set<std::string>& ternary) {
  using namespace model_folder_detail;
  if (std::filesystem::exists(to / "model.safetensors"))
    throw ConfigError("TO", to.string(), "a folder without model.safetensors");
  Tensors tensors;
  Parts parts;
  for (const ParamMeta& meta : parameter_metas(model)) {
    Parameter p;
    p.meta = meta;
    const Tensor value = source.read(p, {Shape(meta.logical.size(), 0), meta.logical}, at::kFloat);
    add(model, meta, value, ternary.count(meta.name) > 0, tensors, parts);
  }
  for (const auto& [name, rows] : parts) {
    std::vector<Tensor> pieces;
    for (const auto& [first, piece] : rows) pieces.push_back(piece);
    tensors.emplace_back(name, at::cat(pieces, 0));
  }
  std::filesystem::create_directories(to);
  io::write_safetensors((to / "model.safetensors").string(), tensors);
  io::write_text_atomic(to / "config.json", config.dump(2) + "\n");
  return tensors.size();
}

}  // namespace strata
