#include "core/io/hdf5.h"

#include <ATen/ops/empty.h>
#include <hdf5.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <limits>
#include <set>

#include "core/error.h"
#include "core/io/fault.h"
#include "core/io/hdf5_types.h"
#include "core/text.h"

namespace strata::io {
namespace hdf5_detail {

herr_t refuse_external_link(const char*, const char*, const char*, const char*, unsigned*, hid_t,
                            void*) {
  return -1;
}

HdfHandle link_access() {
  HdfHandle plist(H5Pcreate(H5P_LINK_ACCESS), H5Pclose);
  H5Pset_elink_cb(plist.get(), refuse_external_link, nullptr);
  return plist;
}

HdfHandle dataset_access() {
  HdfHandle plist(H5Pcreate(H5P_DATASET_ACCESS), H5Pclose);
  H5Pset_elink_cb(plist.get(), refuse_external_link, nullptr);
  return plist;
}

std::vector<hsize_t> to_hsize(const Shape& shape) {
  return std::vector<hsize_t>(shape.begin(), shape.end());
}

HdfHandle space_of(const Shape& shape) {
  if (shape.empty()) return HdfHandle(H5Screate(H5S_SCALAR), H5Sclose);
  const std::vector<hsize_t> dims = to_hsize(shape);
  return HdfHandle(H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr), H5Sclose);
}

Shape shape_of_space(hid_t space, const std::string& where) {
  const int rank = H5Sget_simple_extent_ndims(space);
  if (rank < 0 || H5Sget_simple_extent_type(space) == H5S_NULL) {
    throw CheckpointError(cat(where, ": its shape cannot be read"));
  }
  std::vector<hsize_t> dims(static_cast<size_t>(rank));
  if (rank > 0) H5Sget_simple_extent_dims(space, dims.data(), nullptr);
  int64_t bound = 16;  // the widest element, so that byte counts fit too
  for (const hsize_t dim : dims) {
    if (dim > static_cast<hsize_t>(std::numeric_limits<int64_t>::max()) ||
        __builtin_mul_overflow(bound, std::max<int64_t>(static_cast<int64_t>(dim), 1), &bound)) {
      throw CheckpointError(cat(where, ": its shape has more elements than 64 bits can count"));
    }
  }
  return Shape(dims.begin(), dims.end());
}

// Virtual datasets read fill values without a word when a source is missing, and may name any path.
void check_virtual_sources(hid_t creation, const std::filesystem::path& folder,
                           const std::string& where) {
  size_t count = 0;
  if (H5Pget_virtual_count(creation, &count) < 0)
    throw CheckpointError(cat(where, ": damaged virtual layout"));
  std::set<std::string> checked;
  for (size_t i = 0; i < count; ++i) {
    char name[512] = {};
    const ssize_t length = H5Pget_virtual_filename(creation, i, name, sizeof(name));
    const std::string file = length > 0 && length < static_cast<ssize_t>(sizeof(name)) ? name : "";
    if (!checked.insert(file).second || file == ".") continue;
    std::error_code error;
    if (file.empty() || file == ".." || file.find('/') != std::string::npos) {
      throw CheckpointError(
          cat(where, ": refused, because it shows data of a file outside its folder"));
    }
    if (!std::filesystem::is_regular_file(folder / file, error)) {
      throw CheckpointError(cat(where, ": its source ", (folder / file).string(), " is missing"));
    }
  }
}

struct Visit {
  std::vector<std::string> paths;
};
herr_t visit_object(hid_t, const char* name, const H5O_info_t* info, void* out) {
  if (info->type == H5O_TYPE_DATASET) static_cast<Visit*>(out)->paths.push_back(cat("/", name));
  return 0;
}

HdfHandle scalar_fill(at::ScalarType dtype, std::array<unsigned char, 8>& value) {
  value.fill(0);
  const auto put = [&](auto v) { std::memcpy(value.data(), &v, sizeof(v)); };
  switch (dtype) {
    case at::ScalarType::Double:
      put(std::numeric_limits<double>::quiet_NaN());
      break;
    case at::ScalarType::Float:
      put(std::numeric_limits<float>::quiet_NaN());
      break;
    case at::ScalarType::Half:
      put(uint16_t{0x7E00});
      break;
    case at::ScalarType::BFloat16:
      put(uint16_t{0x7FC0});
      break;
    case at::ScalarType::Char:
      put(std::numeric_limits<int8_t>::min());
      break;
    case at::ScalarType::Short:
      put(std::numeric_limits<int16_t>::min());
      break;
    case at::ScalarType::Int:
      put(std::numeric_limits<int32_t>::min());
      break;
    case at::ScalarType::Long:
      put(std::numeric_limits<int64_t>::min());
      break;
    default:
      break;  // the minimum of unsigned types is 0
  }
  return hdf5_type(dtype);
}

}  // namespace hdf5_detail

struct HdfFile::Impl {
  std::string path;
  Mode mode;
  HdfHandle file{-1, H5Fclose};
  std::set<std::string> groups;

  [[noreturn]] void fail(const std::string& what) const {
    const std::string text = cat(path, ": ", what, " (", hdf5_reason(), ")");
    if (mode == Mode::Create) throw StorageError(text);
    throw CheckpointError(text);
  }

  std::string where(const std::string& dataset) const { return cat(path, ": dataset ", dataset); }

  void make_parents(const std::string& object) {
    for (size_t slash = object.find('/', 1); slash != std::string::npos;
         slash = object.find('/', slash + 1)) {
      const std::string group = object.substr(0, slash);
      if (!groups.insert(group).second) continue;
      const HdfHandle creation(H5Pcreate(H5P_GROUP_CREATE), H5Pclose);
      H5Pset_obj_track_times(creation.get(), false);
      const HdfHandle made(
          H5Gcreate2(file.get(), group.c_str(), H5P_DEFAULT, creation.get(), H5P_DEFAULT),
          H5Gclose);
      if (!made.valid()) fail(cat("cannot create group ", group));
    }
  }

  HdfHandle open_dataset(const std::string& dataset) const {
    const HdfHandle access = hdf5_detail::dataset_access();
    HdfHandle opened(H5Dopen2(file.get(), dataset.c_str(), access.get()), H5Dclose);
    if (!opened.valid()) fail(cat("has no readable dataset ", dataset));
    return opened;
  }

  HdfHandle open_object(const std::string& object) const {
    const HdfHandle access = hdf5_detail::link_access();
    HdfHandle opened(H5Oopen(file.get(), object.c_str(), access.get()), H5Oclose);
    if (!opened.valid()) fail(cat("has no readable object ", object));
    return opened;
  }

  void put_attribute(hid_t object, const std::string& name, hid_t type, hid_t space,
                     const void* data) {
    if (H5Aexists(object, name.c_str()) > 0) H5Adelete(object, name.c_str());
    const HdfHandle attribute(
        H5Acreate2(object, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
    if (!attribute.valid() || H5Awrite(attribute.get(), type, data) < 0)
      fail(cat("cannot write attribute ", name));
  }

  void put_text(hid_t object, const std::string& name, const std::string& value) {
    const HdfHandle type(H5Tcopy(H5T_C_S1), H5Tclose);
    H5Tset_size(type.get(), std::max<size_t>(value.size(), 1));
    H5Tset_strpad(type.get(), H5T_STR_NULLPAD);
    H5Tset_cset(type.get(), H5T_CSET_UTF8);
    const HdfHandle space(H5Screate(H5S_SCALAR), H5Sclose);
    put_attribute(object, name, type.get(), space.get(), value.c_str());
  }

  std::string get_text(hid_t object, const std::string& where, const std::string& name) const {
    const HdfHandle attribute(H5Aopen(object, name.c_str(), H5P_DEFAULT), H5Aclose);
    if (!attribute.valid()) fail(cat(where, " has no attribute ", name));
    const HdfHandle type(H5Aget_type(attribute.get()), H5Tclose);
    const HdfHandle space(H5Aget_space(attribute.get()), H5Sclose);
    if (H5Tget_class(type.get()) != H5T_STRING || H5Sget_simple_extent_npoints(space.get()) != 1) {
      throw CheckpointError(cat(path, ": attribute ", name, " of ", where, " is not one text"));
    }
    if (H5Tis_variable_str(type.get()) > 0) {
      const HdfHandle memory(H5Tcopy(H5T_C_S1), H5Tclose);
      H5Tset_size(memory.get(), H5T_VARIABLE);
      H5Tset_cset(memory.get(), H5Tget_cset(type.get()));
      char* text = nullptr;
      if (H5Aread(attribute.get(), memory.get(), &text) < 0)
        fail(cat("cannot read attribute ", name));
      const std::string value = text == nullptr ? "" : text;
      H5Dvlen_reclaim(memory.get(), space.get(), H5P_DEFAULT, &text);
      return value;
    }
    std::string value(H5Tget_size(type.get()), '\0');
    if (H5Aread(attribute.get(), type.get(), value.data()) < 0)
      fail(cat("cannot read attribute ", name));
    value.resize(std::min(value.find('\0'), value.size()));
    return value;
  }

  at::ScalarType dtype_of(hid_t dataset, const std::string& name) const {
    const HdfHandle type(H5Dget_type(dataset), H5Tclose);
    std::string text;
    if (H5Aexists(dataset, "dtype") > 0) text = get_text(dataset, name, "dtype");
    return hdf5_scalar_type(type.get(), text, where(name));
  }

  HdfHandle create(const std::string& dataset, at::ScalarType dtype, const Shape& shape,
                   hid_t creation) {
    if (mode != Mode::Create || !file.valid())
      throw InternalError(cat(path, ": not open for writing"));
    if (dataset.size() < 2 || dataset[0] != '/')
      throw InternalError(cat("HDF5 path must start with '/': ", dataset));
    make_parents(dataset);
    const HdfHandle type = hdf5_type(dtype);
    const HdfHandle space = hdf5_detail::space_of(shape);
    HdfHandle made(H5Dcreate2(file.get(), dataset.c_str(), type.get(), space.get(), H5P_DEFAULT,
                              creation, H5P_DEFAULT),
                   H5Dclose);
    if (!made.valid()) fail(cat("cannot create dataset ", dataset));
    put_text(made.get(), "dtype", dtype_name(dtype));
    return made;
  }
};

HdfFile::HdfFile(const std::string& path, Mode mode) : impl_(std::make_unique<Impl>()) {
  quiet_hdf5();
  impl_->path = path;
  impl_->mode = mode;
  const HdfHandle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_fclose_degree(access.get(), H5F_CLOSE_STRONG);
#if H5_VERSION_GE(1, 10, 7)
  H5Pset_file_locking(access.get(), false, true);  // many cluster file systems have no locks
#endif
  if (mode == Mode::Read) {
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error))
      throw CheckpointError(cat(path, ": no such file"));
    impl_->file = HdfHandle(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()), H5Fclose);
    if (!impl_->file.valid()) impl_->fail("cannot be read as HDF5");
    return;
  }
  if (const int fault = next_fault(FaultOp::Write); fault > 0 && fault != EINTR) {
    throw StorageError(cat("cannot create ", path, ": ", std::strerror(fault)));
  }
  H5Pset_libver_bounds(access.get(), H5F_LIBVER_V18, H5F_LIBVER_V110);
  H5Pset_alignment(access.get(), 65536, 4096);
  const HdfHandle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
  H5Pset_obj_track_times(creation.get(), false);
  impl_->file =
      HdfHandle(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation.get(), access.get()), H5Fclose);
  if (!impl_->file.valid()) impl_->fail("cannot be created");
}

HdfFile::~HdfFile() = default;
HdfFile::HdfFile(HdfFile&&) noexcept = default;

int64_t HdfFile::create_dataset(const std::string& path, at::ScalarType dtype, const Shape& shape) {
  const HdfHandle creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_obj_track_times(creation.get(), false);
  H5Pset_layout(creation.get(), H5D_CONTIGUOUS);
  H5Pset_alloc_time(creation.get(), H5D_ALLOC_TIME_EARLY);
  H5Pset_fill_time(creation.get(), H5D_FILL_TIME_NEVER);
  const HdfHandle made = impl_->create(path, dtype, shape, creation.get());
  if (element_count(shape) == 0) return 0;
  const haddr_t offset = H5Dget_offset(made.get());
  if (offset == HADDR_UNDEF) impl_->fail(cat("dataset ", path, " was not allocated"));
  return static_cast<int64_t>(offset);
}

void HdfFile::set_attribute(const std::string& path, const std::string& name,
                            const std::string& value) {
  const HdfHandle object = impl_->open_object(path);
  impl_->put_text(object.get(), name, value);
}

void HdfFile::set_attribute(const std::string& path, const std::string& name,
                            const std::vector<uint64_t>& value) {
  const HdfHandle object = impl_->open_object(path);
  const hsize_t count = value.size();
  const HdfHandle space(count == 0 ? H5Screate(H5S_NULL) : H5Screate_simple(1, &count, nullptr),
                        H5Sclose);
  const HdfHandle type(H5Tcopy(H5T_STD_U64LE), H5Tclose);
  const uint64_t nothing = 0;
  impl_->put_attribute(object.get(), name, type.get(), space.get(),
                       count == 0 ? &nothing : value.data());
}

std::string HdfFile::text_attribute(const std::string& path, const std::string& name) const {
  const HdfHandle object = impl_->open_object(path);
  return impl_->get_text(object.get(), path, name);
}

bool HdfFile::has_attribute(const std::string& path, const std::string& name) const {
  const HdfHandle object = impl_->open_object(path);
  return H5Aexists(object.get(), name.c_str()) > 0;
}

bool HdfFile::contains(const std::string& path) const {
  const HdfHandle access = hdf5_detail::dataset_access();
  return HdfHandle(H5Dopen2(impl_->file.get(), path.c_str(), access.get()), H5Dclose).valid();
}

std::vector<std::string> HdfFile::datasets() const {
  hdf5_detail::Visit visit;
  // Hard links only: soft and external links are not followed.
  if (H5Ovisit2(impl_->file.get(), H5_INDEX_NAME, H5_ITER_INC, hdf5_detail::visit_object, &visit,
                H5O_INFO_BASIC) < 0) {
    impl_->fail("its contents cannot be listed");
  }
  std::sort(visit.paths.begin(), visit.paths.end());
  return visit.paths;
}

Shape HdfFile::shape(const std::string& path) const {
  const HdfHandle dataset = impl_->open_dataset(path);
  const HdfHandle space(H5Dget_space(dataset.get()), H5Sclose);
  return hdf5_detail::shape_of_space(space.get(), impl_->where(path));
}

at::ScalarType HdfFile::dtype(const std::string& path) const {
  const HdfHandle dataset = impl_->open_dataset(path);
  return impl_->dtype_of(dataset.get(), path);
}

Tensor HdfFile::read(const std::string& path) const {
  const Shape whole = shape(path);
  return read_slab(path, Shape(whole.size(), 0), whole);
}

Tensor HdfFile::read_slab(const std::string& path, const Shape& offset, const Shape& extent) const {
  const HdfHandle dataset = impl_->open_dataset(path);
  const std::string where = impl_->where(path);
  const HdfHandle creation(H5Dget_create_plist(dataset.get()), H5Pclose);
  if (H5Pget_external_count(creation.get()) > 0) {
    throw CheckpointError(
        cat(where, ": refused, because its data lie in another file (external storage)"));
  }
  if (H5Pget_layout(creation.get()) == H5D_VIRTUAL) {
    hdf5_detail::check_virtual_sources(creation.get(),
                                       std::filesystem::path(impl_->path).parent_path(), where);
  }
  const HdfHandle space(H5Dget_space(dataset.get()), H5Sclose);
  const Shape whole = hdf5_detail::shape_of_space(space.get(), where);
  bool inside = offset.size() == whole.size() && extent.size() == whole.size();
  for (size_t i = 0; inside && i < whole.size(); ++i) {
    inside = offset[i] >= 0 && extent[i] >= 0 && offset[i] <= whole[i] &&
             extent[i] <= whole[i] - offset[i];
  }
  if (!inside) {
    throw CheckpointError(cat(where, ": slab at ", shape_text(offset), " of ", shape_text(extent),
                              " is outside its shape ", shape_text(whole)));
  }
  const at::ScalarType dtype = impl_->dtype_of(dataset.get(), path);
  Tensor out;
  try {
    out = at::empty(extent, dtype);
  } catch (const std::exception&) {
    throw CheckpointError(cat(where, ": no memory for a slab of ", shape_text(extent)));
  }
  if (out.numel() == 0) return out;
  if (!whole.empty()) {
    const std::vector<hsize_t> start = hdf5_detail::to_hsize(offset),
                               count = hdf5_detail::to_hsize(extent);
    H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, start.data(), nullptr, count.data(), nullptr);
  }
  const HdfHandle memory_space = hdf5_detail::space_of(extent);
  const HdfHandle memory_type = hdf5_type(dtype);
  if (H5Dread(dataset.get(), memory_type.get(), memory_space.get(), space.get(), H5P_DEFAULT,
              out.data_ptr()) < 0) {
    impl_->fail(cat("cannot read dataset ", path));
  }
  return out;
}

void HdfFile::create_virtual(const std::string& path, at::ScalarType dtype, const Shape& shape,
                             const std::vector<VirtualPiece>& pieces) {
  const HdfHandle creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_obj_track_times(creation.get(), false);
  std::array<unsigned char, 8> fill;
  const HdfHandle type = hdf5_detail::scalar_fill(dtype, fill);
  H5Pset_fill_value(creation.get(), type.get(), fill.data());
  // A virtual dataset needs at least one axis: scalars are shown as one element.
  const Shape shown = shape.empty() ? Shape{1} : shape;
  for (const VirtualPiece& piece : pieces) {
    const Shape extent = shape.empty() ? Shape{1} : piece.extent;
    if (element_count(extent) == 0) continue;
    const HdfHandle target = hdf5_detail::space_of(shown);
    const std::vector<hsize_t> start =
        hdf5_detail::to_hsize(shape.empty() ? Shape{0} : piece.offset);
    const std::vector<hsize_t> count = hdf5_detail::to_hsize(extent);
    H5Sselect_hyperslab(target.get(), H5S_SELECT_SET, start.data(), nullptr, count.data(), nullptr);
    const HdfHandle source = hdf5_detail::space_of(extent);
    if (H5Pset_virtual(creation.get(), target.get(), piece.file.c_str(), piece.dataset.c_str(),
                       source.get()) < 0) {
      impl_->fail(cat("cannot map ", piece.file, " into ", path));
    }
  }
  impl_->create(path, dtype, shown, creation.get());
}

void HdfFile::close() {
  if (!impl_->file.valid()) return;
  if (impl_->mode == Mode::Create) {
    if (const int fault = next_fault(FaultOp::Write); fault > 0 && fault != EINTR) {
      throw StorageError(cat("cannot complete ", impl_->path, ": ", std::strerror(fault)));
    }
  }
  if (H5Fclose(impl_->file.release()) < 0) impl_->fail("cannot be completed");
}

std::string hdf5_version() {
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  return cat(major, ".", minor, ".", release);
}

}  // namespace strata::io
