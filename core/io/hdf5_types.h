#pragma once
// HDF5 handles and element types; private to core/io. 16-bit floats are user-defined types with
// IEEE half and bfloat16 fields, which HDF5 tools convert and print correctly.
#include <hdf5.h>

#include <string>
#include <utility>

#include "core/tensor.h"

namespace strata::io {

class HdfHandle {
 public:
  using Close = herr_t (*)(hid_t);
  HdfHandle(hid_t id, Close close) noexcept : id_(id), close_(close) {}
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
  hid_t get() const noexcept { return id_; }
  hid_t release() noexcept { return std::exchange(id_, -1); }
  bool valid() const noexcept { return id_ >= 0; }
  void reset() noexcept {
    if (id_ >= 0) close_(id_);
    id_ = -1;
  }

 private:
  hid_t id_;
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
at::ScalarType hdf5_scalar_type(hid_t type, const std::string& name, const std::string& where);

}  // namespace strata::io
