#pragma once
// HDF5 handles and element types; private to core/io. Handles are 64-bit numbers and status codes
// ints, as hdf5.h says (checked in the source), so that this header needs no HDF5. 16-bit floats
// are user-defined types with IEEE half and bfloat16 fields, which HDF5 tools convert and print
// correctly.
#include <cstdint>
#include <string>
#include <utility>

#include "core/tensor.h"

namespace strata::io {

class HdfHandle {
 public:
  using Close = int (*)(int64_t);
  HdfHandle(int64_t id, Close close) noexcept : id_(id), close_(close) {}
  ~HdfHandle() { reset(); }
  HdfHandle(HdfHandle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  HdfHandle& operator=(HdfHandle&& other) noexcept {
    if (this != &other) {
      reset();
      id_ = std::exchange(other.id_, -1);
      close_ = other.close_;
    }
    return *this;
  }
  int64_t get() const noexcept { return id_; }
  int64_t release() noexcept { return std::exchange(id_, -1); }
  bool valid() const noexcept { return id_ >= 0; }
  void reset() noexcept {
    if (id_ >= 0) close_(id_);
    id_ = -1;
  }

 private:
  int64_t id_;
  Close close_;
};

// The library prints every error unless it is told not to; call before using it.
void quiet_hdf5();
// What the library said last: "unable to open file: bad superblock signature".
std::string hdf5_reason();

// Type in files. Throws CheckpointError for complex and quantised types.
HdfHandle hdf5_type(at::ScalarType dtype);
// Reverse: `name` is the attribute "dtype" or empty. Throws CheckpointError (`where` names the
// dataset).
at::ScalarType hdf5_scalar_type(int64_t type, const std::string& name, const std::string& where);

}  // namespace strata::io
