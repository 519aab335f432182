#include "parallel/engine/gather.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <cstring>

#include "core/error.h"
#include "core/text.h"

namespace strata {
namespace gather_detail {

// Pieces on the wire: name, dimensions, offsets, extents, elements.
void put(std::string& out, const void* data, size_t bytes) {
  out.append(static_cast<const char*>(data), bytes);
}
void put(std::string& out, int64_t number) { put(out, &number, sizeof number); }

class Cursor {
 public:
  explicit Cursor(const std::string& bytes) : bytes_(bytes) {}
  bool at_end() const { return at_ == bytes_.size(); }
  int64_t number() {
    int64_t out = 0;
    std::memcpy(&out, take(sizeof out), sizeof out);
    return out;
  }
  const char* take(size_t count) {
    STRATA_CHECK(count <= bytes_.size() - at_, "a gathered piece is cut short");
    const char* out = bytes_.data() + at_;
    at_ += count;
    return out;
  }

 private:
  const std::string& bytes_;
  size_t at_ = 0;
};

std::string pack(ParallelManager& model, const std::function<Tensor(const OwnedSlice&)>& value) {
  std::string out;
  for (const OwnedSlice& slice : model.owned_slices()) {
    if (slice.norm.size() == 0) continue;
    OwnedSlice counted = slice;
    counted.update = slice.norm;
    const std::string& name = slice.parameter->meta.name;
    const Tensor flat = slice.counted(value(slice)).to(at::kCPU, at::kDouble);
    for_boxes(counted, flat, [&](const Box& box, const Tensor& view) {
      const Tensor part = view.contiguous();
      put(out, static_cast<int64_t>(name.size()));
      put(out, name.data(), name.size());
      put(out, static_cast<int64_t>(box.extent.size()));
      for (const int64_t n : box.offset) put(out, n);
      for (const int64_t n : box.extent) put(out, n);
      put(out, part.const_data_ptr<double>(), static_cast<size_t>(part.numel()) * sizeof(double));
    });
  }
  return out;
}

void unpack(const std::string& bytes, const std::map<std::string, Shape>& shapes,
            std::map<std::string, Tensor>& out) {
  Cursor cursor(bytes);
  while (!cursor.at_end()) {
    const auto length = static_cast<size_t>(cursor.number());
    const std::string name(cursor.take(length), length);
    const auto dims = static_cast<size_t>(cursor.number());
    std::vector<int64_t> offset(dims), extent(dims);
    for (int64_t& n : offset) n = cursor.number();
    for (int64_t& n : extent) n = cursor.number();
    Tensor& whole = out[name];
    if (!whole.defined()) {
      // What no rank sends stays NaN and cannot pass for a result.
      whole = at::full(shapes.at(name), std::nan(""), at::TensorOptions().dtype(at::kDouble));
    }
    const Tensor part = at::zeros(extent, at::TensorOptions().dtype(at::kDouble));
    const size_t part_bytes = static_cast<size_t>(part.numel()) * sizeof(double);
    std::memcpy(part.mutable_data_ptr<double>(), cursor.take(part_bytes), part_bytes);
    box_view(whole, {offset, extent}).copy_(part);
  }
}

}  // namespace gather_detail

std::map<std::string, Tensor> gather_logical(
    ParallelManager& model, const std::function<Tensor(const OwnedSlice&)>& value) {
  std::map<std::string, Shape> shapes;
  for (const ParamMeta& meta : parameter_metas(model.spec())) shapes[meta.name] = meta.logical;
  std::map<std::string, Tensor> out;
  for (const std::string& bytes :
       model.pool().job().gather_bytes(gather_detail::pack(model, value), 0)) {
    gather_detail::unpack(bytes, shapes, out);
  }
  return out;
}

double parameter_norm(ParallelManager& model) {
  Tensor sum = at::zeros({1}, at::TensorOptions().dtype(at::kDouble));
  for (const OwnedSlice& slice : model.owned_slices()) {
    sum += slice.counted(slice.value).to(at::kCPU, at::kDouble).square().sum();
  }
  model.pool().job().all_reduce(sum, ReduceOp::Sum).wait_host();
  return std::sqrt(sum.item<double>());
}

}  // namespace strata
