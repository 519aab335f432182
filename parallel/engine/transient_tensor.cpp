#include "parallel/engine/transient_tensor.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/set.h>

#include <algorithm>

#include "core/error.h"

namespace strata {

Tensor BlockPool::take(int64_t bytes) {
  // The smallest that fits, unless that would waste more than half of it.
  auto best = free_.end();
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    const bool fits = it->numel() >= bytes && it->numel() / 2 <= bytes;
    if (fits && (best == free_.end() || it->numel() < best->numel())) best = it;
  }
  if (best == free_.end()) {
    bytes_ += bytes;
    return at::empty({bytes}, at::TensorOptions().dtype(at::kByte).device(device_));
  }
  Tensor block = std::move(*best);
  free_.erase(best);
  return block;
}

void BlockPool::give(Tensor block) { free_.push_back(std::move(block)); }

TransientTensor::TransientTensor(int64_t elements, at::ScalarType dtype, at::Device device) {
  if (device.is_meta()) {  // never has memory
    tensor_ = at::empty({elements}, at::TensorOptions().dtype(dtype).device(device));
    return;
  }
  const auto bytes = static_cast<int64_t>(c10::elementSize(dtype)) * elements;
  tensor_ = at::empty({0}, at::TensorOptions().dtype(dtype).device(device));
  tensor_.set_(c10::Storage(c10::Storage::use_byte_size_t(), bytes, at::DataPtr(nullptr, device),
                            nullptr, /*resizable=*/false),
               0, {elements}, {1});
}

void TransientTensor::attach(BlockPool& pool) {
  STRATA_CHECK(!attached(), "a transient tensor has its memory already");
  block_ = pool.take(static_cast<int64_t>(tensor_.storage().nbytes()));
  tensor_.storage().unsafeGetStorageImpl()->set_data_ptr_noswap(
      at::DataPtr(block_.mutable_data_ptr(), tensor_.device()));
}

void TransientTensor::detach(BlockPool& pool) {
  STRATA_CHECK(attached(), "a transient tensor has no memory");
  tensor_.storage().unsafeGetStorageImpl()->set_data_ptr_noswap(
      at::DataPtr(nullptr, tensor_.device()));
  pool.give(std::move(block_));
  block_ = Tensor();
}

}  // namespace strata
