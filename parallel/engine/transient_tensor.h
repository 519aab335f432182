#pragma once
// Flat tensors whose memory comes and goes (weights under ZeRO 3). The memory belongs to the
// storage, not to the tensor, so every view - a parameter, its transpose kept by autograd -
// follows. Reading one while it has no memory is an error of LibTorch, not of the machine.
#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace strata {

// Blocks of memory for transient tensors; what was given back is used again.
class BlockPool {
 public:
  explicit BlockPool(at::Device device) : device_(device) {}
  Tensor take(int64_t bytes);  // uint8
  void give(Tensor block);
  int64_t bytes() const noexcept { return bytes_; }  // of all blocks, in use or not

 private:
  at::Device device_;
  std::vector<Tensor> free_;
  int64_t bytes_ = 0;
};

class TransientTensor {
 public:
  TransientTensor(int64_t elements, at::ScalarType dtype, at::Device device);
  const Tensor& tensor() const noexcept { return tensor_; }
  bool attached() const noexcept { return block_.defined(); }
  void attach(BlockPool& pool);  // contents undefined
  void detach(BlockPool& pool);

 private:
  Tensor tensor_, block_;
};

}  // namespace strata
