#include "parallel/checkpoint/format.h"

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/error.h"
#include "core/io/crc32c.h"
#include "core/io/json_limits.h"
#include "core/text.h"

namespace strata::checkpoint_detail {
namespace format_detail {

using nlohmann::json;

constexpr const char* kNoCrc = "00000000";

// The CRC of a JSON file is stored in the file itself, as its top-level key "self": the checksum of
// the text with eight zeros in its place. Lines of top-level keys start with exactly one space
// (indent 1), which no nested key and no string can imitate, so the place is found without parsing.
constexpr std::string_view kSelfKey = "\n \"self\": \"";

size_t self_position(std::string_view text) {
  const size_t at = text.find(kSelfKey);
  return at == std::string_view::npos || at + kSelfKey.size() + 8 > text.size()
             ? std::string_view::npos
             : at + kSelfKey.size();
}

std::string seal(json&& document) {
  document["self"] = kNoCrc;
  std::string text = document.dump(1) + "\n";
  const size_t at = self_position(text);
  STRATA_CHECK(at != std::string::npos, "sealed JSON has no place for its checksum");
  text.replace(at, 8, io::crc_text(io::crc32c(text)));
  return text;
}

json unseal(std::string_view text, const std::string& what) {
  const size_t at = self_position(text);
  if (at == std::string_view::npos)
    throw CheckpointError(cat(what, ": has no checksum (truncated or not ours)"));
  uint32_t crc = io::crc32c(text.data(), at);
  crc = io::crc32c(kNoCrc, 8, crc);
  crc = io::crc32c(text.data() + at + 8, text.size() - at - 8, crc);
  if (io::crc_text(crc) != text.substr(at, 8))
    throw CheckpointError(cat(what, ": checksum does not match; damaged"));
  json document = io::parse_json(text, what);
  if (!document.is_object()) throw CheckpointError(cat(what, ": must be one JSON object"));
  return document;
}

// Typed access with messages that name the key.
const json& member(const json& object, const char* key, const std::string& what) {
  const auto found = object.find(key);
  if (found == object.end()) throw CheckpointError(cat(what, ": key \"", key, "\" is missing"));
  return *found;
}

int64_t integer(const json& value, const std::string& where) {
  if (!value.is_number_integer() ||
      (value.is_number_unsigned() &&
       value.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()})) {
    throw CheckpointError(cat(where, ": must be an integer of 64 bits"));
  }
  const int64_t number = value.get<int64_t>();
  if (number < 0) throw CheckpointError(cat(where, ": must not be negative"));
  return number;
}

int64_t integer(const json& object, const char* key, const std::string& what) {
  return integer(member(object, key, what), cat(what, ": \"", key, "\""));
}

std::string text(const json& value, const std::string& where) {
  if (!value.is_string()) throw CheckpointError(cat(where, ": must be a text"));
  return value.get<std::string>();
}

std::string text(const json& object, const char* key, const std::string& what) {
  return text(member(object, key, what), cat(what, ": \"", key, "\""));
}

Shape shape(const json& value, const std::string& where) {
  if (!value.is_array() || value.size() > 32)
    throw CheckpointError(cat(where, ": must be a list of at most 32 integers"));
  Shape out;
  for (const json& item : value) out.push_back(integer(item, where));
  return out;
}

std::map<std::string, std::string> text_map(const json& object, const char* key,
                                            const std::string& what) {
  const json& value = member(object, key, what);
  if (!value.is_object()) throw CheckpointError(cat(what, ": \"", key, "\" must be an object"));
  std::map<std::string, std::string> out;
  for (const auto& [name, item] : value.items())
    out[name] = text(item, cat(what, ": \"", key, "\""));
  return out;
}

std::vector<uint32_t> parse_crcs(const std::string& digits, int64_t bytes, int64_t block,
                                 const std::string& where) {
  const int64_t blocks = bytes / block + (bytes % block != 0 ? 1 : 0);
  if (static_cast<int64_t>(digits.size()) != 8 * blocks) {
    throw CheckpointError(
        cat(where, ": has ", digits.size(), " checksum digits, expected ", 8 * blocks));
  }
  std::vector<uint32_t> crcs;
  for (size_t i = 0; i < digits.size(); ++i) {
    const char c = digits[i];
    const int value = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (value < 0) throw CheckpointError(cat(where, ": checksums must be hexadecimal digits"));
    if (i % 8 == 0) crcs.push_back(0);
    crcs.back() = crcs.back() << 4 | static_cast<uint32_t>(value);
  }
  return crcs;
}

Piece parse_piece(const json& row, int64_t file_bytes, int64_t block, const std::string& what) {
  if (!row.is_array() || row.size() != 8)
    throw CheckpointError(cat(what, ": a piece must be a list of eight values"));
  Piece piece;
  piece.path = text(row[0], cat(what, ": piece name"));
  const std::string where = cat(what, ": tensor ", piece.path.substr(0, 200));
  if (const std::string why = why_bad_path(piece.path); !why.empty())
    throw CheckpointError(cat(where, ": ", why));
  try {
    piece.dtype = parse_dtype(text(row[1], where));
  } catch (const ConfigError& error) {
    throw CheckpointError(cat(where, ": ", error.what()));
  }
  piece.global = shape(row[2], where);
  piece.box.offset = shape(row[3], where);
  piece.box.extent = shape(row[4], where);
  piece.offset = integer(row[5], where);
  piece.bytes = integer(row[6], where);
  if (box_bytes(piece.global, piece.dtype) < 0)
    throw CheckpointError(cat(where, ": its shape is too large"));
  bool inside = piece.box.offset.size() == piece.global.size() &&
                piece.box.extent.size() == piece.global.size();
  for (size_t i = 0; inside && i < piece.global.size(); ++i) {
    inside = piece.box.offset[i] <= piece.global[i] &&
             piece.box.extent[i] <= piece.global[i] - piece.box.offset[i];
  }
  if (!inside) {
    throw CheckpointError(cat(where, ": box at ", shape_text(piece.box.offset), " of ",
                              shape_text(piece.box.extent), " is outside the shape ",
                              shape_text(piece.global)));
  }
  if (piece.bytes != box_bytes(piece.box.extent, piece.dtype)) {
    throw CheckpointError(cat(where, ": ", piece.bytes, " bytes do not match its box ",
                              shape_text(piece.box.extent)));
  }
  if (piece.offset > file_bytes || piece.bytes > file_bytes - piece.offset) {
    throw CheckpointError(
        cat(where, ": bytes [", piece.offset, ", +", piece.bytes, ") are outside its shard"));
  }
  piece.crcs = parse_crcs(text(row[7], where), piece.bytes, block, where);
  return piece;
}

}  // namespace format_detail

std::string write_sidecar(const Sidecar& sidecar) {
  nlohmann::json document;
  document["file"] = sidecar.file;
  document["bytes"] = sidecar.bytes;
  document["block"] = sidecar.block;
  nlohmann::json pieces = nlohmann::json::array();
  for (const Piece& piece : sidecar.pieces) {
    std::string crcs;
    for (const uint32_t crc : piece.crcs) crcs += io::crc_text(crc);
    pieces.push_back(
        nlohmann::json::array({piece.path, dtype_name(piece.dtype), piece.global, piece.box.offset,
                               piece.box.extent, piece.offset, piece.bytes, crcs}));
  }
  document["pieces"] = std::move(pieces);
  return format_detail::seal(std::move(document));
}

Sidecar parse_sidecar(std::string_view source, const std::string& what) {
  const nlohmann::json document = format_detail::unseal(source, what);
  Sidecar sidecar;
  sidecar.file = format_detail::text(document, "file", what);
  sidecar.bytes = format_detail::integer(document, "bytes", what);
  sidecar.block = format_detail::integer(document, "block", what);
  if (!is_file_name(sidecar.file))
    throw CheckpointError(cat(what, ": \"file\" must be a plain file name"));
  if (sidecar.block < 4096 || sidecar.block > (int64_t{1} << 30)) {
    throw CheckpointError(
        cat(what, ": \"block\": got ", sidecar.block, ", allowed: 4096 to 1073741824"));
  }
  const nlohmann::json& pieces = format_detail::member(document, "pieces", what);
  if (!pieces.is_array()) throw CheckpointError(cat(what, ": \"pieces\" must be a list"));
  for (const nlohmann::json& row : pieces)
    sidecar.pieces.push_back(format_detail::parse_piece(row, sidecar.bytes, sidecar.block, what));
  return sidecar;
}

std::string write_manifest(const Manifest& manifest) {
  nlohmann::json document;
  document["format"] = kFormat;
  document["version"] = {{"major", kVersionMajor}, {"minor", kVersionMinor}};
  document["step"] = manifest.step;
  document["tokens"] = manifest.tokens;
  document["samples"] = manifest.samples;
  document["wall_time_utc"] = manifest.time_utc;
  document["run_id"] = manifest.run_id;
  document["parent"] = manifest.parent;
  document["writer"] = manifest.writer;
  document["model_fingerprint"] = manifest.model_fingerprint;
  document["hash"] = nlohmann::json::object();
  if (!manifest.model_hash.empty()) document["hash"]["model"] = manifest.model_hash;
  nlohmann::json files = nlohmann::json::array();
  for (const ManifestFile& file : manifest.files) {
    nlohmann::json row = {{"name", file.name}, {"kind", file.kind}, {"bytes", file.bytes}};
    if (!file.crc.empty()) row["crc32c"] = file.crc;
    files.push_back(std::move(row));
  }
  document["files"] = std::move(files);
  document["tensors_total"] = manifest.tensors_total;
  document["elements_total"] = manifest.elements_total;
  document["bytes_total"] = manifest.bytes_total;
  nlohmann::json state = nlohmann::json::object();
  for (const auto& [key, value] : manifest.state) {
    state[key] = nlohmann::json::parse(value, nullptr, false);
    STRATA_CHECK(!state[key].is_discarded(),
                 cat("checkpoint state \"", key, "\" is not JSON: ", value));
  }
  document["state"] = std::move(state);
  document["aliases"] = manifest.aliases;
  return format_detail::seal(std::move(document));
}

Manifest parse_manifest(std::string_view source, const std::string& what) {
  const nlohmann::json document = format_detail::unseal(source, what);
  if (format_detail::text(document, "format", what) != kFormat)
    throw CheckpointError(cat(what, ": not a Strata checkpoint"));
  const nlohmann::json& version = format_detail::member(document, "version", what);
  if (!version.is_object()) throw CheckpointError(cat(what, ": \"version\" must be an object"));
  const int64_t major = format_detail::integer(version, "major", what);
  if (major > kVersionMajor) {
    throw CheckpointError(cat(what, ": written by a newer Strata (format ", major,
                              ", this program reads up to ", kVersionMajor, ")"));
  }
  Manifest manifest;
  manifest.step = format_detail::integer(document, "step", what);
  manifest.tokens = format_detail::integer(document, "tokens", what);
  manifest.samples = format_detail::integer(document, "samples", what);
  manifest.time_utc = format_detail::text(document, "wall_time_utc", what);
  manifest.run_id = format_detail::text(document, "run_id", what);
  manifest.parent = format_detail::text(document, "parent", what);
  manifest.model_fingerprint = format_detail::text(document, "model_fingerprint", what);
  manifest.writer = format_detail::text_map(document, "writer", what);
  const auto hashes = format_detail::text_map(document, "hash", what);
  if (const auto found = hashes.find("model"); found != hashes.end())
    manifest.model_hash = found->second;
  const nlohmann::json& files = format_detail::member(document, "files", what);
  if (!files.is_array()) throw CheckpointError(cat(what, ": \"files\" must be a list"));
  for (const nlohmann::json& row : files) {
    if (!row.is_object()) throw CheckpointError(cat(what, ": \"files\" must hold objects"));
    ManifestFile file;
    file.name = format_detail::text(row, "name", what);
    file.kind = format_detail::text(row, "kind", what);
    file.bytes = format_detail::integer(row, "bytes", what);
    if (!is_file_name(file.name))
      throw CheckpointError(cat(what, ": file names must be plain names"));
    if (file.kind != "shard") file.crc = format_detail::text(row, "crc32c", what);
    manifest.files.push_back(std::move(file));
  }
  manifest.tensors_total = format_detail::integer(document, "tensors_total", what);
  manifest.elements_total = format_detail::integer(document, "elements_total", what);
  manifest.bytes_total = format_detail::integer(document, "bytes_total", what);
  const nlohmann::json& state = format_detail::member(document, "state", what);
  if (!state.is_object()) throw CheckpointError(cat(what, ": \"state\" must be an object"));
  for (const auto& [key, value] : state.items()) manifest.state[key] = value.dump();
  manifest.aliases = format_detail::text_map(document, "aliases", what);
  return manifest;
}

std::string why_bad_path(const std::string& path) {
  if (path.size() > 512) return "name is longer than 512 bytes";
  for (const char c : path) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f || c == '%' || c == '@') {
      return "name must not have control characters, '%' or '@'";
    }
  }
  const std::vector<std::string> parts = split(path, '/');
  if (parts.size() < 3 || !parts[0].empty() ||
      (parts[1] != "model" && parts[1] != "optim" && parts[1] != "state" &&
       parts[1] != "model_ema")) {
    return "name must start with /model/, /optim/, /state/ or /model_ema/";
  }
  for (size_t i = 2; i < parts.size(); ++i) {
    if (parts[i].empty() || parts[i] == "." || parts[i] == "..")
      return "name has an empty, '.' or '..' component";
  }
  return "";
}

bool is_file_name(std::string_view name) {
  return !name.empty() && name.size() <= 64 && name[0] != '.' &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '.' || c == '_' || c == '-';
         });
}

std::string shard_name(int number) {
  char name[32];
  std::snprintf(name, sizeof(name), "shard-%05d", number);
  return name;
}

std::string dataset_name(const std::string& path, int copy) {
  return copy == 0 ? path : cat(path, "@", copy);
}

std::string step_name(int64_t step) {
  char name[40];
  std::snprintf(name, sizeof(name), "step-%012lld", static_cast<long long>(step));
  return name;
}

int64_t parse_step_name(const std::string& name) {
  if (name.size() != 17 || !starts_with(name, "step-")) return -1;
  int64_t step = 0;
  for (const char c : name.substr(5)) {
    if (c < '0' || c > '9') return -1;
    step = step * 10 + (c - '0');
  }
  return step;
}

std::string utc_time(const char* format) {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char text[64];
  return std::string(text, std::strftime(text, sizeof(text), format, &parts));
}

int64_t box_bytes(const Shape& extent, at::ScalarType dtype) {
  const int64_t width = static_cast<int64_t>(c10::elementSize(dtype));
  int64_t bytes = width, bound = width;  // bound: strides of empty tensors must fit too
  for (const int64_t size : extent) {
    if (size < 0 || __builtin_mul_overflow(bound, std::max<int64_t>(size, 1), &bound)) return -1;
    bytes *= size;
  }
  return bytes;
}

}  // namespace strata::checkpoint_detail
