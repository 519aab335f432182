#pragma once
// POSIX files behind a small RAII type: short writes and EINTR are handled here, failures throw
// StorageError with the path and errno text. Tests inject faults through FaultPlan (fault.inject).
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace strata::io {

class File {
 public:
  enum class Mode { Read, Create, ReadWrite };  // Create truncates
  File() = default;
  File(const std::filesystem::path& path, Mode mode);
  ~File();
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;

  int64_t size() const;
  void read_at(int64_t offset, void* data,
               size_t bytes) const;  // throws StorageError when the file ends before
  void write_at(int64_t offset, const void* data, size_t bytes);
  void append(std::string_view text);
  // Allocates the blocks of [0, bytes) now, so that a full disk or quota is found before any data
  // are written. File systems that cannot do so are left alone.
  void reserve(int64_t bytes);
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

std::string read_text(const std::filesystem::path& path);  // throws StorageError
// Writes to "<path>.tmp", syncs, renames, syncs the directory: readers see the old or the new text,
// never a part.
void write_text_atomic(const std::filesystem::path& path, std::string_view text);
void sync_directory(const std::filesystem::path& directory);
// These throw StorageError with both paths and the errno text, and count for the fault plan.
void rename_path(const std::filesystem::path& from, const std::filesystem::path& to);
// Swaps two existing paths in one step where the file system can (true); false: nothing was done.
bool exchange_paths(const std::filesystem::path& a, const std::filesystem::path& b);
void make_directory(const std::filesystem::path& path);  // the parent must exist, the path must not
void remove_file(const std::filesystem::path& path);     // absent is fine
void remove_tree(
    const std::filesystem::path& directory);  // absent is fine; links are removed, not followed
int64_t free_bytes(const std::filesystem::path& directory);

// fault.inject of the run file, for rehearsals and tests: "write:17=ENOSPC" fails the 17th write
// with that errno, "write:17+=ENOSPC" that and all later ones, "write:*=SHORT" writes a part only
// (the rest follows, nobody notices), "kill@rename:2" kills the process before the second rename.
// Entries are separated by commas; operations are write, sync, rename, unlink, mkdir; counting
// starts when the plan is set. Empty: nothing. Throws ConfigError for anything else. Process-wide;
// set once by launch/ or a test.
void set_fault_plan(const std::string& plan);

}  // namespace strata::io
