#include "parallel/checkpoint/shard_writer.h"

#include <algorithm>
#include <map>

#include "core/error.h"
#include "core/io/crc32c.h"
#include "core/io/file.h"
#include "core/io/hdf5.h"
#include "core/text.h"

namespace strata::checkpoint_detail {
namespace shard_writer_detail {

// Host copies of device or strided data are made in slices of about this size.
constexpr int64_t kStagingBytes = 64 << 20;

// Checksums of consecutive blocks of a byte stream fed in any portions.
class BlockCrcs {
 public:
  explicit BlockCrcs(int64_t block) : block_(block) {}
  void feed(const std::byte* data, int64_t bytes) {
    while (bytes > 0) {
      if (filled_ == 0) crcs_.push_back(0);
      const int64_t part = std::min(bytes, block_ - filled_);
      crcs_.back() = io::crc32c(data, static_cast<size_t>(part), crcs_.back());
      filled_ = (filled_ + part) % block_;
      data += part;
      bytes -= part;
    }
  }
  std::vector<uint32_t> take() { return std::move(crcs_); }

 private:
  const int64_t block_;
  int64_t filled_ = 0;
  std::vector<uint32_t> crcs_;
};

// Streams the elements of `piece` from `data` (holding the box of `offer`) to the shard.
void write_piece(io::File& file, const ShardJob& job, const Offer& offer, const Tensor& data,
                 Piece& piece, uint64_t& model_hash) {
  const bool hashed = job.hash && starts_with(piece.path, "/model/");
  BlockCrcs crcs(job.block);
  int64_t written = 0;
  const auto write_slice = [&](const Tensor& slice, const Box& box) {
    const Tensor host = slice.cpu().contiguous();
    const auto* bytes = static_cast<const std::byte*>(host.const_data_ptr());
    const auto total = static_cast<int64_t>(host.nbytes());
    // Block by block, so that the checksum reads what the write then finds in the cache.
    for (int64_t at = 0; at < total; at += job.block) {
      const int64_t part = std::min(job.block, total - at);
      crcs.feed(bytes + at, part);
      file.write_at(piece.offset + written, bytes + at, static_cast<size_t>(part));
      written += part;
    }
    if (hashed) model_hash += element_hash(piece.path, piece.global, box, host);
  };
  if (piece.bytes > 0 && piece.box.extent.empty()) {
    write_slice(data, piece.box);
  } else if (piece.bytes > 0) {
    const int64_t rows = piece.box.extent[0], row_bytes = piece.bytes / rows;
    const bool direct = data.is_contiguous() && data.device().is_cpu();
    const int64_t step =
        direct ? rows : std::max<int64_t>(1, kStagingBytes / std::max<int64_t>(row_bytes, 1));
    for (int64_t row = 0; row < rows; row += step) {
      Box box = piece.box;
      box.offset[0] += row;
      box.extent[0] = std::min(step, rows - row);
      write_slice(data.narrow(0, box.offset[0] - offer.box.offset[0], box.extent[0]), box);
    }
  }
  piece.crcs = crcs.take();
}

}  // namespace shard_writer_detail

ShardResult write_shard(const ShardJob& job, const std::vector<Offer>& offers,
                        const std::vector<Tensor>& data, const std::vector<Task>& tasks) {
  ShardResult result;
  result.file = shard_name(job.number) + ".h5";
  result.sidecar = shard_name(job.number) + ".json";
  const std::filesystem::path path = job.directory / result.file;
  Sidecar sidecar;
  sidecar.file = result.file;
  sidecar.block = job.block;

  // HDF5 writes its metadata and is closed before the first element: what follows are plain writes
  // at known offsets.
  {
    io::HdfFile file(path.string(), io::HdfFile::Mode::Create);
    file.set_attribute("/", "format", std::string(kFormat));
    file.set_attribute("/", "version", cat(kVersionMajor, ".", kVersionMinor));
    file.set_attribute("/", "step", std::vector<uint64_t>{static_cast<uint64_t>(job.step)});
    std::map<std::string, int> copies;
    for (const Task& task : tasks) {
      const Offer& offer = offers[task.offer];
      Piece piece{offer.path, offer.dtype, offer.global, task.box, 0, task.bytes, {}};
      const int copy = copies[offer.path]++;
      const std::string dataset = dataset_name(offer.path, copy);
      piece.offset = file.create_dataset(dataset, offer.dtype, task.box.extent);
      file.set_attribute(dataset, "global_shape",
                         std::vector<uint64_t>(offer.global.begin(), offer.global.end()));
      file.set_attribute(dataset, "global_offset",
                         std::vector<uint64_t>(task.box.offset.begin(), task.box.offset.end()));
      sidecar.pieces.push_back(std::move(piece));
    }
    file.close();
  }
  io::File file(path, io::File::Mode::ReadWrite);
  sidecar.bytes = result.file_bytes = file.size();
  file.reserve(result.file_bytes);
  for (size_t i = 0; i < tasks.size(); ++i) {
    shard_writer_detail::write_piece(file, job, offers[tasks[i].offer], data[tasks[i].offer],
                                     sidecar.pieces[i], result.model_hash);
  }
  file.sync();
  file.close();
  const std::string text = write_sidecar(sidecar);
  io::write_text_atomic(job.directory / result.sidecar, text);
  result.sidecar_bytes = static_cast<int64_t>(text.size());
  result.sidecar_crc = io::crc_text(io::crc32c(text));
  return result;
}

}  // namespace strata::checkpoint_detail
