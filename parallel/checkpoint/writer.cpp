#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <system_error>

#include "core/error.h"
#include "core/io/crc32c.h"
#include "core/io/file.h"
#include "core/io/hdf5.h"
#include "core/text.h"
#include "parallel/checkpoint/assignment.h"
#include "parallel/checkpoint/catalogue.h"
#include "parallel/checkpoint/checkpoint.h"
#include "parallel/checkpoint/hash_text.h"
#include "parallel/checkpoint/leftovers.h"
#include "parallel/checkpoint/shard_writer.h"

namespace strata {
namespace writer_detail {

namespace fs = std::filesystem;

// What one rank tells the others about its shard, as text lines.
std::string encode(const checkpoint_detail::ShardResult& shard) {
  return cat(shard.file, "\n", shard.sidecar, "\n", shard.file_bytes, "\n", shard.sidecar_bytes,
             "\n", shard.sidecar_crc, "\n", shard.model_hash);
}

checkpoint_detail::ShardResult decode(const std::string& text) {
  const std::vector<std::string> lines = split(text.substr(1), '\n');
  STRATA_CHECK(lines.size() == 6, "checkpoint: a rank's report is damaged");
  checkpoint_detail::ShardResult shard;
  shard.file = lines[0];
  shard.sidecar = lines[1];
  shard.file_bytes = std::stoll(lines[2]);
  shard.sidecar_bytes = std::stoll(lines[3]);
  shard.sidecar_crc = lines[4];
  shard.model_hash = std::stoull(lines[5]);
  return shard;
}

std::string new_nonce() {
  std::random_device device;
  return checkpoint_detail::hash_text(device() ^
                                      (uint64_t{static_cast<uint32_t>(::getpid())} << 32))
      .substr(8);
}

// Whole tensors for people and HDF5 tools; readers of this program never use it.
void write_index(const fs::path& path, const std::vector<checkpoint_detail::Sidecar>& shards,
                 int64_t step) {
  constexpr size_t kMaxMappings = 2'000'000;
  const auto tensors = checkpoint_detail::index_tensors(shards, path.string());
  std::map<const checkpoint_detail::Piece*, std::string> datasets;
  for (const auto& shard : shards) {
    std::map<std::string, int> copies;
    for (const auto& piece : shard.pieces) {
      datasets[&piece] = checkpoint_detail::dataset_name(piece.path, copies[piece.path]++);
    }
  }
  if (datasets.size() > kMaxMappings)
    throw StorageError(cat("more than ", kMaxMappings, " pieces"));
  io::HdfFile file(path.string(), io::HdfFile::Mode::Create);
  file.set_attribute(
      "/", "note",
      std::string("view only; parts of missing shards read as NaN or the least integer"));
  file.set_attribute("/", "step", std::vector<uint64_t>{static_cast<uint64_t>(step)});
  for (const auto& [name, tensor] : tensors) {
    std::vector<io::HdfFile::VirtualPiece> parts;
    for (const auto& part : tensor.parts) {
      parts.push_back({shards[part.shard].file, datasets[part.piece], part.piece->box.offset,
                       part.piece->box.extent});
    }
    file.create_virtual(name, tensor.dtype, tensor.shape, parts);
  }
  file.close();
  io::File(path, io::File::Mode::ReadWrite).sync();
}

}  // namespace writer_detail

struct CheckpointWriter::Impl {
  Communicator& job;
  SaveRequest request;
  std::filesystem::path directory;  // step-N.tmp-<nonce>
  std::string nonce;
  std::vector<checkpoint_detail::Offer> offers;
  std::vector<Tensor> data;
  std::map<std::string, std::string> files;
  bool finished = false;

  Impl(Communicator& communicator, SaveRequest save)
      : job(communicator), request(std::move(save)) {}

  std::filesystem::path target() const {
    return request.root / checkpoint_detail::step_name(request.step);
  }

  // Rank 0, best effort: what cannot be removed is found by remove_leftovers().
  void discard() noexcept {
    finished = true;
    if (job.rank() != 0) return;
    try {
      io::remove_tree(directory);
    } catch (...) {
    }
  }

  // Every rank says "" or what went wrong; all return the reports, or all throw.
  std::vector<std::string> agree(const std::string& report) {
    std::vector<std::string> reports = job.all_gather_bytes(report);
    std::string first;
    int failures = 0;
    for (size_t rank = 0; rank < reports.size(); ++rank) {
      if (reports[rank].empty() || reports[rank][0] != '-') continue;
      if (failures++ == 0) first = cat("rank ", rank, ": ", reports[rank].substr(1));
    }
    if (failures == 0) return reports;
    discard();
    throw StorageError(
        cat("checkpoint of step ", request.step, " was not written; ", first,
            failures > 1 ? cat(" (and ", failures - 1, " more ranks)") : std::string(),
            ". Older checkpoints are untouched."));
  }

  template <class Call>
  std::string guarded(const Call& call) {
    try {
      return cat("+", call());
    } catch (const std::exception& error) {
      return cat("-", error.what());
    }
  }

  void preflight(int64_t bytes) const {
    const int64_t needed = bytes + bytes / 20, free = io::free_bytes(directory);
    if (free < needed) {
      throw StorageError(cat(request.root.string(), ": the checkpoint needs ",
                             bytes_text(static_cast<double>(needed)), ", free are ",
                             bytes_text(static_cast<double>(free)),
                             "; remove something or lower ckpt.keep_last"));
    }
  }

  checkpoint_detail::Manifest manifest_for(
      const std::vector<checkpoint_detail::ShardResult>& shards) const {
    checkpoint_detail::Manifest manifest;
    manifest.step = request.step;
    manifest.tokens = request.tokens;
    manifest.samples = request.samples;
    manifest.time_utc = checkpoint_detail::utc_time("%Y-%m-%dT%H:%M:%SZ");
    manifest.run_id = request.run_id;
    manifest.parent = request.parent;
    manifest.model_fingerprint = request.model_fingerprint;
    manifest.writer = {
        {"hdf5", io::hdf5_version()}, {"compiler", __VERSION__}, {"world", cat(job.size())}};
    manifest.state = request.state;
    manifest.aliases = request.aliases;
    uint64_t hash = 0;
    for (const auto& shard : shards) {
      manifest.files.push_back({shard.file, "shard", shard.file_bytes, ""});
      manifest.files.push_back({shard.sidecar, "sidecar", shard.sidecar_bytes, shard.sidecar_crc});
      hash += shard.model_hash;
    }
    if (request.hash) manifest.model_hash = checkpoint_detail::hash_text(hash);
    return manifest;
  }

  // Rank 0, after all shards are on disk.
  std::string finish(const std::vector<checkpoint_detail::ShardResult>& shards,
                     int64_t bytes_assigned) {
    checkpoint_detail::Manifest manifest = manifest_for(shards);
    std::vector<checkpoint_detail::Sidecar> sidecars;
    for (const auto& shard : shards) {
      // Read back: also proves that rank 0 sees what the other hosts wrote.
      const std::string text = io::read_text(directory / shard.sidecar);
      if (io::crc_text(io::crc32c(text)) != shard.sidecar_crc) {
        throw StorageError(cat((directory / shard.sidecar).string(),
                               ": reads back differently than it was written"));
      }
      sidecars.push_back(
          checkpoint_detail::parse_sidecar(text, (directory / shard.sidecar).string()));
      for (const auto& piece : sidecars.back().pieces) {
        manifest.elements_total += element_count(piece.box.extent);
        manifest.bytes_total += piece.bytes;
      }
    }
    manifest.tensors_total =
        static_cast<int64_t>(checkpoint_detail::index_tensors(sidecars, directory.string()).size());
    if (manifest.bytes_total != bytes_assigned) {
      throw StorageError(cat(directory.string(), ": its piece tables have ", manifest.bytes_total,
                             " bytes, planned were ", bytes_assigned));
    }
    try {
      writer_detail::write_index(directory / "index.h5", sidecars, request.step);
    } catch (const std::exception& error) {
      // A view for people only; the note says why it is not there.
      manifest.writer["index"] = cat("not written: ", error.what());
      io::remove_file(directory / "index.h5");
    }
    for (const auto& [name, text] : files) {
      io::File file(directory / name, io::File::Mode::Create);
      file.write_at(0, text.data(), text.size());
      file.sync();
      file.close();
      const std::string kind = name == "config.ini"  ? "config"
                               : name == "plan.json" ? "plan"
                                                     : "text";
      manifest.files.push_back(
          {name, kind, static_cast<int64_t>(text.size()), io::crc_text(io::crc32c(text))});
    }
    const std::string text = checkpoint_detail::write_manifest(manifest);
    if (static_cast<int64_t>(text.size()) > checkpoint_detail::kMaxManifestBytes) {
      throw StorageError(cat(directory.string(), ": the manifest would have ", text.size(),
                             " bytes, allowed: ", checkpoint_detail::kMaxManifestBytes));
    }
    io::write_text_atomic(directory / checkpoint_detail::kManifestName, text);
    publish();
    return "";
  }

  // From here on the checkpoint exists or does not: one rename decides.
  void publish() {
    namespace fs = std::filesystem;
    std::error_code error;
    const fs::path final_path = target();
    fs::path old;
    if (!fs::exists(final_path, error)) {
      io::rename_path(directory, final_path);
    } else if (io::exchange_paths(directory, final_path)) {
      old = directory;
    } else {
      old = cat(final_path.string(), ".del-", nonce);
      io::rename_path(final_path, old);
      try {
        io::rename_path(directory, final_path);
      } catch (...) {
        fs::rename(old, final_path, error);
        throw;
      }
    }
    finished = true;
    io::sync_directory(request.root);
    try {
      io::write_text_atomic(request.root / "LATEST", final_path.filename().string() + "\n");
    } catch (const StorageError&) {
      // A hint only: discovery scans.
    }
    try {
      io::remove_file(final_path / checkpoint_detail::kWriterName);
      if (!old.empty()) io::remove_tree(old);
    } catch (const StorageError&) {
      // Ignored by readers; removed with the next leftovers.
    }
  }
};

CheckpointWriter::CheckpointWriter(Communicator& job, SaveRequest request)
    : impl_(std::make_unique<Impl>(job, std::move(request))) {
  SaveRequest& save = impl_->request;
  STRATA_CHECK(save.step >= 0 && save.step < 1'000'000'000'000,
               cat("checkpoint: step ", save.step, " has no name"));
  STRATA_CHECK(
      save.block_bytes >= 4096 && save.block_bytes <= (int64_t{1} << 30),
      cat("checkpoint: block_bytes: got ", save.block_bytes, ", allowed: 4096 to 1073741824"));
  std::string reply;
  if (job.rank() == 0) {
    reply = impl_->guarded([&] {
      const std::string nonce = writer_detail::new_nonce();
      std::error_code error;
      std::filesystem::create_directories(save.root, error);
      impl_->directory = cat(impl_->target().string(), ".tmp-", nonce);
      io::make_directory(impl_->directory);
      checkpoint_detail::write_owner(impl_->directory);
      return nonce;
    });
    if (reply[0] == '-') impl_->discard();
  }
  job.broadcast_bytes(reply, 0);
  if (reply[0] == '-') {
    throw StorageError(
        cat("checkpoint of step ", save.step, " cannot be started: ", reply.substr(1)));
  }
  impl_->nonce = reply.substr(1);
  impl_->directory = cat(impl_->target().string(), ".tmp-", impl_->nonce);
}

CheckpointWriter::~CheckpointWriter() {
  if (!impl_->finished) impl_->discard();
}

void CheckpointWriter::add(const std::string& path, const Shape& global, const Box& box,
                           const Tensor& data) {
  const std::string why = checkpoint_detail::why_bad_path(path);
  STRATA_CHECK(why.empty(), cat("checkpoint: tensor ", path, ": ", why));
  STRATA_CHECK(data.defined() && data.sizes() == at::IntArrayRef(box.extent),
               cat("checkpoint: tensor ", path, ": data ",
                   data.defined() ? shape_text(data.sizes()) : "undefined", " for a box of ",
                   shape_text(box.extent)));
  STRATA_CHECK(checkpoint_detail::box_bytes(global, data.scalar_type()) >= 0,
               cat("checkpoint: tensor ", path, ": shape ", shape_text(global), " is too large"));
  bool inside = box.offset.size() == global.size() && box.extent.size() == global.size();
  for (size_t i = 0; inside && i < global.size(); ++i) {
    inside = box.offset[i] >= 0 && box.extent[i] <= global[i] - box.offset[i];
  }
  STRATA_CHECK(inside, cat("checkpoint: tensor ", path, ": box at ", shape_text(box.offset), " of ",
                           shape_text(box.extent), " is outside ", shape_text(global)));
  // An empty tensor is one empty piece, whatever part of nothing a rank holds.
  Box kept = box;
  if (element_count(global) == 0) kept = {Shape(global.size(), 0), global};
  impl_->offers.push_back({path, data.scalar_type(), global, kept});
  impl_->data.push_back(data.detach());
}

void CheckpointWriter::add_file(const std::string& name, const std::string& text) {
  STRATA_CHECK(checkpoint_detail::is_file_name(name) && !starts_with(name, "shard-") &&
                   name != "index.h5" && name != checkpoint_detail::kManifestName &&
                   name != checkpoint_detail::kWriterName,
               cat("checkpoint: no file can be added as \"", name, "\""));
  impl_->files[name] = text;
}

std::filesystem::path CheckpointWriter::commit() {
  STRATA_CHECK(!impl_->finished, "checkpoint: commit() was called already");
  Communicator& job = impl_->job;
  std::vector<std::vector<checkpoint_detail::Offer>> offers;
  for (const std::string& bytes :
       job.all_gather_bytes(checkpoint_detail::encode_offers(impl_->offers))) {
    offers.push_back(checkpoint_detail::decode_offers(bytes));
  }
  const checkpoint_detail::Assignment plan = checkpoint_detail::assign(offers);
  const int64_t total = std::accumulate(plan.bytes.begin(), plan.bytes.end(), int64_t{0});

  impl_->agree(impl_->guarded([&]() -> std::string {
    std::error_code error;
    if (!std::filesystem::is_directory(impl_->directory, error)) {
      throw StorageError(cat(impl_->directory.string(),
                             " is not visible here; is it on a file system shared by all hosts?"));
    }
    if (job.rank() == 0) impl_->preflight(total);
    return "";
  }));

  // Ranks that write number their shards densely in rank order.
  const auto me = static_cast<size_t>(job.rank());
  int number = 0;
  for (size_t rank = 0; rank < me; ++rank) number += plan.tasks[rank].empty() ? 0 : 1;
  const std::vector<std::string> reports = impl_->agree(impl_->guarded([&]() -> std::string {
    if (plan.tasks[me].empty()) return "";
    const checkpoint_detail::ShardJob shard{impl_->directory, number, impl_->request.step,
                                            impl_->request.block_bytes, impl_->request.hash};
    return writer_detail::encode(
        checkpoint_detail::write_shard(shard, impl_->offers, impl_->data, plan.tasks[me]));
  }));

  std::string outcome;
  if (job.rank() == 0) {
    std::vector<checkpoint_detail::ShardResult> shards;
    for (const std::string& report : reports) {
      if (report.size() > 1) shards.push_back(writer_detail::decode(report));
    }
    outcome = impl_->guarded([&] { return impl_->finish(shards, total); });
  }
  impl_->agree(outcome);
  impl_->finished = true;
  return impl_->target();
}

}  // namespace strata
