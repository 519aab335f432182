#include <ATen/ops/empty.h>

#include "core/error.h"
#include "core/io/crc32c.h"
#include "core/io/file.h"
#include "core/text.h"
#include "parallel/checkpoint/block_reader.h"
#include "parallel/checkpoint/catalogue.h"
#include "parallel/checkpoint/checkpoint.h"
#include "parallel/checkpoint/tiling.h"

namespace strata {

struct CheckpointReader::Impl {
  checkpoint_detail::Catalogue catalogue;
  std::map<std::string, TensorInfo> tensors;

  const checkpoint_detail::StoredTensor& stored(const std::string& path) const {
    const auto found = catalogue.tensors.find(path);
    if (found != catalogue.tensors.end()) return found->second;
    std::vector<std::string> known;
    for (const auto& [name, tensor] : catalogue.tensors) known.push_back(name);
    throw CheckpointError(cat(catalogue.directory.string(), ": has no tensor ", path, ".",
                              did_you_mean(path, known)));
  }

  io::File open(size_t shard) const {
    try {
      return io::File(catalogue.shard_path(shard), io::File::Mode::Read);
    } catch (const StorageError& error) {
      throw CheckpointError(error.what());
    }
  }
};

CheckpointReader::CheckpointReader(const std::filesystem::path& directory)
    : impl_(std::make_unique<Impl>()) {
  impl_->catalogue = checkpoint_detail::load_catalogue(directory);
  for (const auto& [path, tensor] : impl_->catalogue.tensors)
    impl_->tensors[path] = {tensor.dtype, tensor.shape};
}

CheckpointReader::~CheckpointReader() = default;

int64_t CheckpointReader::step() const { return impl_->catalogue.manifest.step; }
int64_t CheckpointReader::tokens() const { return impl_->catalogue.manifest.tokens; }
int64_t CheckpointReader::samples() const { return impl_->catalogue.manifest.samples; }
const std::string& CheckpointReader::model_fingerprint() const {
  return impl_->catalogue.manifest.model_fingerprint;
}
const CheckpointState& CheckpointReader::state() const { return impl_->catalogue.manifest.state; }
const std::map<std::string, std::string>& CheckpointReader::aliases() const {
  return impl_->catalogue.manifest.aliases;
}
const std::map<std::string, TensorInfo>& CheckpointReader::tensors() const {
  return impl_->tensors;
}
bool CheckpointReader::contains(const std::string& path) const {
  return impl_->tensors.count(path) != 0;
}
std::string CheckpointReader::model_hash() const { return impl_->catalogue.manifest.model_hash; }

std::string CheckpointReader::file_text(const std::string& name) const {
  for (const checkpoint_detail::ManifestFile& file : impl_->catalogue.manifest.files) {
    if (file.name != name || file.kind == "shard") continue;
    const std::filesystem::path path = impl_->catalogue.directory / name;
    std::string text;
    try {
      text = io::read_text(path);
    } catch (const StorageError& error) {
      throw CheckpointError(error.what());
    }
    if (io::crc_text(io::crc32c(text)) != file.crc) {
      throw CheckpointError(cat(path.string(), ": checksum does not match; damaged"));
    }
    return text;
  }
  throw CheckpointError(cat(impl_->catalogue.directory.string(), ": has no file ", name));
}

Tensor CheckpointReader::read(const std::string& path, const Box& box) const {
  const checkpoint_detail::StoredTensor& tensor = impl_->stored(path);
  bool inside =
      box.offset.size() == tensor.shape.size() && box.extent.size() == tensor.shape.size();
  for (size_t i = 0; inside && i < tensor.shape.size(); ++i) {
    inside = box.offset[i] >= 0 && box.extent[i] >= 0 && box.offset[i] <= tensor.shape[i] &&
             box.extent[i] <= tensor.shape[i] - box.offset[i];
  }
  if (!inside) {
    throw CheckpointError(cat(impl_->catalogue.directory.string(), ": tensor ", path, ": box at ",
                              shape_text(box.offset), " of ", shape_text(box.extent),
                              " is outside its shape ", shape_text(tensor.shape)));
  }
  Tensor out = at::empty(box.extent, tensor.dtype);
  if (out.numel() == 0) return out;
  int64_t covered = 0;
  for (const auto& part : tensor.parts) {
    const auto common = intersect(part.piece->box, box);
    if (!common) continue;
    checkpoint_detail::read_part(impl_->open(part.shard), *part.piece,
                                 impl_->catalogue.shards[part.shard].block, *common, box,
                                 static_cast<std::byte*>(out.data_ptr()));
    covered += element_count(common->extent);
  }
  STRATA_CHECK(covered == out.numel(),
               cat("checkpoint: ", path, ": ", covered, " of ", out.numel(), " elements read"));
  return out;
}

Tensor CheckpointReader::read_whole(const std::string& path) const {
  const Shape& shape = impl_->stored(path).shape;
  return read(path, {Shape(shape.size(), 0), shape});
}

std::vector<std::string> CheckpointReader::verify_blocks() const {
  std::vector<std::string> damaged;
  for (size_t shard = 0; shard < impl_->catalogue.shards.size(); ++shard) {
    const checkpoint_detail::Sidecar& sidecar = impl_->catalogue.shards[shard];
    io::File file;
    try {
      file = impl_->open(shard);
    } catch (const CheckpointError& error) {
      damaged.push_back(error.what());
      continue;
    }
    for (const checkpoint_detail::Piece& piece : sidecar.pieces) {
      const auto blocks = checkpoint_detail::damaged_blocks(file, piece, sidecar.block);
      damaged.insert(damaged.end(), blocks.begin(), blocks.end());
    }
  }
  return damaged;
}

}  // namespace strata
