#include "core/io/hdf5_types.h"

#include <hdf5.h>

#include <type_traits>

#include "core/error.h"
#include "core/text.h"

namespace strata::io {
namespace hdf5_types_detail {

static_assert(std::is_same_v<hid_t, int64_t> && std::is_same_v<herr_t, int>,
              "hdf5_types.h relies on it");

HdfHandle copy_of(hid_t type) { return HdfHandle(H5Tcopy(type), H5Tclose); }

HdfHandle sixteen_bit_float(size_t exponent_bits, size_t exponent_bias) {
  HdfHandle type = copy_of(H5T_IEEE_F32LE);
  const size_t mantissa_bits = 15 - exponent_bits;
  // Fields first: they must fit before the precision and the size shrink.
  H5Tset_fields(type.get(), 15, mantissa_bits, exponent_bits, 0, mantissa_bits);
  H5Tset_precision(type.get(), 16);
  H5Tset_size(type.get(), 2);
  H5Tset_ebias(type.get(), exponent_bias);
  return type;
}

herr_t remember(unsigned n, const H5E_error2_t* error, void* out) {
  auto& text = *static_cast<std::string*>(out);
  // Walked from the public function down; the last entry is the cause.
  if (error->desc != nullptr) {
    if (n == 0)
      text = error->desc;
    else if (n < 8)
      text += cat(": ", error->desc);
  }
  return 0;
}

at::ScalarType integer_type(size_t size, bool is_signed) {
  switch (size) {
    case 1:
      return is_signed ? at::ScalarType::Char : at::ScalarType::Byte;
    case 2:
      return is_signed ? at::ScalarType::Short : at::ScalarType::UInt16;
    case 4:
      return is_signed ? at::ScalarType::Int : at::ScalarType::UInt32;
    case 8:
      return is_signed ? at::ScalarType::Long : at::ScalarType::UInt64;
    default:
      return at::ScalarType::Undefined;
  }
}

at::ScalarType float_type(hid_t type) {
  const size_t size = H5Tget_size(type);
  const size_t bias = H5Tget_ebias(type);
  if (size == 8 && bias == 1023) return at::ScalarType::Double;
  if (size == 4 && bias == 127) return at::ScalarType::Float;
  if (size == 2 && bias == 127) return at::ScalarType::BFloat16;
  if (size == 2 && bias == 15) return at::ScalarType::Half;
  return at::ScalarType::Undefined;
}

}  // namespace hdf5_types_detail

void quiet_hdf5() { H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr); }

std::string hdf5_reason() {
  std::string text;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, hdf5_types_detail::remember, &text);
  return text.empty() ? "HDF5 gave no reason" : text;
}

HdfHandle hdf5_type(at::ScalarType dtype) {
  using hdf5_types_detail::copy_of;
  switch (dtype) {
    case at::ScalarType::Double:
      return copy_of(H5T_IEEE_F64LE);
    case at::ScalarType::Float:
      return copy_of(H5T_IEEE_F32LE);
    case at::ScalarType::Half:
      return hdf5_types_detail::sixteen_bit_float(5, 15);
    case at::ScalarType::BFloat16:
      return hdf5_types_detail::sixteen_bit_float(8, 127);
    case at::ScalarType::Byte:
    case at::ScalarType::Bool:
    case at::ScalarType::Float8_e4m3fn:
    case at::ScalarType::Float8_e5m2:
      return copy_of(H5T_STD_U8LE);
    case at::ScalarType::Char:
      return copy_of(H5T_STD_I8LE);
    case at::ScalarType::Short:
      return copy_of(H5T_STD_I16LE);
    case at::ScalarType::UInt16:
      return copy_of(H5T_STD_U16LE);
    case at::ScalarType::Int:
      return copy_of(H5T_STD_I32LE);
    case at::ScalarType::UInt32:
      return copy_of(H5T_STD_U32LE);
    case at::ScalarType::Long:
      return copy_of(H5T_STD_I64LE);
    case at::ScalarType::UInt64:
      return copy_of(H5T_STD_U64LE);
    default:
      throw CheckpointError(cat("HDF5: no file type for ", c10::toString(dtype)));
  }
}

at::ScalarType hdf5_scalar_type(hid_t type, const std::string& name, const std::string& where) {
  at::ScalarType found = at::ScalarType::Undefined;
  const H5T_class_t kind = H5Tget_class(type);
  if (kind == H5T_FLOAT) found = hdf5_types_detail::float_type(type);
  if (kind == H5T_INTEGER) {
    found = hdf5_types_detail::integer_type(H5Tget_size(type), H5Tget_sign(type) == H5T_SGN_2);
  }
  if (found == at::ScalarType::Undefined) {
    throw CheckpointError(
        cat(where, ": its element type is neither an integer nor a float of 16, 32 or 64 bits"));
  }
  // Bytes may stand for types that HDF5 has not.
  if (found == at::ScalarType::Byte && !name.empty()) {
    for (const at::ScalarType byte_type :
         {at::ScalarType::Bool, at::ScalarType::Float8_e4m3fn, at::ScalarType::Float8_e5m2}) {
      if (name == dtype_name(byte_type)) return byte_type;
    }
  }
  return found;
}

}  // namespace strata::io
