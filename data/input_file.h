#pragma once
// A data file opened for reading: what is wrong with it is a DataError naming the file. Contents
// are read in place with pread rather than mapped, so that a file cut while a run reads it ends the
// run with a message and not with a signal.
#include <cstdint>
#include <string>
#include <vector>

#include "core/io/file.h"

namespace strata::datasets {

class InputFile {
 public:
  // Throws DataError when there is no such file, it is a folder or a device, it cannot be opened or
  // it is empty.
  explicit InputFile(const std::string& path);

  const std::string& path() const noexcept { return path_; }
  int64_t size() const noexcept { return size_; }
  // Bytes [offset, offset + bytes), which must lie inside size(). Thread safe. Throws DataError
  // when the file no longer has the size it was opened with.
  void read(int64_t offset, int64_t bytes, void* out) const;
  // The first bytes, at most `most`.
  std::string head(int64_t most) const;

 private:
  std::string path_;
  io::File file_;
  int64_t size_ = 0;
};

// Throws the DataError of InputFile without keeping the file open.
void check_readable(const std::string& path);
bool is_folder(const std::string& path);
bool file_exists(const std::string& path);
// Regular files of a folder whose names end in one of `endings`, sorted by name; hidden files are
// left out.
std::vector<std::string> files_in(const std::string& folder,
                                  const std::vector<std::string>& endings);

// Whether there are control characters that texts do not have.
bool has_control_characters(const std::string& bytes);
// Offset of the first byte that makes `bytes` not a text (a control character or no UTF-8), or -1.
// A code point cut by the end is not held against it.
int64_t first_non_text(const std::string& bytes);
// "47 5a 49 50": the first bytes for messages.
std::string hex_bytes(const std::string& bytes, size_t most);

}  // namespace strata::datasets
