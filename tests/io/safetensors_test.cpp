#include "core/io/safetensors.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "core/error.h"
#include "core/io/file.h"
#include "core/io/safetensors_header.h"
#include "core/text.h"
#include "tests/io/temp_folder.h"

namespace strata::io {
namespace safetensors_test {

namespace fs = std::filesystem;
using strata::test::TempFolder;

// Header text and data section to the bytes of a file.
std::string file_bytes(const std::string& header, const std::string& data) {
  std::string bytes(8, '\0');
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(uint64_t{header.size()} >> (8 * i));
  return bytes + header + data;
}

std::string refusal(const std::string& bytes) {
  try {
    parse_safetensors_header(bytes, "model.safetensors");
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "";
}

Tensor random_tensor(const Shape& shape, at::ScalarType dtype, uint32_t seed) {
  std::mt19937 random(seed);
  Tensor tensor = at::empty(shape, dtype);
  auto* bytes = static_cast<unsigned char*>(tensor.data_ptr());
  for (size_t i = 0; i < tensor.nbytes(); ++i) {
    bytes[i] = static_cast<unsigned char>(dtype == at::kBool ? random() & 1u : random());
  }
  return tensor;
}

void expect_same_bytes(const Tensor& a, const Tensor& b, const std::string& name) {
  ASSERT_EQ(a.scalar_type(), b.scalar_type()) << name;
  ASSERT_EQ(a.sizes(), b.sizes()) << name;
  if (a.numel() > 0) {
    EXPECT_EQ(std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()), 0) << name;
  }
}

const std::vector<at::ScalarType> kAllTypes = {at::kBool,
                                               at::kByte,
                                               at::kChar,
                                               at::kShort,
                                               at::ScalarType::UInt16,
                                               at::kHalf,
                                               at::kBFloat16,
                                               at::kInt,
                                               at::ScalarType::UInt32,
                                               at::kFloat,
                                               at::kDouble,
                                               at::kLong,
                                               at::ScalarType::UInt64,
                                               at::ScalarType::Float8_e4m3fn,
                                               at::ScalarType::Float8_e5m2};

TEST(Safetensors, RoundTripOfEveryTypeAndShape) {
  const TempFolder folder;
  std::vector<std::pair<std::string, Tensor>> tensors;
  uint32_t seed = 1;
  for (const at::ScalarType dtype : kAllTypes) {
    for (const Shape& shape :
         {Shape{}, Shape{1}, Shape{0}, Shape{3, 0, 2}, Shape{7, 5}, Shape{2, 3, 4}}) {
      tensors.emplace_back(cat("t", tensors.size(), ".", dtype_name(dtype)),
                           random_tensor(shape, dtype, seed++));
    }
  }
  const std::string path = (folder / "model.safetensors").string();
  write_safetensors(path, tensors, {{"format", "pt"}, {"note", "a \"quoted\" note"}});
  const SafetensorsReader reader(path);
  EXPECT_EQ(reader.names().size(), tensors.size());
  EXPECT_EQ(reader.metadata().at("note"), "a \"quoted\" note");
  for (const auto& [name, tensor] : tensors) {
    EXPECT_EQ(reader.entry(name).dtype, tensor.scalar_type());
    EXPECT_EQ(reader.entry(name).shape, tensor.sizes().vec());
    expect_same_bytes(reader.read(name), tensor, name);
  }
  // Data start at a page and every tensor at a multiple of its element size.
  const std::string bytes = read_text(path);
  const SafetensorsHeader header = parse_safetensors_header(bytes, path);
  EXPECT_EQ(header.data_start % 4096, 0u);
  for (const auto& [name, entry] : header.tensors)
    EXPECT_EQ(entry.begin % c10::elementSize(entry.dtype), 0u) << name;
}

TEST(Safetensors, SameTensorsInAnyOrderGiveTheSameBytes) {
  const TempFolder folder;
  const Tensor a = random_tensor({3, 4}, at::kFloat, 1), b = random_tensor({5}, at::kBFloat16, 2);
  write_safetensors((folder / "one").string(), {{"a", a}, {"b", b}});
  write_safetensors((folder / "two").string(), {{"b", b}, {"a", a}});
  EXPECT_EQ(read_text(folder / "one"), read_text(folder / "two"));
  write_safetensors((folder / "none").string(), {}, {});
  EXPECT_TRUE(SafetensorsReader((folder / "none").string()).names().empty());
}

TEST(Safetensors, NonContiguousTensorsAreWrittenInCOrder) {
  const TempFolder folder;
  const Tensor matrix = at::arange(12, at::kInt).view({3, 4});
  write_safetensors((folder / "t").string(), {{"t", matrix.t()}});
  EXPECT_TRUE(
      at::equal(SafetensorsReader((folder / "t").string()).read("t"), matrix.t().contiguous()));
}

TEST(Safetensors, ReadsRows) {
  const TempFolder folder;
  const Tensor matrix = at::arange(60, at::kFloat).view({10, 3, 2});
  const std::string path = (folder / "m").string();
  write_safetensors(path, {{"m", matrix}, {"s", at::scalar_tensor(1.0)}});
  const SafetensorsReader reader(path);
  EXPECT_TRUE(at::equal(reader.read_rows("m", 3, 7), matrix.slice(0, 3, 7)));
  EXPECT_EQ(reader.read_rows("m", 4, 4).sizes(), (Shape{0, 3, 2}));
  EXPECT_THROW(reader.read_rows("m", 3, 11), CheckpointError);
  EXPECT_THROW(reader.read_rows("m", -1, 2), CheckpointError);
  EXPECT_THROW(reader.read_rows("m", 4, 3), CheckpointError);
  EXPECT_THROW(reader.read_rows("s", 0, 1), CheckpointError);
}

TEST(Safetensors, MissingTensorNamesTheNearest) {
  const TempFolder folder;
  write_safetensors((folder / "m").string(), {{"model.norm.weight", at::zeros({2})}});
  const SafetensorsReader reader((folder / "m").string());
  EXPECT_FALSE(reader.contains("model.norm.weigth"));
  try {
    reader.read("model.norm.weigth");
    FAIL();
  } catch (const CheckpointError& error) {
    EXPECT_NE(std::string(error.what()).find("Did you mean \"model.norm.weight\"?"),
              std::string::npos)
        << error.what();
  }
}

TEST(Safetensors, UnalignedDataAreRead) {
  // A header of odd length in front of doubles, as other writers produce.
  std::string header =
      R"({"d":{"dtype":"F64","shape":[1],"data_offsets":[1,9]},"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
  if (header.size() % 2 == 0) header += ' ';
  const double value = 2.5;
  std::string data(9, '\7');
  std::memcpy(data.data() + 1, &value, sizeof(value));
  const TempFolder folder;
  write_text_atomic(folder / "x.safetensors", file_bytes(header, data));
  const SafetensorsReader reader((folder / "x.safetensors").string());
  EXPECT_EQ(reader.read("d").item<double>(), 2.5);
  EXPECT_EQ(reader.read("b").item<uint8_t>(), 7);
}

struct BadHeader {
  const char* header;
  size_t data;
  const char* says;
};

TEST(Safetensors, RefusesMalformedHeadersAndSaysWhy) {
  const BadHeader cases[] = {
      {"", 0, "must start with '{'"},
      {" {}", 0, "must start with '{'"},
      {"{", 0, "not valid JSON"},
      {"{}x", 0, "not valid JSON"},
      {"{}", 4, "4 bytes belong to no tensor"},
      {R"({"a":1})", 0, "tensor \"a\": must be an object"},
      {R"({"a":[]})", 0, "tensor \"a\": must be an object"},
      {R"({"a":{}})", 0, "needs \"dtype\""},
      {R"({"a":{"dtype":"F32","shape":[1]}})", 4, "needs \"dtype\""},
      {R"({"a":{"dtype":"F4","shape":[1],"data_offsets":[0,4]}})", 4, "got \"F4\", allowed: BOOL"},
      {R"({"a":{"dtype":3,"shape":[1],"data_offsets":[0,4]}})", 4, "got a number"},
      {R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "got a negative number"},
      {R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", 4, "got a fraction"},
      {R"({"a":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})", 4, "got an array"},
      {R"({"a":{"dtype":"F32","shape":1,"data_offsets":[0,4]}})", 4, "got a number"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 4, "more than two numbers"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, "needs \"dtype\""},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "needs 4 bytes"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "needs 8 bytes"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}})", 4, "unknown key \"x\""},
      {R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4,
       "\"dtype\" appears twice"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       8, "tensor \"a\": appears twice"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})",
       6, "tensor \"b\": starts at byte 2 of the data, which overlaps"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})",
       12, "leaves a hole after"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8,
       "leaves a hole after the start"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 3, "truncated?"},
      {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0,
       "more bytes than 64 bits"},
      {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}})", 0,
       "more bytes than 64 bits"},
      {R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,0]}})", 0,
       "too large a number"},
      {R"({"a":{"dtype":"F32","shape":[99999999999999999999999],"data_offsets":[0,0]}})", 0,
       "too large a number"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,18446744073709551615]}})",
       4, "needs 4 bytes"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551611,18446744073709551615]}})",
       4, "truncated?"},
      {R"({"__metadata__":{"a":1}})", 0, "must be a string"},
      {R"({"__metadata__":{"a":{}}})", 0, "must be a string"},
      {R"({"__metadata__":{"a":"1","a":"2"}})", 0, "appears twice"},
      {R"({"__metadata__":{},"__metadata__":{}})", 0, "appears twice"},
      {"{\"a\xff\":1}", 0, "not valid JSON"},
  };
  for (const BadHeader& c : cases) {
    const std::string message = refusal(file_bytes(c.header, std::string(c.data, 'x')));
    EXPECT_NE(message.find(c.says), std::string::npos) << c.header << "\n  says: " << message;
    EXPECT_EQ(message.rfind("model.safetensors: ", 0), 0u) << message;
  }
  EXPECT_NE(refusal("1234567").find("too short"), std::string::npos);
  EXPECT_NE(refusal(std::string(8, '\xff')).find("allowed: at most"), std::string::npos);
  EXPECT_NE(refusal(file_bytes("{}", "").substr(0, 9)).find("truncated?"), std::string::npos);
}

TEST(Safetensors, SurvivesNestingAndDimensionBombs) {
  for (const char* open : {"[", "{\"a\":"}) {
    std::string bomb = "{\"a\":";
    for (int i = 0; i < 1000000; ++i) bomb += open;
    EXPECT_NE(refusal(file_bytes(bomb, "")), "");
  }
  std::string dims = "1";
  for (int i = 0; i < 100000; ++i) dims += ",1";
  EXPECT_NE(
      refusal(
          file_bytes(R"({"a":{"dtype":"U8","shape":[)" + dims + R"(],"data_offsets":[0,1]}})", "x"))
          .find("more than 32 dimensions"),
      std::string::npos);
}

TEST(Safetensors, BooleansMustBeZeroOrOne) {
  const TempFolder folder;
  write_text_atomic(folder / "b.safetensors",
                    file_bytes(R"({"b":{"dtype":"BOOL","shape":[3],"data_offsets":[0,3]}})",
                               std::string("\0\1\2", 3)));
  const SafetensorsReader reader((folder / "b.safetensors").string());
  EXPECT_THROW(reader.read("b"), CheckpointError);
  EXPECT_THROW(reader.read_rows("b", 2, 3), CheckpointError);
  EXPECT_TRUE(reader.read_rows("b", 0, 2)[1].item<bool>());
}

// Random edits of a good header: whatever is accepted must be readable to the last byte, whatever
// is not is a CheckpointError.
TEST(Safetensors, FuzzedFilesNeverCrash) {
  const TempFolder folder;
  const std::string path = (folder / "good.safetensors").string();
  write_safetensors(path, {{"model.a", random_tensor({3, 4}, at::kFloat, 1)},
                           {"model.b", random_tensor({6}, at::kBFloat16, 2)},
                           {"model.c", random_tensor({}, at::kLong, 3)},
                           {"model.d", random_tensor({2, 0}, at::kBool, 4)}});
  std::string good = read_text(path);
  {
    // Without padding, so that edits hit what matters.
    const SafetensorsHeader header = parse_safetensors_header(good, path);
    std::string text = good.substr(8, header.data_start - 8);
    text.resize(text.find_last_of('}') + 1);
    good = file_bytes(text, good.substr(header.data_start));
  }
  const std::string tokens[] = {"[",    "]",    "{",           "}",
                                "\"",   ",",    ":",           "0",
                                "9",    "-",    "1e5",         "18446744073709551615",
                                "F32",  "U8",   "\\u0000",     "\xc3",
                                "null", "true", "data_offsets"};
  int accepted = 0;
  for (uint32_t seed = 0; seed < 4000; ++seed) {
    std::mt19937 random(seed);
    std::string bytes = good;
    const size_t header_end = bytes.size() - 68;
    const int edits = 1 + static_cast<int>(random() % 3);
    for (int i = 0; i < edits; ++i) {
      const size_t at = random() % header_end;
      switch (random() % 5) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes[at] = static_cast<char>(bytes[at] ^ (1 << (random() % 8)));
          break;
        case 2:
          bytes.erase(at, 1 + random() % 8);
          break;
        case 3:
          bytes.insert(at, tokens[random() % std::size(tokens)]);
          break;
        case 4:
          bytes.resize(random() % bytes.size() + 1);
          break;
      }
      if (bytes.size() < header_end) break;
    }
    try {
      File(folder / "bad.safetensors", File::Mode::Create).append(bytes);
      const SafetensorsReader reader((folder / "bad.safetensors").string());
      ++accepted;
      for (const std::string& name : reader.names()) {
        try {
          EXPECT_EQ(reader.read(name).sizes(), reader.entry(name).shape);
        } catch (const CheckpointError&) {  // booleans
        }
      }
    } catch (const CheckpointError&) {
    }
  }
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, 2000);
}

TEST(SafetensorsFolder, ReadsShardsThroughTheIndex) {
  const TempFolder folder;
  const Tensor a = random_tensor({3}, at::kFloat, 1), b = random_tensor({4}, at::kBFloat16, 2);
  write_safetensors((folder / "model-00001-of-00002.safetensors").string(), {{"a", a}});
  write_safetensors((folder / "model-00002-of-00002.safetensors").string(), {{"b", b}});
  write_text_atomic(
      folder / "model.safetensors.index.json",
      R"({"metadata":{"total_size":20},"weight_map":{"a":"model-00001-of-00002.safetensors",
                        "b":"model-00002-of-00002.safetensors"}})");
  const SafetensorsReader reader(folder.path().string());
  EXPECT_EQ(reader.names(), (std::vector<std::string>{"a", "b"}));
  expect_same_bytes(reader.read("a"), a, "a");
  expect_same_bytes(reader.read("b"), b, "b");
  EXPECT_EQ(reader.metadata().at("format"), "pt");
  fs::remove(folder / "model-00002-of-00002.safetensors");
  EXPECT_THROW(SafetensorsReader(folder.path().string()), CheckpointError);
}

TEST(SafetensorsFolder, ReadsASingleFile) {
  const TempFolder folder;
  write_safetensors((folder / "model.safetensors").string(), {{"a", at::zeros({2})}});
  EXPECT_TRUE(SafetensorsReader(folder.path().string()).contains("a"));
}

TEST(SafetensorsFolder, RefusesPathsInShardNames) {
  for (const char* shard :
       {"../x.safetensors", "/x.safetensors", "a/b", "", "..", "a\\\\b", "a\\u0000b"}) {
    const TempFolder folder;
    write_text_atomic(folder / "model.safetensors.index.json",
                      cat(R"({"weight_map":{"a":")", shard, R"("}})"));
    try {
      SafetensorsReader reader(folder.path().string());
      FAIL() << shard;
    } catch (const CheckpointError& error) {
      EXPECT_NE(std::string(error.what()).find("plain name"), std::string::npos) << error.what();
    }
  }
}

TEST(SafetensorsFolder, RefusesDamagedIndexes) {
  for (const char* index : {"", "[]", "{}", R"({"weight_map":[]})", R"({"weight_map":{"a":1}})",
                            R"({"weight_map":{"a":"s"},"weight_map":{}})",
                            R"({"weight_map":{"a":"missing.safetensors"}})"}) {
    const TempFolder folder;
    write_text_atomic(folder / "model.safetensors.index.json", index);
    EXPECT_THROW(SafetensorsReader(folder.path().string()), CheckpointError) << index;
  }
  const TempFolder folder;
  write_text_atomic(folder / "model.safetensors.index.json", std::string(1000000, '['));
  EXPECT_THROW(SafetensorsReader(folder.path().string()), CheckpointError);
  write_safetensors((folder / "s.safetensors").string(), {{"a", at::zeros({2})}});
  write_text_atomic(folder / "model.safetensors.index.json",
                    R"({"weight_map":{"b":"s.safetensors"}})");
  EXPECT_THROW(SafetensorsReader(folder.path().string()), CheckpointError);
}

TEST(SafetensorsFolder, PicklesAreNeverOpened) {
  const TempFolder folder;
  write_text_atomic(folder / "pytorch_model.bin", "x");
  for (const std::string& path :
       {folder.path().string(), (folder / "pytorch_model.bin").string()}) {
    try {
      SafetensorsReader reader(path);
      FAIL();
    } catch (const CheckpointError& error) {
      EXPECT_NE(std::string(error.what()).find("pickle"), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("safetensors on the producing side"),
                std::string::npos)
          << error.what();
    }
  }
  const TempFolder empty;
  EXPECT_THROW(SafetensorsReader(empty.path().string()), CheckpointError);
  EXPECT_THROW(SafetensorsReader((empty / "none.safetensors").string()), CheckpointError);
}

TEST(SafetensorsWriter, RefusesWhatWouldNotBeReadable) {
  const TempFolder folder;
  const std::string path = (folder / "x").string();
  const Tensor t = at::zeros({1});
  EXPECT_THROW(write_safetensors(path, {{"a", t}, {"a", t}}), InternalError);
  EXPECT_THROW(write_safetensors(path, {{"__metadata__", t}}), InternalError);
  EXPECT_THROW(write_safetensors(path, {{"a", t.to(at::kComplexFloat)}}), InternalError);
  EXPECT_FALSE(fs::exists(path));
}

TEST(SafetensorsWriter, AFullDiskLeavesTheOldFile) {
  const TempFolder folder;
  const std::string path = (folder / "x").string();
  write_safetensors(path, {{"a", at::zeros({4})}});
  const std::string before = read_text(path);
  for (int write = 1; write <= 3; ++write) {
    set_fault_plan(cat("write:", write, "=ENOSPC"));
    EXPECT_THROW(write_safetensors(path, {{"a", at::zeros({9})}}), StorageError);
    set_fault_plan("");
    EXPECT_EQ(read_text(path), before);
    EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), fs::directory_iterator()), 1);
  }
}

}  // namespace safetensors_test
}  // namespace strata::io
