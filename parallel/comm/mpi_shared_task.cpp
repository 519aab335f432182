#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/text.h"
#include "parallel/comm/mpi_shared_group.h"
#include "parallel/comm/tree_reduce.h"

namespace strata {
namespace mpi_shared_task_detail {

constexpr int64_t kLine = 64;
// All ranks read all of an all_reduce of at most this size: one wait instead of two.
constexpr int64_t kSmallAllReduceBytes = 8192;
// Below this a copy through the arena costs less than the second wait of the direct way.
constexpr int64_t kDirectBytes = 16384;

int64_t round_up(int64_t x, int64_t step) { return (x + step - 1) / step * step; }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Span {
  int64_t begin, count;
};

// Part `index` of `count` elements cut into `parts`, borders on cache lines.
Span part(int64_t count, int parts, int index, int64_t item) {
  const int64_t per = round_up(ceil_div(count, parts), std::max<int64_t>(1, kLine / item));
  const int64_t begin = std::min(count, per * index);
  return {begin, std::min(count, begin + per) - begin};
}

}  // namespace mpi_shared_task_detail

// Steps of one operation, in the terms of mpi_shared_group.h: step 0 writes the descriptor and
// perhaps data and publishes; each later step runs when all have published and either completes the
// operation or publishes again.
class SharedTask final : public MpiTask {
 public:
  SharedTask(std::shared_ptr<SharedGroup> group, SharedCall call, std::shared_ptr<OpLog> log)
      : g_(std::move(group)),
        call_(std::move(call)),
        log_(std::move(log)),
        n_(g_->size()),
        me_(g_->rank()) {
    op_ = call_.operation.op;
    const Tensor& read = call_.in.defined() ? call_.in : call_.out;
    dtype_ = read.scalar_type();
    item_ = static_cast<int64_t>(c10::elementSize(dtype_));
    in_ = static_cast<char*>(read.data_ptr());
    out_ = static_cast<char*>(call_.out.data_ptr());
    in_bytes_ = static_cast<int64_t>(read.nbytes());
    plan();
  }

 protected:
  bool advance() override {
    if (step_ == 0) {
      begin();
      g_->publish();
      step_ = 1;
    }
    while (g_->all_here()) {
      engine().moved();
      if (step_ == 1) {
        g_->compare(log_.get());
        choose();
      }
      if (direct_ ? run_direct() : small_ ? run_small() : run_chunks()) return true;
      g_->publish();
      ++step_;
    }
    return false;
  }

  void release() override {
    call_.out.reset();
    call_.in.reset();
  }

 private:
  // What follows from sizes alone, hence alike on all ranks.
  void plan() {
    const int64_t half = static_cast<int64_t>(g_->half_bytes());
    switch (op_) {
      case CommOp::AllReduce: {
        block_ = in_bytes_;
        small_ = in_bytes_ <= mpi_shared_task_detail::kSmallAllReduceBytes;
        // A chunk leaves room for the reduced slice behind it.
        chunk_ = (half - 2 * mpi_shared_task_detail::kLine) * n_ / (n_ + 1) /
                 (n_ * mpi_shared_task_detail::kLine) * (n_ * mpi_shared_task_detail::kLine);
        break;
      }
      case CommOp::AllGather:
        set_parts(in_bytes_);
        if (parts_in_place()) in_ = out_ + offsets_[me_];
        chunk_ = half;
        break;
      case CommOp::Broadcast:
        block_ = in_bytes_;
        chunk_ = half;
        break;
      case CommOp::ReduceScatter:
      case CommOp::AllToAll:
        set_parts(in_bytes_ / n_);
        chunk_ = half / (n_ - 1) / mpi_shared_task_detail::kLine * mpi_shared_task_detail::kLine;
        break;
      default:
        block_ = 0;
        chunk_ = 1;
    }
    chunks_ = mpi_shared_task_detail::ceil_div(block_, chunk_);
  }

  // Where every rank's part lies in the large tensor; block_ is the longest.
  void set_parts(int64_t equal) {
    offsets_.resize(n_ + 1);
    for (int r = 0; r <= n_; ++r)
      offsets_[r] = call_.borders.empty() ? r * equal : call_.borders[r] * item_;
    for (int r = 0; r < n_; ++r) block_ = std::max(block_, length(r));
  }
  int64_t length(int r) const { return offsets_[r + 1] - offsets_[r]; }
  // Unequal parts are gathered where they are; an empty one has no address of its own.
  bool parts_in_place() const { return op_ == CommOp::AllGather && !call_.borders.empty(); }

  // Both ways of an all_reduce wait twice, so the direct one wins as soon as the small one ends.
  int64_t direct_from() const {
    return op_ == CommOp::AllReduce ? mpi_shared_task_detail::kSmallAllReduceBytes
                                    : mpi_shared_task_detail::kDirectBytes;
  }

  void begin() {
    SharedGroup::Descriptor descriptor{call_.operation.signature, 0, 0};
    // Alike on all ranks, also where their parts differ in length.
    const int64_t size = op_ == CommOp::AllGather ? block_ : in_bytes_;
    if (size > direct_from()) {
      const SharedSegment* segment = parts_in_place()
                                         ? g_->find(out_, call_.out.nbytes())
                                         : g_->find(in_, static_cast<size_t>(in_bytes_));
      if (segment) {
        bases_ = segment->blocks_of(g_->job_ranks());
        if (!bases_.empty()) {
          descriptor.segment = segment->id();
          descriptor.offset = static_cast<uint64_t>(in_ - segment->own());
        }
      }
    }
    shared_ = descriptor.segment != 0;
    g_->describe(descriptor, call_.operation);
    if (op_ == CommOp::AllGather) copy_own(out_ + offsets_[me_], in_, length(me_));
    if (op_ == CommOp::AllToAll) copy_own(out_ + offsets_[me_], in_ + offsets_[me_], length(me_));
    if (small_) {
      std::memcpy(g_->own_half(), in_, static_cast<size_t>(in_bytes_));
    } else if (!shared_) {
      write_chunk(0);
    }
  }

  void choose() {
    if (small_) return;
    const uint64_t segment = g_->descriptor(me_).segment;
    bool any = false, all = true;
    for (int r = 0; r < n_; ++r) {
      const auto& d = g_->descriptor(r);
      any = any || d.segment != 0;
      all = all && d.segment != 0 && d.segment == segment;
    }
    direct_ = all;
    if (direct_) {
      peers_.resize(n_);
      for (int r = 0; r < n_; ++r) peers_[r] = bases_[r] + g_->descriptor(r).offset;
    }
    // With shared and private tensors mixed the first chunk of some is not in their arenas yet.
    first_step_ = any && !all ? 1 : 0;
  }

  // ---- tensors that lie in a common segment ----
  bool run_direct() {
    if (step_ == 2) return true;  // nobody uses this rank's tensors any more
    switch (op_) {
      case CommOp::AllReduce: {
        const mpi_shared_task_detail::Span s =
            mpi_shared_task_detail::part(block_ / item_, n_, me_, item_);
        gather_sources([&](int r) { return peers_[r] + s.begin * item_; });
        std::vector<void*>& to = targets_;
        to.assign(n_, nullptr);
        for (int r = 0; r < n_; ++r) to[r] = peers_[r] + s.begin * item_;
        tree_reduce(dtype_, call_.reduce, sources_.data(), n_, to.data(), n_, s.count);
        return false;
      }
      case CommOp::ReduceScatter:
        gather_sources([&](int r) { return peers_[r] + offsets_[me_]; });
        reduce_into_out(0, length(me_));
        return false;
      case CommOp::AllGather:
        for_peers([&](int r) { copy(out_ + offsets_[r], peers_[r], length(r)); });
        return false;
      case CommOp::AllToAll:
        for_peers([&](int r) { copy(out_ + offsets_[r], peers_[r] + offsets_[me_], length(r)); });
        return false;
      case CommOp::Broadcast:
        if (me_ != call_.root) copy(out_, peers_[call_.root], block_);
        return false;
      default:
        return true;
    }
  }

  bool run_small() {
    gather_sources([&](int r) { return g_->half(r); });
    void* to[1] = {out_};
    tree_reduce(dtype_, call_.reduce, sources_.data(), n_, to, 1, block_ / item_);
    return true;
  }

  // ---- chunks through the arenas ----
  bool run_chunks() {
    const int64_t written =
        step_ - 1 - first_step_;  // the chunk that peers wrote in the step before
    if (op_ == CommOp::AllReduce) {
      copy_result(written - 1);
      if (written - 1 == chunks_ - 1) return true;
      reduce_chunk(written);
      write_chunk(written + 1);
      return false;
    }
    read_chunk(written);
    if (written >= chunks_ - 1) return true;
    write_chunk(written + 1);
    return false;
  }

  bool inside(int64_t chunk) const { return chunk >= 0 && chunk < chunks_; }
  int64_t chunk_bytes(int64_t chunk) const { return std::min(chunk_, block_ - chunk * chunk_); }
  // The same of one rank's part.
  int64_t chunk_bytes(int64_t chunk, int r) const {
    return std::clamp<int64_t>(length(r) - chunk * chunk_, 0, chunk_);
  }

  // This rank's own contribution to a chunk, into its arena.
  void write_chunk(int64_t chunk) {
    if (!inside(chunk)) return;
    const int64_t at = chunk * chunk_, bytes = chunk_bytes(chunk);
    char* half = g_->own_half();
    switch (op_) {
      case CommOp::AllReduce:
        for_peers([&](int r) {
          const mpi_shared_task_detail::Span s =
              mpi_shared_task_detail::part(bytes / item_, n_, r, item_);
          copy(half + s.begin * item_, in_ + at + s.begin * item_, s.count * item_);
        });
        break;
      case CommOp::AllGather:
        copy(half, in_ + at, chunk_bytes(chunk, me_));
        break;
      case CommOp::Broadcast:
        if (me_ == call_.root) copy(half, in_ + at, bytes);
        break;
      default:
        for_peers([&](int r) {
          copy(half + slot(me_, r) * chunk_, in_ + offsets_[r] + at, chunk_bytes(chunk, r));
        });
    }
  }

  // Peers' contributions to a chunk, for every operation but all_reduce.
  void read_chunk(int64_t chunk) {
    if (!inside(chunk)) return;
    const int64_t at = chunk * chunk_, bytes = chunk_bytes(chunk);
    switch (op_) {
      case CommOp::AllGather:
        for_peers(
            [&](int r) { copy(out_ + offsets_[r] + at, g_->half(r), chunk_bytes(chunk, r)); });
        break;
      case CommOp::Broadcast:
        if (me_ != call_.root) copy(out_ + at, g_->half(call_.root), bytes);
        break;
      case CommOp::AllToAll:
        for_peers([&](int r) {
          copy(out_ + offsets_[r] + at, g_->half(r) + slot(r, me_) * chunk_, chunk_bytes(chunk, r));
        });
        break;
      default:
        gather_sources([&](int r) {
          return r == me_ ? in_ + offsets_[me_] + at : g_->half(r) + slot(r, me_) * chunk_;
        });
        reduce_into_out(at, chunk_bytes(chunk, me_));
    }
  }

  // all_reduce: this rank's slice of a chunk, into its tensor and for peers into its arena behind
  // the chunk.
  void reduce_chunk(int64_t chunk) {
    if (!inside(chunk)) return;
    const int64_t at = chunk * chunk_, bytes = chunk_bytes(chunk);
    const mpi_shared_task_detail::Span s =
        mpi_shared_task_detail::part(bytes / item_, n_, me_, item_);
    gather_sources([&](int r) {
      return r == me_ ? in_ + at + s.begin * item_ : g_->half(r) + s.begin * item_;
    });
    void* to[2] = {in_ + at + s.begin * item_, g_->own_half() + chunk_};
    tree_reduce(dtype_, call_.reduce, sources_.data(), n_, to, 2, s.count);
  }

  void copy_result(int64_t chunk) {
    if (!inside(chunk)) return;
    const int64_t at = chunk * chunk_, bytes = chunk_bytes(chunk);
    for_peers([&](int r) {
      const mpi_shared_task_detail::Span s =
          mpi_shared_task_detail::part(bytes / item_, n_, r, item_);
      copy(out_ + at + s.begin * item_, g_->half(r) + chunk_, s.count * item_);
    });
  }

  // ---- helpers ----
  static int slot(int owner, int reader) { return reader < owner ? reader : reader - 1; }

  // Every rank begins with its neighbour, so that they do not all read the same one.
  template <class F>
  void for_peers(F&& f) {
    for (int k = 1; k < n_; ++k) f((me_ + k) % n_);
  }
  template <class F>
  void gather_sources(F&& f) {
    sources_.resize(n_);
    for (int r = 0; r < n_; ++r) sources_[r] = f(r);
  }
  void reduce_into_out(int64_t at, int64_t bytes) {
    void* to[1] = {out_ + at};
    if (bytes > 0) tree_reduce(dtype_, ReduceOp::Sum, sources_.data(), n_, to, 1, bytes / item_);
  }
  static void copy(char* to, const char* from, int64_t bytes) {
    if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
  }
  static void copy_own(char* to, const char* from, int64_t bytes) {
    if (to != from) copy(to, from, bytes);
  }

  std::shared_ptr<SharedGroup> g_;
  SharedCall call_;
  std::shared_ptr<OpLog> log_;
  const int n_, me_;
  CommOp op_;
  at::ScalarType dtype_;
  int64_t item_ = 1, in_bytes_ = 0;
  char *in_ = nullptr, *out_ = nullptr;
  int64_t block_ = 0, chunk_ = 1,
          chunks_ = 0;  // bytes of one rank's block (all_reduce: of the tensor), of a chunk; number
  std::vector<int64_t> offsets_;  // bytes, n_ + 1: of the ranks' parts in the large tensor
  int64_t step_ = 0, first_step_ = 0;
  bool small_ = false, shared_ = false, direct_ = false;
  std::vector<char*> bases_, peers_;
  std::vector<const void*> sources_;
  std::vector<void*> targets_;
};

// A step without data.
class SharedBarrier final : public MpiTask {
 public:
  SharedBarrier(std::shared_ptr<SharedGroup> group, CommOperation operation,
                std::shared_ptr<OpLog> log)
      : g_(std::move(group)), operation_(operation), log_(std::move(log)) {}

 protected:
  bool advance() override {
    if (!begun_) {
      g_->describe({operation_.signature, 0, 0}, operation_);
      g_->publish();
      begun_ = true;
    }
    if (!g_->all_here()) return false;
    g_->compare(log_.get());
    return true;
  }

 private:
  std::shared_ptr<SharedGroup> g_;
  CommOperation operation_;
  std::shared_ptr<OpLog> log_;
  bool begun_ = false;
};

std::shared_ptr<MpiTask> make_shared_task(std::shared_ptr<SharedGroup> group, SharedCall call,
                                          std::shared_ptr<OpLog> log) {
  if (call.operation.op == CommOp::Barrier) {
    return std::make_shared<SharedBarrier>(std::move(group), call.operation, std::move(log));
  }
  return std::make_shared<SharedTask>(std::move(group), std::move(call), std::move(log));
}

}  // namespace strata
