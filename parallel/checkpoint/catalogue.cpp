#include "parallel/checkpoint/catalogue.h"

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/io/crc32c.h"
#include "core/io/file.h"
#include "core/text.h"
#include "parallel/checkpoint/tiling.h"

namespace strata::checkpoint_detail {
namespace catalogue_detail {

namespace fs = std::filesystem;

std::string read_file(const fs::path& path) {
  try {
    return io::read_text(path);
  } catch (const StorageError& error) {
    throw CheckpointError(error.what());
  }
}

void check_file(const fs::path& path, const ManifestFile& file) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) throw CheckpointError(cat(path.string(), ": missing"));
  const uintmax_t bytes = fs::file_size(path, error);
  if (error || bytes != static_cast<uintmax_t>(file.bytes)) {
    throw CheckpointError(
        cat(path.string(), ": has ", error ? 0 : bytes, " bytes, the manifest says ", file.bytes));
  }
}

std::string read_checked(const fs::path& path, const ManifestFile& file) {
  std::string text = read_file(path);
  if (io::crc_text(io::crc32c(text)) != file.crc) {
    throw CheckpointError(
        cat(path.string(), ": is not the file that the manifest was written for"));
  }
  return text;
}

}  // namespace catalogue_detail

std::map<std::string, StoredTensor> index_tensors(const std::vector<Sidecar>& shards,
                                                  const std::string& what) {
  std::map<std::string, StoredTensor> tensors;
  for (size_t shard = 0; shard < shards.size(); ++shard) {
    for (const Piece& piece : shards[shard].pieces) {
      auto [found, fresh] = tensors.try_emplace(piece.path);
      StoredTensor& tensor = found->second;
      if (fresh) {
        tensor.dtype = piece.dtype;
        tensor.shape = piece.global;
      } else if (tensor.dtype != piece.dtype || tensor.shape != piece.global) {
        throw CheckpointError(
            cat(what, ": tensor ", piece.path, ": shards disagree on its type or shape"));
      }
      tensor.parts.push_back({shard, &piece});
    }
  }
  for (auto& [path, tensor] : tensors) {
    std::sort(tensor.parts.begin(), tensor.parts.end(),
              [](const auto& a, const auto& b) { return a.piece->box < b.piece->box; });
    std::vector<const Box*> boxes;
    for (const StoredTensor::Part& part : tensor.parts) boxes.push_back(&part.piece->box);
    const std::string why = why_not_tiled(tensor.shape, boxes);
    if (!why.empty())
      throw CheckpointError(cat(what, ": tensor ", path, " ", shape_text(tensor.shape), ": ", why));
  }
  return tensors;
}

Catalogue load_catalogue(const std::filesystem::path& directory) {
  namespace fs = std::filesystem;
  Catalogue out;
  out.directory = directory;
  std::error_code error;
  if (!fs::is_directory(directory, error))
    throw CheckpointError(cat(directory.string(), ": no such directory"));
  const fs::path manifest = directory / kManifestName;
  if (!fs::is_regular_file(manifest, error)) {
    throw CheckpointError(
        cat(directory.string(), ": has no manifest.json; the save was not completed"));
  }
  if (fs::file_size(manifest, error) > static_cast<uintmax_t>(kMaxManifestBytes) || error) {
    throw CheckpointError(cat(manifest.string(), ": larger than ", kMaxManifestBytes, " bytes"));
  }
  out.manifest = parse_manifest(catalogue_detail::read_file(manifest), manifest.string());

  std::map<std::string, int64_t> shard_bytes;
  std::set<std::string> names;
  for (const ManifestFile& file : out.manifest.files) {
    if (!names.insert(file.name).second)
      throw CheckpointError(cat(manifest.string(), ": lists ", file.name, " twice"));
    catalogue_detail::check_file(directory / file.name, file);
    if (file.kind == "shard") shard_bytes[file.name] = file.bytes;
  }
  for (const ManifestFile& file : out.manifest.files) {
    if (file.kind != "sidecar") continue;
    const fs::path path = directory / file.name;
    out.shards.push_back(parse_sidecar(catalogue_detail::read_checked(path, file), path.string()));
    const Sidecar& sidecar = out.shards.back();
    const auto shard = shard_bytes.find(sidecar.file);
    if (shard == shard_bytes.end() || shard->second != sidecar.bytes) {
      throw CheckpointError(cat(path.string(), ": describes ", sidecar.file, " with ",
                                sidecar.bytes, " bytes, which the manifest does not list"));
    }
    shard_bytes.erase(shard);
  }
  if (!shard_bytes.empty()) {
    throw CheckpointError(
        cat(manifest.string(), ": shard ", shard_bytes.begin()->first, " has no piece table"));
  }
  out.tensors = index_tensors(out.shards, directory.string());

  int64_t elements = 0, bytes = 0;
  for (const Sidecar& shard : out.shards) {
    for (const Piece& piece : shard.pieces) {
      elements += element_count(piece.box.extent);
      bytes += piece.bytes;
    }
  }
  if (elements != out.manifest.elements_total || bytes != out.manifest.bytes_total ||
      static_cast<int64_t>(out.tensors.size()) != out.manifest.tensors_total) {
    throw CheckpointError(cat(directory.string(), ": its piece tables have ", out.tensors.size(),
                              " tensors, ", elements, " elements, ", bytes,
                              " bytes; the manifest says ", out.manifest.tensors_total, ", ",
                              out.manifest.elements_total, ", ", out.manifest.bytes_total));
  }
  return out;
}

}  // namespace strata::checkpoint_detail
