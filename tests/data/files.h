#pragma once
// Files for data tests, built byte by byte and independently of the code that reads or writes them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/io/crc32c.h"

namespace strata::data_test {

class Folder {
 public:
  Folder() {
    std::string name = (std::filesystem::temp_directory_path() / "strata-data-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no folder for the test");
    path_ = name;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline void write_bytes(const std::string& path, const std::string& bytes) {
  std::filesystem::remove(
      path);  // some file systems write a truncated file to the disk when it is closed
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!out.flush()) throw std::runtime_error("cannot write " + path);
}

inline std::string read_bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

template <class T>
std::string number(T value) {
  std::string out(sizeof(T), '\0');
  std::memcpy(out.data(), &value, sizeof(T));
  return out;
}

template <class T>
std::string numbers(const std::vector<int64_t>& values) {
  std::string out;
  for (int64_t value : values) out += number(static_cast<T>(value));
  return out;
}

// Ids 0 .. count-1 times 7 modulo `vocab`: no two neighbours alike.
inline std::vector<int64_t> some_ids(int64_t count, int64_t vocab) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < count; ++i) out.push_back((i * 7 + i / vocab) % vocab);
  return out;
}

struct StrataFile {
  std::string magic = "STRATATK";
  uint32_t version = 1, width = 2;
  uint64_t tokens = 0, vocab_size = 100, documents = 0;
  std::string body;  // ids, padding, document ends

  static StrataFile of(const std::vector<int64_t>& ids, const std::vector<int64_t>& ends = {},
                       uint32_t width = 2) {
    StrataFile out;
    out.width = width;
    out.tokens = ids.size();
    out.documents = ends.size();
    out.body = width == 2 ? numbers<uint16_t>(ids) : numbers<uint32_t>(ids);
    while (out.body.size() % 8 != 0) out.body += '\0';
    out.body += numbers<uint64_t>(ends);
    return out;
  }
  std::string header() const {
    std::string out = magic + number(version) + number(width) + number(tokens) +
                      number(vocab_size) + number(documents);
    out.resize(60, '\0');
    return out + number(io::crc32c(out));
  }
  std::string bytes() const { return header() + body + number(io::crc32c(body)); }
};

inline std::string llmc_header(int32_t magic, int32_t version, int32_t tokens) {
  std::string out = number(magic) + number(version) + number(tokens);
  out.resize(1024, '\0');
  return out;
}

struct MegatronIndex {
  std::string magic = std::string("MMIDIDX\0\0", 9);
  uint64_t version = 1;
  uint8_t code = 8;
  std::vector<int64_t> lengths, positions, marks;
  uint64_t sequences = 0, mark_count = 0;

  // Sequences one after the other, each a document, elements of `width` bytes.
  static MegatronIndex of(const std::vector<int64_t>& lengths, int width = 2, uint8_t code = 8) {
    MegatronIndex out;
    out.code = code;
    out.lengths = lengths;
    out.sequences = lengths.size();
    int64_t position = 0;
    out.marks.push_back(0);
    for (size_t i = 0; i < lengths.size(); ++i) {
      out.positions.push_back(position);
      position += lengths[i] * width;
      out.marks.push_back(static_cast<int64_t>(i) + 1);
    }
    out.mark_count = out.marks.size();
    return out;
  }
  std::string bytes() const {
    return magic + number(version) + number(code) + number(sequences) + number(mark_count) +
           numbers<int32_t>(lengths) + numbers<int64_t>(positions) + numbers<int64_t>(marks);
  }
};

// Message of the error of type `E` that `action` throws; fails the test when it throws none or
// another.
template <class E, class Action>
std::string message_of(const Action& action) {
  try {
    action();
  } catch (const E& error) {
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another type of error: " << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

inline void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "\"" << part << "\" is missing in: " << text;
}

// Words with the shape of language: spaces, lines and now and then an empty line.
inline std::string some_text(size_t bytes, uint32_t seed) {
  static const char* const words[] = {"the",     "stone",  "river", "and",    "under", "light",
                                      "carries", "winter", "slow",  "a",      "of",    "bird",
                                      "again",   "house",  "over",  "morning"};
  std::mt19937 random(seed);
  std::string out;
  while (out.size() < bytes) {
    out += words[random() % 16];
    const uint32_t next = random() % 12;
    out += next == 0 ? "\n" : next == 1 ? ".\n\n" : " ";
  }
  out.resize(bytes);
  return out;
}

}  // namespace strata::data_test
