#include "launch/tensorboard.h"

#include <unistd.h>

#include <chrono>
#include <cstring>

#include "core/error.h"
#include "core/io/crc32c.h"
#include "core/log.h"
#include "core/text.h"

namespace strata {
namespace tensorboard_detail {

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

template <class T>
std::string raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value),
                     sizeof value);  // little-endian machines only, as LibTorch
}

// Protocol buffer wire format: tag = field << 3 | type, with type 0 varint, 1 eight bytes, 2 length
// and bytes, 5 four bytes.
std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}
std::string tag(int field, int type) {
  return varint(static_cast<uint64_t>(field) << 3 | static_cast<uint64_t>(type));
}
std::string bytes_field(int field, const std::string& data) {
  return tag(field, 2) + varint(data.size()) + data;
}
std::string integer_field(int field, int64_t value) {
  return tag(field, 0) + varint(static_cast<uint64_t>(value));
}
std::string float_field(int field, float value) { return tag(field, 5) + raw(value); }
std::string double_field(int field, double value) { return tag(field, 1) + raw(value); }

// Event: wall_time 1, step 2, file_version 3, summary 5, session_log 7.
std::string event(double time, int64_t step, const std::string& rest) {
  return double_field(1, time) + integer_field(2, step) + rest;
}

// TFRecord's CRC is rotated and offset so that a CRC over data holding CRCs stays useful.
std::string masked_crc(const std::string& data) {
  const uint32_t crc = io::crc32c(data);
  return raw(((crc >> 15) | (crc << 17)) + 0xa282ead8u);
}

}  // namespace tensorboard_detail

std::string tfrecord(const std::string& data) {
  using namespace tensorboard_detail;
  const std::string length = raw(static_cast<uint64_t>(data.size()));
  return length + masked_crc(length) + data + masked_crc(data);
}

std::string scalar_event(double wall_time, int64_t step, const Scalars& scalars) {
  using namespace tensorboard_detail;
  std::string summary;
  for (const auto& [name, value] : scalars) {
    summary += bytes_field(1, bytes_field(1, name) + float_field(2, static_cast<float>(value)));
  }
  return event(wall_time, step, bytes_field(5, summary));
}

TensorBoardWriter::TensorBoardWriter(const std::filesystem::path& folder, int64_t first_step) {
  using namespace tensorboard_detail;
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  char host[256] = "";
  ::gethostname(host, sizeof host - 1);
  const double now = wall_time();
  // The process number keeps two starts within a second apart.
  file_ = io::File(
      folder / cat("events.out.tfevents.", static_cast<int64_t>(now), '.', host, '.', ::getpid()),
      io::File::Mode::Create);
  file_.append(tfrecord(event(now, 0, bytes_field(3, "brain.Event:2"))));
  constexpr int kSessionStart = 1;
  file_.append(tfrecord(event(now, first_step, bytes_field(7, integer_field(1, kSessionStart)))));
}

void TensorBoardWriter::add(int64_t step, const Scalars& scalars) {
  try {
    file_.append(tfrecord(scalar_event(tensorboard_detail::wall_time(), step, scalars)));
  } catch (const StorageError& error) {
    log::warn("TensorBoard file: ", error.what());
  }
}

}  // namespace strata
