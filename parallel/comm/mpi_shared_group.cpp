#include "parallel/comm/mpi_shared_group.h"

#include <new>

#include "core/error.h"
#include "core/text.h"

namespace strata {

SharedGroup::SharedGroup(std::string name, std::vector<int> job_ranks, int rank,
                         std::shared_ptr<SharedSegment> segment, size_t half_bytes,
                         std::shared_ptr<SegmentRegistry> registry)
    : name_(std::move(name)),
      job_ranks_(std::move(job_ranks)),
      rank_(rank),
      segment_(std::move(segment)),
      registry_(std::move(registry)),
      half_bytes_(half_bytes) {
  for (size_t r = 0; r < job_ranks_.size(); ++r) {
    char* block = segment_->block(static_cast<int>(r));
    lines_.push_back(
        reinterpret_cast<Line*>(block));  // zero bytes are epoch 0 of an atomic counter
    for (int parity = 0; parity < 2; ++parity) {
      halves_[parity].push_back(block + kHeaderBytes + static_cast<size_t>(parity) * half_bytes_);
    }
  }
  static_assert(std::atomic<uint64_t>::is_always_lock_free);
}

SharedGroup::Details* SharedGroup::details(int rank, int parity) const {
  return reinterpret_cast<Details*>(segment_->block(rank) + (parity + 1) * sizeof(Line));
}

void SharedGroup::describe(const Descriptor& descriptor, const CommOperation& operation) {
  const int parity = static_cast<int>((epoch_ + 1) & 1);
  lines_[rank_]->descriptors[parity] = descriptor;
  *details(rank_, parity) = {.sequence = operation.sequence,
                             .count = static_cast<uint64_t>(operation.count),
                             .peer = operation.peer,
                             .layer = operation.site.layer,
                             .site = static_cast<uint16_t>(operation.site.op),
                             .op = static_cast<uint8_t>(operation.op),
                             .dtype = static_cast<uint8_t>(operation.dtype),
                             .reduce = operation.reduce};
}

void SharedGroup::publish() {
  ++epoch_;
  behind_ = 0;
  lines_[rank_]->epoch.store(epoch_, std::memory_order_release);
}

bool SharedGroup::all_here() {
  while (behind_ < size()) {
    if (lines_[behind_]->epoch.load(std::memory_order_acquire) < epoch_) return false;
    ++behind_;
  }
  return true;
}

const SharedGroup::Descriptor& SharedGroup::descriptor(int rank) const {
  return lines_[rank]->descriptors[epoch_ & 1];
}

void SharedGroup::compare(const OpLog* log) const {
  const uint64_t mine = descriptor(rank_).signature;
  bool equal = true;
  for (int r = 0; r < size(); ++r) equal = equal && descriptor(r).signature == mine;
  if (equal) return;
  std::vector<std::string> texts;
  for (int r = 0; r < size(); ++r) {
    const Details& d = *details(r, static_cast<int>(epoch_ & 1));
    CommOperation operation{.op = static_cast<CommOp>(d.op),
                            .dtype = static_cast<at::ScalarType>(d.dtype),
                            .reduce = d.reduce,
                            .peer = d.peer,
                            .count = static_cast<int64_t>(d.count),
                            .site = {d.layer, static_cast<SiteOp>(d.site)}};
    texts.push_back(
        cat("rank ", job_ranks_[r], ": #", d.sequence, " ", strata::describe(operation, log)));
  }
  throw DesyncError(cat("communicator ", name_,
                        ": members run different operations: ", join(texts, "; "),
                        ". One of them skipped, repeated or reordered a collective"));
}

}  // namespace strata
