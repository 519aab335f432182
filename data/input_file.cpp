#include "data/input_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "core/text.h"
#include "data/utf8.h"

namespace strata::datasets {
namespace input_file_detail {

// Size of a usable data file.
int64_t checked_size(const std::string& path) {
  if (path.empty()) throw DataError("a data file has an empty name; set data.path");
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) {
    const int error = errno;
    throw DataError(cat(path, ": cannot be read: ", std::strerror(error),
                        error == ENOENT
                            ? "; check data.path (relative paths start at the working directory)"
                            : "; check the path and its permissions"));
  }
  if (S_ISDIR(info.st_mode)) throw DataError(cat(path, ": is a folder, a file is needed here"));
  if (!S_ISREG(info.st_mode)) {
    throw DataError(
        cat(path, ": is a device, pipe or socket; copy its contents into a regular file"));
  }
  if (::access(path.c_str(), R_OK) != 0) {
    throw DataError(
        cat(path, ": cannot be read: ", std::strerror(errno), "; check who may read it"));
  }
  if (info.st_size == 0)
    throw DataError(cat(path, ": is empty (0 bytes); write it again or choose another file"));
  return info.st_size;
}

io::File open_checked(const std::string& path) {
  checked_size(path);
  try {
    return io::File(path, io::File::Mode::Read);
  } catch (const StorageError& error) {
    throw DataError(cat(path, ": cannot be read: ", error.what()));
  }
}

}  // namespace input_file_detail

InputFile::InputFile(const std::string& path)
    : path_(path), file_(input_file_detail::open_checked(path)), size_(file_.size()) {}

void InputFile::read(int64_t offset, int64_t bytes, void* out) const {
  STRATA_CHECK(offset >= 0 && bytes >= 0 && offset <= size_ && bytes <= size_ - offset,
               cat(path_, ": bytes [", offset, ", ", offset + bytes, ") of ", size_));
  const auto check_size = [&] {
    const int64_t now = file_.size();
    if (now != size_) {
      throw DataError(
          cat(path_, ": changed while it was in use: ", size_, " bytes when it was opened, ", now,
              " bytes when byte ", offset,
              " was wanted. Data files must stay as they are during a run; restore it and resume"));
    }
  };
  check_size();
  try {
    file_.read_at(offset, out, static_cast<size_t>(bytes));
  } catch (const StorageError&) {
    check_size();  // cut between the check and the read; otherwise the storage itself failed
    throw;
  }
}

std::string InputFile::head(int64_t most) const {
  std::string out(static_cast<size_t>(std::min(most, size_)), '\0');
  read(0, static_cast<int64_t>(out.size()), out.data());
  return out;
}

void check_readable(const std::string& path) { input_file_detail::open_checked(path); }

bool is_folder(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored);
}

bool file_exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

std::vector<std::string> files_in(const std::string& folder,
                                  const std::vector<std::string>& endings) {
  std::vector<std::string> out;
  std::error_code error;
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    std::error_code ignored;
    const std::string name = it->path().filename().string();
    if (starts_with(name, ".") || !it->is_regular_file(ignored)) continue;
    const bool wanted = std::any_of(endings.begin(), endings.end(), [&](const std::string& ending) {
      return ends_with(name, ending);
    });
    if (wanted) out.push_back(it->path().string());
  }
  if (error) throw DataError(cat(folder, ": cannot be listed: ", error.message()));
  std::sort(out.begin(), out.end());
  return out;
}

namespace input_file_detail {

// Offset of the first control character that texts do not have, or npos.
size_t first_control(const std::string& bytes) {
  const auto found = std::find_if(bytes.begin(), bytes.end(), [](char byte) {
    const auto c = static_cast<unsigned char>(byte);
    return (c < 0x20 && !(c >= 0x07 && c <= 0x0D) && c != 0x1B) || c == 0x7F;
  });
  return found == bytes.end() ? std::string::npos : static_cast<size_t>(found - bytes.begin());
}

}  // namespace input_file_detail

bool has_control_characters(const std::string& bytes) {
  return input_file_detail::first_control(bytes) != std::string::npos;
}

int64_t first_non_text(const std::string& bytes) {
  const size_t control = input_file_detail::first_control(bytes);
  if (control != std::string::npos) return static_cast<int64_t>(control);
  const size_t invalid = utf8::first_invalid(bytes);
  if (invalid == std::string::npos || utf8::is_cut_off(std::string_view(bytes).substr(invalid)))
    return -1;
  return static_cast<int64_t>(invalid);
}

std::string hex_bytes(const std::string& bytes, size_t most) {
  static const char digits[] = "0123456789abcdef";
  std::string out;
  for (size_t i = 0; i < std::min(most, bytes.size()); ++i) {
    const auto c = static_cast<unsigned char>(bytes[i]);
    if (i > 0) out += ' ';
    out += digits[c >> 4];
    out += digits[c & 15];
  }
  return out;
}

}  // namespace strata::datasets
