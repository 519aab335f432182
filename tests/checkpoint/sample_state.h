#pragma once
// Made-up state for checkpoint tests: tensors of many types and shapes, random tilings of them,
// saves and comparisons.
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "core/text.h"
#include "parallel/checkpoint/checkpoint.h"
#include "parallel/comm/communicator.h"
#include "tests/io/temp_folder.h"

namespace strata::test {

using State = std::map<std::string, Tensor>;

inline Tensor random_bytes_tensor(const Shape& shape, at::ScalarType dtype, uint32_t seed) {
  std::mt19937 random(seed);
  Tensor tensor = at::empty(shape, dtype);
  auto* bytes = static_cast<unsigned char*>(tensor.data_ptr());
  for (size_t i = 0; i < tensor.nbytes(); ++i) {
    bytes[i] = static_cast<unsigned char>(dtype == at::kBool ? random() & 1u : random());
  }
  return tensor;
}

// Weights, two optimizer slots and odd shapes; about 60 KiB.
inline State sample_state(uint32_t seed) {
  State state;
  const auto put = [&](const std::string& path, const Shape& shape, at::ScalarType dtype) {
    state[path] =
        random_bytes_tensor(shape, dtype, seed * 1000 + static_cast<uint32_t>(state.size()));
  };
  put("/model/model.embeddings.weight", {64, 24}, at::kFloat);
  put("/model/model.layers.0.attn.q_proj.weight", {24, 24}, at::kBFloat16);
  put("/model/model.layers.0.mlp.up_proj.weight", {96, 24}, at::kFloat);
  put("/model/model.layers.0.attn_norm.weight", {24}, at::kFloat);
  put("/model/scalar", {}, at::kDouble);
  put("/model/nothing", {0, 3}, at::kFloat);
  put("/model/cube", {5, 7, 9}, at::kHalf);
  put("/optim/model.layers.0.mlp.up_proj.weight/m", {96, 24}, at::kFloat);
  put("/optim/model.layers.0.mlp.up_proj.weight/v", {96, 24}, at::kFloat);
  put("/state/counters", {11}, at::kLong);
  put("/state/flags", {3, 5}, at::kBool);
  return state;
}

inline Box whole_box(const Tensor& tensor) {
  return {Shape(tensor.sizes().size(), 0), tensor.sizes().vec()};
}

inline Tensor box_of(const Tensor& tensor, const Box& box) {
  Tensor part = tensor;
  for (size_t i = 0; i < box.offset.size(); ++i) {
    part = part.narrow(static_cast<int64_t>(i), box.offset[i], box.extent[i]);
  }
  return part;
}

// Boxes that tile the tensor exactly, cut at random along random axes.
inline std::vector<Box> random_tiling(const Tensor& tensor, int cuts, std::mt19937& random) {
  std::vector<Box> boxes = {whole_box(tensor)};
  for (int i = 0; i < cuts && tensor.dim() > 0; ++i) {
    const size_t which = random() % boxes.size(),
                 axis = random() % static_cast<size_t>(tensor.dim());
    Box left = boxes[which];
    if (left.extent[axis] < 2) continue;
    const int64_t at =
        1 + static_cast<int64_t>(random() % static_cast<uint32_t>(left.extent[axis] - 1));
    Box right = left;
    right.offset[axis] += at;
    right.extent[axis] -= at;
    left.extent[axis] = at;
    boxes[which] = left;
    boxes.push_back(right);
  }
  return boxes;
}

inline bool same_bytes(const Tensor& a, const Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes()) return false;
  const Tensor x = a.contiguous(), y = b.contiguous();
  return x.numel() == 0 || std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

inline SaveRequest sample_request(const std::filesystem::path& root, int64_t step) {
  SaveRequest request;
  request.root = root;
  request.step = step;
  request.tokens = step * 1000;
  request.samples = step * 8;
  request.run_id = "run-1";
  request.model_fingerprint = "0123456789abcdef";
  request.state = {
      {"optim.step", cat(step)}, {"loss", "2.5"}, {"data", "{\"seed\":1,\"epoch\":0}"}};
  request.aliases = {{"lm_head.weight", "model.embeddings.weight"}};
  request.block_bytes = 4096;
  return request;
}

// Every tensor in random boxes dealt to the ranks; some boxes are offered by several. All ranks
// pass the same seed.
inline std::filesystem::path save_randomly(Communicator& job, const SaveRequest& request,
                                           const State& state, uint32_t seed) {
  std::mt19937 random(seed);
  CheckpointWriter writer(job, request);
  for (const auto& [path, tensor] : state) {
    for (const Box& box : random_tiling(tensor, static_cast<int>(random() % 5), random)) {
      const int owner = static_cast<int>(random() % static_cast<uint32_t>(job.size()));
      const int copies = 1 + static_cast<int>(random() % static_cast<uint32_t>(job.size()));
      const int distance = (job.rank() - owner + job.size()) % job.size();
      if (distance < copies) writer.add(path, tensor.sizes().vec(), box, box_of(tensor, box));
    }
  }
  writer.add_file("config.ini", "[run]\ndir = x\n");
  writer.add_file("plan.json", "{}");
  return writer.commit();
}

inline std::filesystem::path save_whole(const SaveRequest& request, const State& state) {
  const auto job = make_self_communicator();
  return save_randomly(*job, request, state, 1);
}

// "" when the checkpoint holds exactly `state`, else the first difference. Errors of the reader
// pass through.
inline std::string difference(const CheckpointReader& reader, const State& state) {
  if (reader.tensors().size() != state.size()) return cat(reader.tensors().size(), " tensors");
  for (const auto& [path, tensor] : state) {
    if (!same_bytes(reader.read_whole(path), tensor)) return path;
  }
  return "";
}

inline void ignore(const std::string&) {}

}  // namespace strata::test
