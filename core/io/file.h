#pragma once
// POSIX files behind a small RAII type: short writes and EINTR are handled here, failures throw StorageError with the
// path and errno text. Tests inject faults through FaultPlan (fault.inject).
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace strata::io {

class File {
 public:
  enum class Mode { Read, Create, ReadWrite };   // Create truncates
  File() = default;
  File(const std::filesystem::path& path, Mode mode);
  ~File();
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;

  int64_t size() const;
  void read_at(int64_t offset, void* data, size_t bytes) const;   // throws StorageError when the file ends before
  void write_at(int64_t offset, const void* data, size_t bytes);
  void append(std::string_view text);
  void sync();
  void close();
  bool is_open() const noexcept { return fd_ >= 0; }
  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  int fd_ = -1;
  std::filesystem::path path_;
};

// Read-only memory map of a whole file; empty files map to size 0.
class MappedFile {
 public:
  MappedFile() = default;
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  const std::byte* data() const noexcept { return data_; }
  size_t size() const noexcept { return size_; }
  std::string_view text() const noexcept { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

std::string read_text(const std::filesystem::path& path);                    // throws StorageError
// Writes to "<path>.tmp", syncs, renames, syncs the directory: readers see the old or the new text, never a part.
void write_text_atomic(const std::filesystem::path& path, std::string_view text);
void sync_directory(const std::filesystem::path& directory);
int64_t free_bytes(const std::filesystem::path& directory);

// fault.inject of the run file, for rehearsals and tests: "write:17=ENOSPC" fails the 17th write with that errno,
// "kill@rename:2" kills the process at the second rename. Empty: nothing. Process-wide; set once by launch/ or a test.
void set_fault_plan(const std::string& plan);

}  // namespace strata::io
