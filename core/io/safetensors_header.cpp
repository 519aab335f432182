#include "core/io/safetensors_header.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/text.h"

namespace strata::io {
namespace safetensors_header_detail {

struct NamedType {
  const char* name;
  at::ScalarType type;
};
constexpr NamedType kTypes[] = {
    {"BOOL", at::ScalarType::Bool},
    {"U8", at::ScalarType::Byte},
    {"I8", at::ScalarType::Char},
    {"I16", at::ScalarType::Short},
    {"U16", at::ScalarType::UInt16},
    {"F16", at::ScalarType::Half},
    {"BF16", at::ScalarType::BFloat16},
    {"I32", at::ScalarType::Int},
    {"U32", at::ScalarType::UInt32},
    {"F32", at::ScalarType::Float},
    {"F64", at::ScalarType::Double},
    {"I64", at::ScalarType::Long},
    {"U64", at::ScalarType::UInt64},
    {"F8_E4M3", at::ScalarType::Float8_e4m3fn},
    {"F8_E5M2", at::ScalarType::Float8_e5m2},
};

constexpr size_t kMaxDims = 32;

// Builds the entries while the JSON is read: no document tree, duplicate keys seen, nesting bounded
// by the states.
class Handler final : public nlohmann::json_sax<nlohmann::json> {
 public:
  Handler(const std::string& path, SafetensorsHeader& header) : path_(path), header_(header) {}

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool number_integer(number_integer_t) override { return unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t&) override {
    return unexpected("a fraction or too large a number");
  }
  bool binary(binary_t&) override { return unexpected("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (state_ == State::Shape) {
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
        return unexpected("too large a number");
      if (entry_.shape.size() >= kMaxDims) fail(cat("has more than ", kMaxDims, " dimensions"));
      entry_.shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (state_ == State::Offsets) {
      if (offsets_ == 2) fail("\"data_offsets\" has more than two numbers");
      (offsets_ == 0 ? entry_.begin : entry_.end) = value;
      ++offsets_;
      return true;
    }
    return unexpected("a number");
  }

  bool string(string_t& value) override {
    if (state_ == State::Metadata) {
      if (!header_.metadata.emplace(key_, value).second) {
        fail(cat("key ", quoted_name(key_), " of __metadata__ appears twice"));
      }
      return true;
    }
    if (state_ != State::Entry || key_ != "dtype") return unexpected("a string");
    for (const NamedType& known : kTypes) {
      if (value == known.name) {
        entry_.dtype = known.type;
        return true;
      }
    }
    std::vector<std::string> names;
    for (const NamedType& known : kTypes) names.emplace_back(known.name);
    fail(cat("dtype: got ", quoted_name(value), ", allowed: ", join(names)));
  }

  bool key(string_t& key) override {
    if (state_ == State::Top) {
      name_ = key;
      if (key == "__metadata__") {
        if (std::exchange(has_metadata_, true)) fail("appears twice");
      } else if (header_.tensors.count(key) != 0) {
        fail("appears twice");
      }
    } else if (state_ == State::Entry) {
      if (key != "dtype" && key != "shape" && key != "data_offsets") {
        fail(cat("unknown key ", quoted_name(key), ", allowed: dtype, shape, data_offsets"));
      }
      bool& seen = key == "dtype" ? has_dtype_ : key == "shape" ? has_shape_ : has_offsets_;
      if (std::exchange(seen, true)) fail(cat("key \"", key, "\" appears twice"));
    }
    key_ = key;
    return true;
  }

  bool start_object(size_t) override {
    switch (state_) {
      case State::Start:
        state_ = State::Top;
        return true;
      case State::Top:
        state_ = name_ == "__metadata__" ? State::Metadata : State::Entry;
        entry_ = {};
        has_dtype_ = has_shape_ = has_offsets_ = false;
        offsets_ = 0;
        return true;
      default:
        return unexpected("an object");
    }
  }

  bool end_object() override {
    if (state_ == State::Entry) {
      if (!has_dtype_ || !has_shape_ || !has_offsets_ || offsets_ != 2) {
        fail("needs \"dtype\", \"shape\" and \"data_offsets\": [begin, end]");
      }
      check_size();
      header_.tensors.emplace(name_, std::move(entry_));
    }
    state_ = state_ == State::Top ? State::End : State::Top;
    return true;
  }

  bool start_array(size_t) override {
    if (state_ == State::Entry && key_ == "shape") {
      state_ = State::Shape;
      return true;
    }
    if (state_ == State::Entry && key_ == "data_offsets") {
      state_ = State::Offsets;
      return true;
    }
    return unexpected("an array");
  }

  bool end_array() override {
    state_ = State::Entry;
    return true;
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::json::exception& error) override {
    throw CheckpointError(cat(path_, ": header byte ", position, " (file byte ", 7 + position,
                              "): not valid JSON (", printable(error.what()), ")"));
  }

 private:
  enum class State { Start, Top, Metadata, Entry, Shape, Offsets, End };

  static std::string printable(std::string_view text) {
    std::string out = quoted_name(text);
    return out.substr(1, out.size() - 2);
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw CheckpointError(cat(path_, ": tensor ", quoted_name(name_), ": ", what));
  }

  [[noreturn]] bool unexpected(const char* got) const {
    if (state_ == State::Start || state_ == State::End) {
      throw CheckpointError(cat(path_, ": the header must be one JSON object, got ", got));
    }
    if (state_ == State::Top)
      fail(cat("must be an object with dtype, shape and data_offsets, got ", got));
    if (state_ == State::Metadata)
      fail(cat("value of ", quoted_name(key_), " must be a string, got ", got));
    fail(cat("\"", key_, "\": got ", got, ", allowed: ",
             key_ == "dtype"   ? "the name of a type"
             : key_ == "shape" ? "a list of non-negative integers"
                               : "[begin, end] in bytes"));
  }

  void check_size() const {
    const uint64_t width = c10::elementSize(entry_.dtype);
    // Also bounded where a dimension is zero, because strides are products of the others.
    uint64_t bytes = width, bound = width;
    bool overflow = false;
    for (const int64_t extent : entry_.shape) {
      overflow =
          overflow || __builtin_mul_overflow(
                          bound, static_cast<uint64_t>(std::max<int64_t>(extent, 1)), &bound);
      bytes = overflow ? 0 : bytes * static_cast<uint64_t>(extent);
    }
    if (overflow || bound > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      fail(cat("shape ", shape_text(entry_.shape), " has more bytes than 64 bits can count"));
    }
    if (entry_.end < entry_.begin || entry_.end - entry_.begin != bytes) {
      fail(cat("data_offsets [", entry_.begin, ", ", entry_.end, "] but shape ",
               shape_text(entry_.shape), " needs ", bytes, " bytes"));
    }
  }

  const std::string& path_;
  SafetensorsHeader& header_;
  State state_ = State::Start;
  std::string name_, key_;
  SafetensorsHeader::Entry entry_;
  bool has_metadata_ = false, has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
  int offsets_ = 0;
};

// Ranges sorted by offset must follow each other without hole or overlap and end with the file.
void check_tiling(const SafetensorsHeader& header, uint64_t data_bytes, const std::string& path) {
  std::vector<std::pair<const std::string*, const SafetensorsHeader::Entry*>> order;
  for (const auto& [name, entry] : header.tensors) order.emplace_back(&name, &entry);
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second->begin, a.second->end) < std::pair(b.second->begin, b.second->end);
  });
  uint64_t position = 0;
  const std::string* previous = nullptr;
  for (const auto& [name, entry] : order) {
    if (entry->end > data_bytes) {
      throw CheckpointError(cat(path, ": tensor ", quoted_name(*name), ": ends at byte ",
                                entry->end, " of the data but the file has ", data_bytes,
                                " (truncated?)"));
    }
    if (entry->begin != position) {
      throw CheckpointError(
          cat(path, ": tensor ", quoted_name(*name), ": starts at byte ", entry->begin,
              " of the data, which ", entry->begin < position ? "overlaps" : "leaves a hole after ",
              entry->begin < position ? " " : "",
              previous == nullptr ? std::string("the start") : quoted_name(*previous),
              " ending at byte ", position));
    }
    position = entry->end;
    previous = name;
  }
  if (position != data_bytes) {
    throw CheckpointError(cat(path, ": the last tensor ends at byte ", position,
                              " of the data but the file has ", data_bytes, "; ",
                              data_bytes - position, " bytes belong to no tensor"));
  }
}

}  // namespace safetensors_header_detail

SafetensorsHeader parse_safetensors_header(std::string_view file, const std::string& path) {
  if (file.size() < sizeof(uint64_t)) {
    throw CheckpointError(cat(path, ": ", file.size(), " bytes, too short for a safetensors file"));
  }
  uint64_t length = 0;
  for (size_t i = 0; i < sizeof(length); ++i)
    length |= uint64_t{static_cast<unsigned char>(file[i])} << (8 * i);
  if (length > kMaxSafetensorsHeader) {
    throw CheckpointError(cat(path, ": byte 0: header length ", length, ", allowed: at most ",
                              kMaxSafetensorsHeader, "; this is not a safetensors file"));
  }
  if (length > file.size() - sizeof(length)) {
    throw CheckpointError(cat(path, ": byte 0: header length ", length, " but the file has ",
                              file.size() - sizeof(length), " bytes after it (truncated?)"));
  }
  const std::string_view json = file.substr(sizeof(length), length);
  if (json.empty() || json[0] != '{')
    throw CheckpointError(cat(path, ": byte 8: the header must start with '{'"));
  SafetensorsHeader header;
  header.data_start = sizeof(length) + length;
  safetensors_header_detail::Handler handler(path, header);
  nlohmann::json::sax_parse(json.begin(), json.end(), &handler);
  safetensors_header_detail::check_tiling(header, file.size() - header.data_start, path);
  return header;
}

std::optional<std::string> safetensors_dtype_name(at::ScalarType dtype) {
  for (const safetensors_header_detail::NamedType& known : safetensors_header_detail::kTypes) {
    if (known.type == dtype) return known.name;
  }
  return std::nullopt;
}

std::string quoted_name(std::string_view name) {
  std::string out = "\"";
  for (const char c : name.substr(0, 200)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      constexpr char kDigits[] = "0123456789abcdef";
      out += "\\x";
      out += kDigits[byte >> 4];
      out += kDigits[byte & 15];
    } else {
      out += c;
    }
  }
  if (name.size() > 200) out += "...";
  return out + "\"";
}

}  // namespace strata::io
