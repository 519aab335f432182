#pragma once
// The little HDF5 that checkpoints and token sets need, behind RAII handles. Not thread safe: one
// thread at a time. Creation: library version bounds V18..V110, alignment (65536, 4096), no object
// times, contiguous datasets allocated early and never filled, so two writes of the same data give
// the same bytes. Reading refuses what lets a file show bytes of other files: external storage,
// external links, virtual datasets whose sources are not plain names present in the same folder.
// Every failure to read is a CheckpointError.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace strata::io {

class HdfFile {
 public:
  enum class Mode { Read, Create };
  HdfFile(const std::string& path,
          Mode mode);  // throws StorageError (create) or CheckpointError (read)
  ~HdfFile();
  HdfFile(HdfFile&&) noexcept;

  // Creates an early-allocated contiguous dataset (intermediate groups too) and returns its byte
  // offset in the file, where the caller may write the raw elements with pwrite after close(); 0
  // when it has no elements. Types HDF5 has not (bool, 8-bit floats) are stored as unsigned bytes;
  // attribute "dtype" always tells the type.
  int64_t create_dataset(const std::string& path, at::ScalarType dtype, const Shape& shape);
  void set_attribute(const std::string& path, const std::string& name,
                     const std::string& value);  // path "/" = root
  void set_attribute(const std::string& path, const std::string& name,
                     const std::vector<uint64_t>& value);
  std::string text_attribute(const std::string& path, const std::string& name) const;

  bool has_attribute(const std::string& path, const std::string& name) const;
  bool contains(const std::string& path) const;  // a dataset of that path

  std::vector<std::string> datasets() const;  // full paths, sorted
  Shape shape(const std::string& path) const;
  at::ScalarType dtype(const std::string& path) const;
  Tensor read(const std::string& path) const;
  Tensor read_slab(const std::string& path, const Shape& offset, const Shape& extent) const;

  // A dataset presenting pieces of other files (relative names) as one logical tensor; holes read
  // as NaN or minimum.
  struct VirtualPiece {
    std::string file, dataset;
    Shape offset, extent;
  };
  void create_virtual(const std::string& path, at::ScalarType dtype, const Shape& shape,
                      const std::vector<VirtualPiece>& pieces);
  void close();  // throws StorageError when the file cannot be completed

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

std::string hdf5_version();  // of the library: "1.10.8"

}  // namespace strata::io
