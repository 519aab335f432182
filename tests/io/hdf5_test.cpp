#include "core/io/hdf5.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>
#include <hdf5.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <random>

#include "core/error.h"
#include "core/io/file.h"
#include "core/text.h"
#include "tests/io/temp_folder.h"

namespace strata::io {
namespace hdf5_test {

using strata::test::TempFolder;

Tensor random_tensor(const Shape& shape, at::ScalarType dtype, uint32_t seed) {
  std::mt19937 random(seed);
  Tensor tensor = at::empty(shape, dtype);
  auto* bytes = static_cast<unsigned char*>(tensor.data_ptr());
  for (size_t i = 0; i < tensor.nbytes(); ++i) {
    bytes[i] = static_cast<unsigned char>(dtype == at::kBool ? random() & 1u : random());
  }
  return tensor;
}

// Datasets first, then raw bytes, as checkpoints and token sets are written.
void write(const std::string& path, const std::vector<std::pair<std::string, Tensor>>& tensors) {
  std::vector<int64_t> offsets;
  {
    HdfFile file(path, HdfFile::Mode::Create);
    for (const auto& [name, tensor] : tensors) {
      offsets.push_back(file.create_dataset(name, tensor.scalar_type(), tensor.sizes().vec()));
    }
    file.set_attribute("/", "format", std::string("test"));
    file.close();
  }
  File raw(path, File::Mode::ReadWrite);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const Tensor& tensor = tensors[i].second;
    if (tensor.numel() > 0) raw.write_at(offsets[i], tensor.const_data_ptr(), tensor.nbytes());
  }
}

void expect_same_bytes(const Tensor& a, const Tensor& b, const std::string& name) {
  ASSERT_EQ(a.scalar_type(), b.scalar_type()) << name;
  ASSERT_EQ(a.sizes(), b.sizes()) << name;
  if (a.numel() > 0) {
    EXPECT_EQ(std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()), 0) << name;
  }
}

std::vector<std::pair<std::string, Tensor>> all_kinds() {
  std::vector<std::pair<std::string, Tensor>> tensors;
  uint32_t seed = 1;
  for (const at::ScalarType dtype :
       {at::kBool, at::kByte, at::kChar, at::kShort, at::ScalarType::UInt16, at::kHalf,
        at::kBFloat16, at::kInt, at::ScalarType::UInt32, at::kFloat, at::kDouble, at::kLong,
        at::ScalarType::UInt64, at::ScalarType::Float8_e4m3fn, at::ScalarType::Float8_e5m2}) {
    for (const Shape& shape :
         {Shape{}, Shape{1}, Shape{0}, Shape{5, 0}, Shape{3, 4}, Shape{150, 300}}) {
      tensors.emplace_back(cat("/model/", dtype_name(dtype), "/t.", tensors.size(), ".weight"),
                           random_tensor(shape, dtype, seed++));
    }
  }
  return tensors;
}

TEST(Hdf5, RawBytesComeBackThroughTheLibrary) {
  const TempFolder folder;
  const std::string path = (folder / "a.h5").string();
  const auto tensors = all_kinds();
  write(path, tensors);
  const HdfFile file(path, HdfFile::Mode::Read);
  const std::vector<std::string> names = file.datasets();
  EXPECT_EQ(names.size(), tensors.size());
  EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
  EXPECT_EQ(file.text_attribute("/", "format"), "test");
  for (const auto& [name, tensor] : tensors) {
    EXPECT_TRUE(file.contains(name));
    EXPECT_EQ(file.shape(name), tensor.sizes().vec()) << name;
    EXPECT_EQ(file.dtype(name), tensor.scalar_type()) << name;
    expect_same_bytes(file.read(name), tensor, name);
  }
}

TEST(Hdf5, TwoWritesGiveTheSameBytes) {
  const TempFolder folder;
  write((folder / "a.h5").string(), all_kinds());
  ::usleep(1100000);  // object times have a resolution of a second
  write((folder / "b.h5").string(), all_kinds());
  EXPECT_EQ(read_text(folder / "a.h5"), read_text(folder / "b.h5"));
}

TEST(Hdf5, LargeDatasetsStartAtPages) {
  const TempFolder folder;
  HdfFile file((folder / "a.h5").string(), HdfFile::Mode::Create);
  for (int i = 0; i < 4; ++i)
    EXPECT_EQ(file.create_dataset(cat("/t", i), at::kFloat, {100000}) % 4096, 0);
  file.close();
}

TEST(Hdf5, SixteenBitFloatsHaveTheRightValues) {
  const TempFolder folder;
  const std::string path = (folder / "a.h5").string();
  const Tensor bits = at::arange(65536, at::kInt).to(at::kShort);
  const Tensor bf16 = bits.view(at::kBFloat16), f16 = bits.view(at::kHalf);
  write(path, {{"/bf16", bf16}, {"/f16", f16}});
  // Let the library convert, as other tools do.
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  ASSERT_GE(file, 0);
  for (const auto& [name, values] :
       {std::pair{"/bf16", bf16.to(at::kFloat)}, std::pair{"/f16", f16.to(at::kFloat)}}) {
    std::vector<float> converted(65536);
    const hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT);
    ASSERT_GE(H5Dread(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, converted.data()),
              0);
    H5Dclose(dataset);
    const float* expected = values.const_data_ptr<float>();
    int64_t wrong = 0;
    for (size_t i = 0; i < converted.size(); ++i) {
      const bool same =
          std::isnan(expected[i]) ? std::isnan(converted[i]) : converted[i] == expected[i];
      wrong += same ? 0 : 1;
    }
    EXPECT_EQ(wrong, 0) << name;
  }
  H5Fclose(file);
}

TEST(Hdf5, ReadsSlabs) {
  const TempFolder folder;
  const std::string path = (folder / "a.h5").string();
  const Tensor tensor = at::arange(60, at::kFloat).view({3, 4, 5});
  write(path, {{"/t", tensor}});
  const HdfFile file(path, HdfFile::Mode::Read);
  EXPECT_TRUE(at::equal(file.read_slab("/t", {1, 0, 2}, {2, 3, 2}),
                        tensor.slice(0, 1, 3).slice(1, 0, 3).slice(2, 2, 4)));
  EXPECT_EQ(file.read_slab("/t", {3, 0, 0}, {0, 4, 5}).numel(), 0);
  EXPECT_THROW(file.read_slab("/t", {2, 0, 0}, {2, 4, 5}), CheckpointError);
  EXPECT_THROW(file.read_slab("/t", {-1, 0, 0}, {1, 4, 5}), CheckpointError);
  EXPECT_THROW(file.read_slab("/t", {0, 0}, {1, 1}), CheckpointError);
  EXPECT_THROW(file.read("/none"), CheckpointError);
}

TEST(Hdf5, Attributes) {
  const TempFolder folder;
  const std::string path = (folder / "a.h5").string();
  {
    HdfFile file(path, HdfFile::Mode::Create);
    file.create_dataset("/g/t", at::kFloat, {2});
    file.set_attribute("/g/t", "dtype", std::string("f32"));
    file.set_attribute("/g/t", "global_shape", std::vector<uint64_t>{2});
    file.set_attribute("/g/t", "empty", std::vector<uint64_t>{});
    file.set_attribute("/g", "text", std::string("caf\xc3\xa9"));
    file.set_attribute("/", "nothing", std::string());
    file.close();
  }
  const HdfFile file(path, HdfFile::Mode::Read);
  EXPECT_EQ(file.text_attribute("/g", "text"), "caf\xc3\xa9");
  EXPECT_EQ(file.text_attribute("/", "nothing"), "");
  EXPECT_TRUE(file.has_attribute("/g/t", "global_shape"));
  EXPECT_FALSE(file.has_attribute("/g/t", "other"));
  EXPECT_THROW(file.text_attribute("/g/t", "other"), CheckpointError);
  EXPECT_THROW(file.text_attribute("/g/t", "global_shape"), CheckpointError);
  EXPECT_THROW(file.text_attribute("/none", "x"), CheckpointError);
}

TEST(Hdf5, VirtualDatasetsShowPiecesAndHoles) {
  const TempFolder folder;
  const Tensor top = random_tensor({2, 3}, at::kInt, 1), left = random_tensor({2, 1}, at::kInt, 2);
  write((folder / "s0.h5").string(),
        {{"/model/t", top}, {"/model/s", random_tensor({}, at::kFloat, 3)}});
  write((folder / "s1.h5").string(), {{"/model/t", left}});
  {
    HdfFile file((folder / "index.h5").string(), HdfFile::Mode::Create);
    file.create_virtual(
        "/model/t", at::kInt, {4, 3},
        {{"s0.h5", "/model/t", {0, 0}, {2, 3}}, {"s1.h5", "/model/t", {2, 0}, {2, 1}}});
    file.create_virtual("/model/s", at::kFloat, {}, {{"s0.h5", "/model/s", {}, {}}});
    file.create_virtual("/model/f", at::kBFloat16, {2}, {});
    file.close();
  }
  const HdfFile file((folder / "index.h5").string(), HdfFile::Mode::Read);
  const Tensor whole = file.read("/model/t");
  EXPECT_TRUE(at::equal(whole.slice(0, 0, 2), top));
  EXPECT_TRUE(at::equal(whole.slice(0, 2, 4).slice(1, 0, 1), left));
  EXPECT_EQ(whole[3][2].item<int>(), std::numeric_limits<int>::min());
  EXPECT_TRUE(std::isnan(file.read("/model/f").to(at::kFloat)[1].item<float>()));
  EXPECT_EQ(file.shape("/model/s"), Shape{1});
  // A missing source would read as fill values without a word.
  std::filesystem::remove(folder / "s1.h5");
  EXPECT_THROW(HdfFile((folder / "index.h5").string(), HdfFile::Mode::Read).read("/model/t"),
               CheckpointError);
}

TEST(Hdf5, RefusesDataOfOtherFiles) {
  const TempFolder folder;
  const std::string path = (folder / "bad.h5").string();
  write_text_atomic(folder / "secret", "secret bytes");
  {
    const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    const hsize_t dim = 12;
    const hid_t space = H5Screate_simple(1, &dim, nullptr);
    const hid_t external = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_external(external, (folder / "secret").c_str(), 0, 12);
    H5Dclose(
        H5Dcreate2(file, "/external", H5T_STD_U8LE, space, H5P_DEFAULT, external, H5P_DEFAULT));
    H5Pclose(external);
    const hid_t outside = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_virtual(outside, space, "../other.h5", "/t", space);
    H5Dclose(H5Dcreate2(file, "/virtual", H5T_STD_U8LE, space, H5P_DEFAULT, outside, H5P_DEFAULT));
    H5Pclose(outside);
    H5Lcreate_external("other.h5", "/t", file, "/link", H5P_DEFAULT, H5P_DEFAULT);
    H5Sclose(space);
    H5Fclose(file);
  }
  write((folder / "other.h5").string(), {{"/t", random_tensor({12}, at::kByte, 1)}});
  const HdfFile file(path, HdfFile::Mode::Read);
  EXPECT_THROW(file.read("/external"), CheckpointError);
  EXPECT_THROW(file.read("/virtual"), CheckpointError);
  EXPECT_THROW(file.read("/link"), CheckpointError);
  EXPECT_EQ(file.datasets(), (std::vector<std::string>{"/external", "/virtual"}));
}

TEST(Hdf5, UnreadableFilesAreCheckpointErrors) {
  const TempFolder folder;
  EXPECT_THROW(HdfFile((folder / "none.h5").string(), HdfFile::Mode::Read), CheckpointError);
  write_text_atomic(folder / "text.h5", "not hdf5");
  EXPECT_THROW(HdfFile((folder / "text.h5").string(), HdfFile::Mode::Read), CheckpointError);
  EXPECT_THROW(HdfFile((folder / "no/such/dir.h5").string(), HdfFile::Mode::Create), StorageError);
  const std::string path = (folder / "a.h5").string();
  write(path, {{"/t", random_tensor({1000}, at::kFloat, 1)}});
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1000);
  EXPECT_THROW(HdfFile(path, HdfFile::Mode::Read), CheckpointError);
}

TEST(Hdf5, FaultsHitCreationAndClose) {
  const TempFolder folder;
  const std::string path = (folder / "a.h5").string();
  set_fault_plan("write:1=ENOSPC");
  EXPECT_THROW(HdfFile(path, HdfFile::Mode::Create), StorageError);
  set_fault_plan("write:2=ENOSPC");
  {
    HdfFile file(path, HdfFile::Mode::Create);
    file.create_dataset("/t", at::kFloat, {2});
    EXPECT_THROW(file.close(), StorageError);
  }
  set_fault_plan("");
}

// The first KiB holds all metadata of a small file; with checksummed headers the library refuses
// nearly every change. What it accepts must still be readable or refused as a CheckpointError.
TEST(Hdf5, FuzzedMetadataNeverCrashes) {
  const TempFolder folder;
  const std::string path = (folder / "good.h5").string(), bad = (folder / "bad.h5").string();
  write(path, {{"/model/a", random_tensor({3, 4}, at::kFloat, 1)},
               {"/model/b", random_tensor({5}, at::kBFloat16, 2)}});
  const std::string good = read_text(path);
  int refused = 0;
  for (uint32_t seed = 0; seed < 300; ++seed) {
    std::mt19937 random(seed);
    std::string bytes = good;
    bytes[random() % std::min<size_t>(bytes.size(), 1024)] ^=
        static_cast<char>(1u << (random() % 8));
    File(bad, File::Mode::Create).append(bytes);
    try {
      const HdfFile file(bad, HdfFile::Mode::Read);
      for (const std::string& name : file.datasets()) file.read(name);
    } catch (const CheckpointError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 30);
}

}  // namespace hdf5_test
}  // namespace strata::io
