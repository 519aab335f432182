#include "core/io/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "core/io/fault.h"
#include "core/text.h"

namespace strata::io {
namespace file_detail {

// One system call moves at most this much: some kernels refuse or cut more than 2 GiB, and a fault
// plan counts calls.
constexpr size_t kMaxCall = size_t{64} << 20;

std::string advice(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return "; free some space or write somewhere else";
    case EACCES:
    case EPERM:
    case EROFS:
      return "; check who may write there";
    default:
      return "";
  }
}

[[noreturn]] void fail(const std::string& what, const std::filesystem::path& path, int error) {
  throw StorageError(cat(what, " ", path.string(), ": ", std::strerror(error), advice(error)));
}

int64_t file_size(int fd, const std::filesystem::path& path) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) fail("cannot read the size of", path, errno);
  if (!S_ISREG(info.st_mode)) throw StorageError(cat(path.string(), ": not a regular file"));
  return info.st_size;
}

int open_retrying(const std::filesystem::path& path, int flags) {
  for (;;) {
    const int fd = ::open(path.c_str(), flags | O_CLOEXEC, 0644);
    if (fd >= 0 || errno != EINTR) return fd;
  }
}

// The one place where file contents are written.
void write_all(int fd, const std::filesystem::path& path, int64_t offset, const void* data,
               size_t bytes) {
  const char* next = static_cast<const char*>(data);
  int stalled = 0;
  while (bytes > 0) {
    size_t part = std::min(bytes, kMaxCall);
    ssize_t written = -1;
    const int fault = next_fault(FaultOp::Write);
    if (fault > 0) {
      errno = fault;
    } else {
      if (fault == kShortWrite) part = std::max<size_t>(1, part / 2);
      written = ::pwrite(fd, next, part, offset);
    }
    if (written < 0) {
      if (errno == EINTR && ++stalled < 1000) continue;
      fail(cat("cannot write ", bytes, " bytes at ", offset, " of"), path, errno);
    }
    if (written == 0 && ++stalled >= 1000) fail("no progress while writing", path, EIO);
    if (written > 0) stalled = 0;
    next += written;
    offset += written;
    bytes -= static_cast<size_t>(written);
  }
}

void sync_descriptor(int fd, const std::filesystem::path& path) {
  for (;;) {
    const int fault = next_fault(FaultOp::Sync);
    if (fault == EINTR) continue;
    if (fault > 0) fail("cannot sync", path, fault);
    if (::fsync(fd) == 0) return;
    if (errno != EINTR) fail("cannot sync", path, errno);
  }
}

}  // namespace file_detail

File::File(const std::filesystem::path& path, Mode mode) : path_(path) {
  int flags = O_RDONLY;
  if (mode == Mode::Create) flags = O_RDWR | O_CREAT | O_TRUNC;
  if (mode == Mode::ReadWrite) flags = O_RDWR;
  fd_ = file_detail::open_retrying(path, flags);
  if (fd_ < 0) {
    file_detail::fail(mode == Mode::Create ? "cannot create" : "cannot open", path, errno);
  }
}

File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

File::File(File&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)) {}

File& File::operator=(File&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = std::exchange(other.fd_, -1);
    path_ = std::move(other.path_);
  }
  return *this;
}

int64_t File::size() const { return file_detail::file_size(fd_, path_); }

void File::read_at(int64_t offset, void* data, size_t bytes) const {
  char* next = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t got = ::pread(fd_, next, std::min(bytes, file_detail::kMaxCall), offset);
    if (got < 0) {
      if (errno == EINTR) continue;
      file_detail::fail(cat("cannot read ", bytes, " bytes at ", offset, " of"), path_, errno);
    }
    if (got == 0) {
      throw StorageError(cat(path_.string(), ": ends at byte ", offset, " but ", bytes,
                             " more bytes were expected"));
    }
    next += got;
    offset += got;
    bytes -= static_cast<size_t>(got);
  }
}

void File::write_at(int64_t offset, const void* data, size_t bytes) {
  file_detail::write_all(fd_, path_, offset, data, bytes);
}

void File::append(std::string_view text) {
  file_detail::write_all(fd_, path_, size(), text.data(), text.size());
}

void File::reserve(int64_t bytes) {
  if (bytes <= 0) return;
  for (;;) {
    int error = next_fault(FaultOp::Write);
    if (error == kShortWrite) error = 0;
    if (error == 0 && ::fallocate(fd_, 0, 0, bytes) != 0) error = errno;
    if (error == 0 || error == EOPNOTSUPP || error == ENOSYS) return;
    if (error != EINTR)
      file_detail::fail(cat("cannot allocate ", bytes, " bytes for"), path_, error);
  }
}

void File::sync() { file_detail::sync_descriptor(fd_, path_); }

void File::close() {
  const int fd = std::exchange(fd_, -1);
  // Linux releases the descriptor even when close reports EINTR; other errors are late write
  // errors.
  if (fd >= 0 && ::close(fd) != 0 && errno != EINTR)
    file_detail::fail("cannot close", path_, errno);
}

MappedFile::MappedFile(const std::filesystem::path& path) {
  const File file(path, File::Mode::Read);
  const int64_t bytes = file.size();
  if (bytes == 0) return;
  const int fd = file_detail::open_retrying(path, O_RDONLY);
  if (fd < 0) file_detail::fail("cannot open", path, errno);
  void* address = ::mmap(nullptr, static_cast<size_t>(bytes), PROT_READ, MAP_SHARED, fd, 0);
  const int error = errno;
  ::close(fd);
  if (address == MAP_FAILED) file_detail::fail("cannot map", path, error);
  data_ = static_cast<const std::byte*>(address);
  size_ = static_cast<size_t>(bytes);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

std::string read_text(const std::filesystem::path& path) {
  const File file(path, File::Mode::Read);
  std::string text(static_cast<size_t>(file.size()), '\0');
  file.read_at(0, text.data(), text.size());
  return text;
}

void write_text_atomic(const std::filesystem::path& path, std::string_view text) {
  std::filesystem::path temporary = path;
  temporary += ".tmp";
  try {
    File file(temporary, File::Mode::Create);
    file.write_at(0, text.data(), text.size());
    file.sync();
    file.close();
    rename_path(temporary, path);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  sync_directory(path.has_parent_path() ? path.parent_path() : std::filesystem::path("."));
}

void sync_directory(const std::filesystem::path& directory) {
  const int fd = file_detail::open_retrying(directory, O_RDONLY | O_DIRECTORY);
  if (fd < 0) file_detail::fail("cannot open directory", directory, errno);
  try {
    file_detail::sync_descriptor(fd, directory);
  } catch (...) {
    ::close(fd);
    throw;
  }
  ::close(fd);
}

void rename_path(const std::filesystem::path& from, const std::filesystem::path& to) {
  int error = next_fault(FaultOp::Rename);
  if (error == 0 && ::rename(from.c_str(), to.c_str()) != 0) error = errno;
  if (error != 0) file_detail::fail(cat("cannot rename ", from.string(), " to"), to, error);
}

bool exchange_paths(const std::filesystem::path& a, const std::filesystem::path& b) {
  int error = next_fault(FaultOp::Rename);
  constexpr unsigned kExchange = 2;  // RENAME_EXCHANGE of linux/fs.h
  if (error == 0 &&
      ::syscall(SYS_renameat2, AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), kExchange) != 0) {
    error = errno;
    if (error == EINVAL || error == ENOSYS) return false;
  }
  if (error != 0) file_detail::fail(cat("cannot exchange ", a.string(), " with"), b, error);
  return true;
}

void make_directory(const std::filesystem::path& path) {
  int error = next_fault(FaultOp::Mkdir);
  if (error == 0 && ::mkdir(path.c_str(), 0755) != 0) error = errno;
  if (error != 0) file_detail::fail("cannot create directory", path, error);
}

void remove_file(const std::filesystem::path& path) {
  int error = next_fault(FaultOp::Unlink);
  if (error == 0 && ::unlink(path.c_str()) != 0) error = errno;
  if (error != 0 && error != ENOENT) file_detail::fail("cannot remove", path, error);
}

void remove_tree(const std::filesystem::path& directory) {
  std::error_code error;
  const auto status = std::filesystem::symlink_status(directory, error);
  if (!std::filesystem::exists(status)) return;
  if (!std::filesystem::is_directory(status)) return remove_file(directory);
  std::filesystem::directory_iterator entries(directory, error);
  if (error) file_detail::fail("cannot list", directory, error.value());
  for (const auto& entry : entries) remove_tree(entry.path());
  int code = next_fault(FaultOp::Unlink);
  if (code == 0 && ::rmdir(directory.c_str()) != 0) code = errno;
  if (code != 0 && code != ENOENT) file_detail::fail("cannot remove directory", directory, code);
}

int64_t free_bytes(const std::filesystem::path& directory) {
  struct statvfs info {};
  while (::statvfs(directory.c_str(), &info) != 0) {
    if (errno != EINTR) file_detail::fail("cannot read the free space of", directory, errno);
  }
  return static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
}

}  // namespace strata::io
