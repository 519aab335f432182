#include "core/io/safetensors.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/io/file.h"
#include "core/io/json_limits.h"
#include "core/io/safetensors_header.h"
#include "core/text.h"

namespace strata::io {
namespace safetensors_detail {

namespace fs = std::filesystem;

constexpr uint64_t kDataAlignment = 4096;

struct LoadedFile {
  std::string path;
  MappedFile map;
  SafetensorsHeader header;
};

LoadedFile load(const fs::path& path) {
  LoadedFile file;
  file.path = path.string();
  try {
    file.map = MappedFile(path);
  } catch (const StorageError& error) {
    throw CheckpointError(error.what());
  }
  file.header = parse_safetensors_header(file.map.text(), file.path);
  return file;
}

bool is_plain_name(const std::string& name) {
  return !name.empty() && name.size() <= 255 && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
}

// Shard of each tensor, from model.safetensors.index.json.
std::map<std::string, std::string> read_weight_map(const fs::path& index) {
  std::string text;
  try {
    text = read_text(index);
  } catch (const StorageError& error) {
    throw CheckpointError(error.what());
  }
  const nlohmann::json json = parse_json(text, index.string());
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object()) {
    throw CheckpointError(cat(index.string(), ": has no object \"weight_map\""));
  }
  std::map<std::string, std::string> shards;
  for (const auto& [tensor, file] : json["weight_map"].items()) {
    if (!file.is_string() || !is_plain_name(file.get_ref<const std::string&>())) {
      throw CheckpointError(
          cat(index.string(), ": tensor ", quoted_name(tensor),
              ": the shard must be the plain name of a file in the same folder, without a path"));
    }
    shards[tensor] = file.get<std::string>();
  }
  return shards;
}

[[noreturn]] void refuse_folder(const fs::path& folder) {
  bool pickles = false;
  std::vector<std::string> others;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string extension = entry.path().extension().string();
    pickles = pickles || extension == ".bin" || extension == ".pt" || extension == ".pth";
    if (extension == ".safetensors") others.push_back(entry.path().filename().string());
  }
  std::sort(others.begin(), others.end());
  if (others.size() > 20) others.resize(20);
  if (!others.empty()) {
    throw CheckpointError(cat(
        folder.string(),
        ": has neither model.safetensors nor model.safetensors.index.json; name one of its files "
        "instead: ",
        join(others)));
  }
  if (pickles) {
    throw CheckpointError(cat(folder.string(),
                              ": holds only .bin, .pt or .pth files. Those are Python pickles, "
                              "which can run code when read, so they are "
                              "never opened here; save the model as safetensors on the producing "
                              "side (save_pretrained(..., "
                              "safe_serialization=True)) and give that folder"));
  }
  throw CheckpointError(cat(folder.string(), ": no safetensors file found"));
}

// Elements of U8 storage behind Bool must be 0 or 1: any other value is undefined behaviour for the
// reader of a bool.
void check_bools(const Tensor& tensor, const std::string& file, const std::string& name) {
  const auto* bytes = static_cast<const unsigned char*>(tensor.const_data_ptr());
  const auto* end = bytes + tensor.numel();
  const auto* bad = std::find_if(bytes, end, [](unsigned char b) { return b > 1; });
  if (bad != end) {
    throw CheckpointError(cat(file, ": tensor ", quoted_name(name), ": element ", bad - bytes,
                              " of a BOOL tensor is ", static_cast<int>(*bad), ", allowed: 0, 1"));
  }
}

}  // namespace safetensors_detail

struct SafetensorsReader::Impl {
  struct Place {
    size_t file;
    SafetensorsEntry entry;
    uint64_t begin;  // byte offset in the file
  };
  std::string path;
  std::vector<safetensors_detail::LoadedFile> files;
  std::map<std::string, Place> tensors;
  std::map<std::string, std::string> metadata;

  const Place& place(const std::string& name) const {
    const auto found = tensors.find(name);
    if (found != tensors.end()) return found->second;
    std::vector<std::string> known;
    for (const auto& [key, value] : tensors) known.push_back(key);
    throw CheckpointError(
        cat(path, ": has no tensor ", quoted_name(name), ".", did_you_mean(name, known)));
  }

  void add(const std::string& name, size_t file) {
    const SafetensorsHeader& header = files[file].header;
    const auto found = header.tensors.find(name);
    if (found == header.tensors.end()) {
      throw CheckpointError(cat(files[file].path, ": tensor ", quoted_name(name),
                                " is listed in model.safetensors.index.json but not in this file"));
    }
    tensors[name] = {
        file, {found->second.dtype, found->second.shape}, header.data_start + found->second.begin};
  }
};

SafetensorsReader::SafetensorsReader(const std::string& path) : impl_(std::make_unique<Impl>()) {
  namespace fs = std::filesystem;
  impl_->path = path;
  std::error_code error;
  fs::path single = path;
  if (fs::is_directory(path, error)) {
    single = fs::path(path) / "model.safetensors";
    const fs::path index = fs::path(path) / "model.safetensors.index.json";
    if (!fs::exists(single, error)) {
      if (!fs::exists(index, error)) safetensors_detail::refuse_folder(path);
      const auto shards = safetensors_detail::read_weight_map(index);
      std::map<std::string, size_t> loaded;
      for (const auto& [tensor, shard] : shards) {
        auto [entry, fresh] = loaded.try_emplace(shard, impl_->files.size());
        if (fresh) {
          if (!fs::exists(fs::path(path) / shard, error)) {
            throw CheckpointError(cat((fs::path(path) / shard).string(),
                                      ": missing; model.safetensors.index.json lists it"));
          }
          impl_->files.push_back(safetensors_detail::load(fs::path(path) / shard));
          impl_->metadata.insert(impl_->files.back().header.metadata.begin(),
                                 impl_->files.back().header.metadata.end());
        }
        impl_->add(tensor, entry->second);
      }
      return;
    }
  } else {
    const std::string extension = single.extension().string();
    if (extension == ".bin" || extension == ".pt" || extension == ".pth") {
      throw CheckpointError(cat(
          path,
          ": a Python pickle, which can run code when read, so it is never opened here; save the "
          "model as safetensors on the producing side"));
    }
  }
  impl_->files.push_back(safetensors_detail::load(single));
  impl_->metadata = impl_->files[0].header.metadata;
  for (const auto& [name, entry] : impl_->files[0].header.tensors) impl_->add(name, 0);
}

SafetensorsReader::~SafetensorsReader() = default;
SafetensorsReader::SafetensorsReader(SafetensorsReader&&) noexcept = default;

std::vector<std::string> SafetensorsReader::names() const {
  std::vector<std::string> names;
  for (const auto& [name, place] : impl_->tensors) names.push_back(name);
  return names;
}

bool SafetensorsReader::contains(const std::string& name) const {
  return impl_->tensors.count(name) != 0;
}

const SafetensorsEntry& SafetensorsReader::entry(const std::string& name) const {
  return impl_->place(name).entry;
}

const std::map<std::string, std::string>& SafetensorsReader::metadata() const {
  return impl_->metadata;
}

Tensor SafetensorsReader::read(const std::string& name) const {
  const Impl::Place& place = impl_->place(name);
  const safetensors_detail::LoadedFile& file = impl_->files[place.file];
  Tensor tensor = at::empty(place.entry.shape, place.entry.dtype);
  if (tensor.nbytes() > 0)
    std::memcpy(tensor.data_ptr(), file.map.data() + place.begin, tensor.nbytes());
  if (place.entry.dtype == at::kBool) safetensors_detail::check_bools(tensor, file.path, name);
  return tensor;
}

Tensor SafetensorsReader::read_rows(const std::string& name, int64_t begin, int64_t end) const {
  const Impl::Place& place = impl_->place(name);
  const safetensors_detail::LoadedFile& file = impl_->files[place.file];
  Shape shape = place.entry.shape;
  if (shape.empty() || begin < 0 || begin > end || end > shape[0]) {
    throw CheckpointError(cat(file.path, ": tensor ", quoted_name(name), ": rows [", begin, ", ",
                              end, ") are outside its shape ", shape_text(shape)));
  }
  shape[0] = 1;
  const int64_t row_bytes =
      element_count(shape) * static_cast<int64_t>(c10::elementSize(place.entry.dtype));
  shape[0] = end - begin;
  Tensor tensor = at::empty(shape, place.entry.dtype);
  if (tensor.nbytes() > 0) {
    std::memcpy(tensor.data_ptr(), file.map.data() + place.begin + begin * row_bytes,
                tensor.nbytes());
  }
  if (place.entry.dtype == at::kBool) safetensors_detail::check_bools(tensor, file.path, name);
  return tensor;
}

void write_safetensors(const std::string& path,
                       const std::vector<std::pair<std::string, Tensor>>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  namespace fs = std::filesystem;
  // Wide elements first, so that every tensor starts at a multiple of its element size (readers
  // that view instead of copying need that); names in order within one width.
  std::vector<const std::pair<std::string, Tensor>*> order;
  for (const auto& named : tensors) order.push_back(&named);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    const auto left = a->second.element_size(), right = b->second.element_size();
    return left != right ? left > right : a->first < b->first;
  });
  nlohmann::json header = nlohmann::json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t end = 0;
  for (const auto* named : order) {
    const auto& [name, tensor] = *named;
    STRATA_CHECK(!name.empty() && name != "__metadata__",
                 cat("safetensors: no tensor can be called \"", name, "\""));
    STRATA_CHECK(!header.contains(name), cat("safetensors: two tensors are called ", name));
    const std::optional<std::string> dtype = safetensors_dtype_name(tensor.scalar_type());
    STRATA_CHECK(dtype.has_value(),
                 cat("safetensors: tensor ", name, " has a dtype the format does not know: ",
                     c10::toString(tensor.scalar_type())));
    const uint64_t begin = end;
    end += tensor.numel() * tensor.element_size();
    header[name] = {
        {"dtype", *dtype}, {"shape", tensor.sizes().vec()}, {"data_offsets", {begin, end}}};
  }
  std::string text = header.dump();
  const uint64_t unpadded = sizeof(uint64_t) + text.size();
  const uint64_t padded = (unpadded + safetensors_detail::kDataAlignment - 1) /
                          safetensors_detail::kDataAlignment * safetensors_detail::kDataAlignment;
  text.append(padded - unpadded, ' ');
  STRATA_CHECK(text.size() <= kMaxSafetensorsHeader,
               cat("safetensors: the header of ", path, " exceeds 100 MB"));
  std::string start(sizeof(uint64_t), '\0');
  for (size_t i = 0; i < start.size(); ++i)
    start[i] = static_cast<char>(uint64_t{text.size()} >> (8 * i) & 0xFF);
  start += text;

  const fs::path target = path;
  fs::path temporary = target;
  temporary += ".tmp";
  try {
    File file(temporary, File::Mode::Create);
    file.reserve(static_cast<int64_t>(start.size() + end));
    file.write_at(0, start.data(), start.size());
    uint64_t offset = start.size();
    for (const auto* named : order) {
      const Tensor host = named->second.detach().cpu().contiguous();
      file.write_at(static_cast<int64_t>(offset), host.const_data_ptr(), host.nbytes());
      offset += host.nbytes();
    }
    file.sync();
    file.close();
    rename_path(temporary, target);
  } catch (...) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw;
  }
  sync_directory(target.has_parent_path() ? target.parent_path() : fs::path("."));
}

}  // namespace strata::io
