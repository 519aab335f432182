#include "core/tensor.h"

#include <algorithm>
#include <array>
#include <utility>

#include "core/error.h"
#include "core/text.h"

namespace strata {
namespace tensor_detail {

struct DtypeName {
  at::ScalarType dtype;
  const char* name;
};

constexpr std::array<DtypeName, 15> kDtypes = {{
    {at::kFloat, "f32"},
    {at::kDouble, "f64"},
    {at::kHalf, "f16"},
    {at::kBFloat16, "bf16"},
    {at::ScalarType::Float8_e4m3fn, "f8_e4m3"},
    {at::ScalarType::Float8_e5m2, "f8_e5m2"},
    {at::kLong, "i64"},
    {at::kInt, "i32"},
    {at::kShort, "i16"},
    {at::kChar, "i8"},
    {at::ScalarType::UInt64, "u64"},
    {at::ScalarType::UInt32, "u32"},
    {at::ScalarType::UInt16, "u16"},
    {at::kByte, "u8"},
    {at::kBool, "bool"},
}};

constexpr std::array<DtypeName, 3> kTrainDtypes = {{
    {at::kFloat, "fp32"},
    {at::kBFloat16, "bf16"},
    {at::kDouble, "fp64"},
}};

template <size_t N>
at::ScalarType parse(const std::array<DtypeName, N>& table, const char* key,
                     const std::string& name) {
  std::vector<std::string> names;
  for (const DtypeName& entry : table) {
    if (name == entry.name) return entry.dtype;
    names.emplace_back(entry.name);
  }
  throw ConfigError(key, cat('"', name, '"'), join(names), did_you_mean(name, names));
}

}  // namespace tensor_detail

int64_t element_count(const Shape& shape) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}

std::string dtype_name(at::ScalarType dtype) {
  for (const auto& entry : tensor_detail::kDtypes) {
    if (entry.dtype == dtype) return entry.name;
  }
  return c10::toString(dtype);  // a type Strata never stores: only seen in messages
}

at::ScalarType parse_dtype(const std::string& name) {
  return tensor_detail::parse(tensor_detail::kDtypes, "dtype", name);
}

at::ScalarType parse_train_dtype(const std::string& name) {
  return tensor_detail::parse(tensor_detail::kTrainDtypes, "train.dtype", name);
}

at::ScalarType accumulate_dtype(at::ScalarType dtype) {
  return dtype == at::kDouble ? at::kDouble : at::kFloat;
}

std::string shape_text(at::IntArrayRef shape) {
  std::vector<std::string> extents;
  for (const int64_t extent : shape) extents.push_back(std::to_string(extent));
  return "[" + join(extents) + "]";
}

}  // namespace strata
