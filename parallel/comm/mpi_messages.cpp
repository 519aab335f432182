#include "parallel/comm/mpi_messages.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstring>

#include "core/error.h"
#include "core/text.h"
#include "parallel/comm/tree_reduce.h"

namespace strata {
namespace mpi_messages_detail {

constexpr int kCollectiveTag = 1, kExchangeTag = 2;
constexpr int64_t kLargestMessage = int64_t{1} << 30;  // MPI counts are int
constexpr int64_t kRoundBytes = int64_t{8} << 20;      // of the tensor, per round of a reduction

// Requests that complete together.
class Requests {
 public:
  Requests(const MpiGroup& group, int tag, std::string what)
      : group_(group), tag_(tag), what_(std::move(what)) {}

  void send(const void* data, int64_t bytes, int peer) {
    for (int64_t at = 0; at < bytes; at += kLargestMessage) {
      const int count = static_cast<int>(std::min(kLargestMessage, bytes - at));
      check_mpi(MPI_Isend(static_cast<const char*>(data) + at, count, MPI_BYTE, peer, tag_,
                          group_.comm->get(), add()),
                group_.name, what_);
    }
  }
  void receive(void* data, int64_t bytes, int peer) {
    for (int64_t at = 0; at < bytes; at += kLargestMessage) {
      const int count = static_cast<int>(std::min(kLargestMessage, bytes - at));
      check_mpi(MPI_Irecv(static_cast<char*>(data) + at, count, MPI_BYTE, peer, tag_,
                          group_.comm->get(), add()),
                group_.name, what_);
    }
  }
  // A message without data, both ways.
  void signal(int to, int from) {
    check_mpi(MPI_Irecv(nullptr, 0, MPI_BYTE, from, tag_, group_.comm->get(), add()), group_.name,
              what_);
    check_mpi(MPI_Isend(nullptr, 0, MPI_BYTE, to, tag_, group_.comm->get(), add()), group_.name,
              what_);
  }
  MPI_Request* add() {
    requests_.push_back(MPI_REQUEST_NULL);
    return &requests_.back();
  }

  bool test() {
    if (requests_.empty()) return true;
    int all = 0;
    const int code = MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &all,
                                 MPI_STATUSES_IGNORE);
    check_mpi(code, group_.name, what_);
    if (all) requests_.clear();
    return all != 0;
  }
  const std::string& what() const { return what_; }

 private:
  const MpiGroup& group_;
  int tag_;
  std::string what_;
  std::vector<MPI_Request> requests_;
};

std::string op_text(const CommOperation& operation) {
  return cat(comm_op_name(operation.op), " #", operation.sequence);
}

class ExchangeTask final : public MpiTask {
 public:
  ExchangeTask(std::shared_ptr<MpiGroup> group, std::vector<Transfer> transfers,
               const CommOperation& operation)
      : group_(std::move(group)),
        transfers_(std::move(transfers)),
        requests_(*group_, kExchangeTag, op_text(operation)) {}

 protected:
  bool advance() override {
    if (!begun_) {
      begun_ = true;
      for (const Transfer& t : transfers_) {
        if (t.kind == Transfer::Kind::Recv)
          requests_.receive(t.tensor.data_ptr(), bytes(t), t.peer);
      }
      for (const Transfer& t : transfers_) {
        if (t.kind == Transfer::Kind::Send)
          requests_.send(t.tensor.const_data_ptr(), bytes(t), t.peer);
      }
    }
    return requests_.test();
  }
  void release() override { transfers_.clear(); }

 private:
  static int64_t bytes(const Transfer& t) { return static_cast<int64_t>(t.tensor.nbytes()); }

  std::shared_ptr<MpiGroup> group_;
  std::vector<Transfer> transfers_;
  Requests requests_;
  bool begun_ = false;
};

// Advances by calling phase(0), phase(1), ... each after the messages of the one before are there,
// until one says it was the last.
template <class Base>
class PhasedTask : public Base {
 public:
  PhasedTask(std::shared_ptr<MpiGroup> group, int tag, std::string what)
      : group_(std::move(group)), requests_(*group_, tag, std::move(what)) {}

 protected:
  virtual bool phase(int64_t index) = 0;  // true: no further phase
  bool advance() final {
    while (requests_.test()) {
      if (last_) return true;
      last_ = phase(next_++);
    }
    return false;
  }
  std::shared_ptr<MpiGroup> group_;
  Requests requests_;

 private:
  int64_t next_ = 0;
  bool last_ = false;
};

class MessageTask final : public PhasedTask<MpiTask> {
 public:
  MessageTask(std::shared_ptr<MpiGroup> group, SharedCall call)
      : PhasedTask(std::move(group), kCollectiveTag, op_text(call.operation)),
        call_(std::move(call)),
        n_(group_->size),
        me_(group_->rank) {
    if (call_.operation.op == CommOp::Barrier) return;
    const Tensor& read = call_.in.defined() ? call_.in : call_.out;
    dtype_ = read.scalar_type();
    item_ = static_cast<int64_t>(c10::elementSize(dtype_));
    in_ = static_cast<char*>(read.data_ptr());
    out_ = static_cast<char*>(call_.out.data_ptr());
    in_bytes_ = static_cast<int64_t>(read.nbytes());
  }

 protected:
  bool phase(int64_t index) override {
    switch (call_.operation.op) {
      case CommOp::AllReduce:
        return all_reduce(index);
      case CommOp::ReduceScatter:
        return reduce_scatter(index);
      case CommOp::AllGather:
        return all_gather();
      case CommOp::AllToAll:
        return all_to_all();
      case CommOp::Broadcast:
        return broadcast(index);
      default:
        return barrier(index);
    }
  }
  void release() override {
    call_.out.reset();
    call_.in.reset();
    inbox_.reset();
  }

 private:
  // Round r handles elements [r * round, ...) of the tensor: phase 2r brings everybody's part of my
  // slice, phase 2r + 1 sums it and sends the result to all.
  bool all_reduce(int64_t index) {
    const int64_t count = in_bytes_ / item_, round = std::max<int64_t>(kRoundBytes / item_, n_);
    const int64_t first = index / 2 * round, length = std::min(round, count - first);
    const int64_t per = (length + n_ - 1) / n_;
    const auto begin = [&](int r) { return std::min(length, per * r); };
    const auto size = [&](int r) { return (begin(r + 1) - begin(r)) * item_; };
    const auto at = [&](int r) { return in_ + (first + begin(r)) * item_; };
    if (index % 2 == 0) {
      reserve_inbox(per * item_);
      for_peers([&](int r) { requests_.receive(inbox(r, per * item_), size(me_), r); });
      for_peers([&](int r) { requests_.send(at(r), size(r), r); });
      return false;
    }
    sum(per * item_, at(me_), at(me_), size(me_) / item_);
    for_peers([&](int r) { requests_.receive(at(r), size(r), r); });
    for_peers([&](int r) { requests_.send(at(me_), size(me_), r); });
    return first + length >= count;
  }

  // Phase r brings round r and sums round r - 1.
  bool reduce_scatter(int64_t index) {
    const int64_t round = std::max(kRoundBytes / n_ / item_, int64_t{1}) * item_;
    const auto length = [&](int64_t step, int r) {
      return std::clamp<int64_t>(part(r) - step * round, 0, round);
    };
    int64_t longest = 0;
    for (int r = 0; r < n_; ++r) longest = std::max(longest, part(r));
    if (index > 0 && length(index - 1, me_) > 0) {
      const int64_t at = (index - 1) * round;
      sum(round, in_ + offset(me_) + at, out_ + at, length(index - 1, me_) / item_);
    }
    const int64_t at = index * round;
    if (at >= longest) return true;
    reserve_inbox(round);
    for_peers([&](int r) { requests_.receive(inbox(r, round), length(index, me_), r); });
    for_peers([&](int r) { requests_.send(in_ + offset(r) + at, length(index, r), r); });
    return false;
  }

  bool all_gather() {
    for_peers([&](int r) { requests_.receive(out_ + offset(r), part(r), r); });
    for_peers([&](int r) { requests_.send(in_, in_bytes_, r); });
    if (in_bytes_ > 0 && out_ + offset(me_) != in_)
      std::memcpy(out_ + offset(me_), in_, static_cast<size_t>(in_bytes_));
    return true;
  }

  // Bytes: where rank r's part begins in the large tensor, and how long it is.
  int64_t offset(int r) const {
    if (!call_.borders.empty()) return call_.borders[r] * item_;
    return r * (call_.operation.op == CommOp::AllGather ? in_bytes_ : in_bytes_ / n_);
  }
  int64_t part(int r) const { return offset(r + 1) - offset(r); }

  bool all_to_all() {
    const int64_t block = in_bytes_ / n_;
    for_peers([&](int r) { requests_.receive(out_ + r * block, block, r); });
    for_peers([&](int r) { requests_.send(in_ + r * block, block, r); });
    std::memcpy(out_ + me_ * block, in_ + me_ * block, static_cast<size_t>(block));
    return true;
  }

  // Binomial tree over ranks relative to the root: phase 0 receives from the parent, phase 1 sends
  // to the children.
  bool broadcast(int64_t index) {
    const int relative = (me_ - call_.root + n_) % n_;
    int bit = 1;
    while (bit < n_ && (relative & bit) == 0) bit <<= 1;
    if (index == 0) {
      if (relative != 0) requests_.receive(out_, in_bytes_, (relative - bit + call_.root) % n_);
      return false;
    }
    for (bit >>= 1; bit > 0; bit >>= 1) {
      if (relative + bit < n_) requests_.send(out_, in_bytes_, (relative + bit + call_.root) % n_);
    }
    return true;
  }

  // After phase k a rank knows that 2^(k+1) ranks before it are here.
  bool barrier(int64_t index) {
    const int64_t step = int64_t{1} << index;
    if (step >= n_) return true;
    requests_.signal(static_cast<int>((me_ + step) % n_), static_cast<int>((me_ - step + n_) % n_));
    return false;
  }

  template <class F>
  void for_peers(F&& f) {
    for (int k = 1; k < n_; ++k) f((me_ + k) % n_);
  }
  void reserve_inbox(int64_t slice_bytes) {
    if (!inbox_.defined())
      inbox_ = at::empty({slice_bytes * n_}, at::TensorOptions().dtype(at::ScalarType::Byte));
  }
  char* inbox(int r, int64_t slice_bytes) {
    return static_cast<char*>(inbox_.data_ptr()) + r * slice_bytes;
  }
  void sum(int64_t slice_bytes, const char* own, char* to, int64_t count) {
    std::vector<const void*> sources(n_);
    for (int r = 0; r < n_; ++r) sources[r] = r == me_ ? own : inbox(r, slice_bytes);
    void* target[1] = {to};
    tree_reduce(dtype_, call_.reduce, sources.data(), n_, target, 1, count);
  }

  SharedCall call_;
  const int n_, me_;
  at::ScalarType dtype_ = at::ScalarType::Byte;
  int64_t item_ = 1, in_bytes_ = 0;
  char *in_ = nullptr, *out_ = nullptr;
  Tensor inbox_;
};

class BroadcastBytesTask final : public PhasedTask<MpiBytesTask> {
 public:
  BroadcastBytesTask(std::shared_ptr<MpiGroup> group, std::string data, int root)
      : PhasedTask(std::move(group), 0, "broadcast_bytes"), root_(root), size_(data.size()) {
    bytes = std::move(data);
  }

 protected:
  bool phase(int64_t index) override {
    if (index == 0) {
      check_mpi(
          MPI_Ibcast(&size_, sizeof(size_), MPI_BYTE, root_, group_->comm->get(), requests_.add()),
          group_->name, requests_.what());
      return false;
    }
    if (index == 1) bytes.resize(size_);
    const uint64_t at = static_cast<uint64_t>(index - 1) * kLargestMessage;
    if (at >= size_) return true;
    const int count = static_cast<int>(std::min<uint64_t>(kLargestMessage, size_ - at));
    check_mpi(
        MPI_Ibcast(bytes.data() + at, count, MPI_BYTE, root_, group_->comm->get(), requests_.add()),
        group_->name, requests_.what());
    return false;
  }

 private:
  const int root_;
  uint64_t size_;
};

class GatherBytesTask final : public PhasedTask<MpiBytesTask> {
 public:
  GatherBytesTask(std::shared_ptr<MpiGroup> group, std::string data)
      : PhasedTask(std::move(group), 0, "all_gather_bytes"),
        size_(data.size()),
        sizes_(group_->size) {
    bytes = std::move(data);
  }

 protected:
  bool phase(int64_t index) override {
    if (index == 0) {
      check_mpi(MPI_Iallgather(&size_, sizeof(size_), MPI_BYTE, sizes_.data(), sizeof(size_),
                               MPI_BYTE, group_->comm->get(), requests_.add()),
                group_->name, requests_.what());
      return false;
    }
    if (index == 1) {
      uint64_t total = 0;
      for (const uint64_t size : sizes_) {
        displacements_.push_back(static_cast<int>(std::min<uint64_t>(total, INT_MAX)));
        counts_.push_back(static_cast<int>(std::min<uint64_t>(size, INT_MAX)));
        total += size;
      }
      if (total > INT_MAX) {
        throw CommError(cat("communicator ", group_->name,
                            ": all_gather_bytes: ", bytes_text(static_cast<double>(total)),
                            " in all, at most 2 GiB can be gathered"));
      }
      joined_.resize(total);
      check_mpi(MPI_Iallgatherv(bytes.data(), static_cast<int>(size_), MPI_BYTE, joined_.data(),
                                counts_.data(), displacements_.data(), MPI_BYTE,
                                group_->comm->get(), requests_.add()),
                group_->name, requests_.what());
      return false;
    }
    all.clear();
    for (int r = 0; r < group_->size; ++r)
      all.push_back(joined_.substr(displacements_[r], counts_[r]));
    return true;
  }

 private:
  uint64_t size_;
  std::vector<uint64_t> sizes_;
  std::vector<int> counts_, displacements_;
  std::string joined_;
};

}  // namespace mpi_messages_detail

MpiHandle::MpiHandle(MPI_Comm comm) : comm_(comm) {
  if (comm_ != MPI_COMM_NULL) MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
}

MpiHandle::~MpiHandle() {
  int finalized = 0;
  MPI_Finalized(&finalized);
  if (comm_ != MPI_COMM_NULL && !finalized) MPI_Comm_free(&comm_);
}

void check_mpi(int code, const std::string& communicator, const std::string& what) {
  if (code == MPI_SUCCESS) return;
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  MPI_Error_string(code, text.data(), &length);
  throw CommError(
      cat("communicator ", communicator, ": ", what, ": ", std::string(text.data(), length)));
}

std::shared_ptr<MpiTask> make_exchange_task(std::shared_ptr<MpiGroup> group,
                                            std::vector<Transfer> transfers,
                                            CommOperation operation) {
  return std::make_shared<mpi_messages_detail::ExchangeTask>(std::move(group), std::move(transfers),
                                                             operation);
}

std::shared_ptr<MpiTask> make_message_task(std::shared_ptr<MpiGroup> group, SharedCall call) {
  return std::make_shared<mpi_messages_detail::MessageTask>(std::move(group), std::move(call));
}

std::shared_ptr<MpiBytesTask> make_broadcast_bytes_task(std::shared_ptr<MpiGroup> group,
                                                        std::string bytes, int root) {
  return std::make_shared<mpi_messages_detail::BroadcastBytesTask>(std::move(group),
                                                                   std::move(bytes), root);
}

std::shared_ptr<MpiBytesTask> make_gather_bytes_task(std::shared_ptr<MpiGroup> group,
                                                     std::string bytes) {
  return std::make_shared<mpi_messages_detail::GatherBytesTask>(std::move(group), std::move(bytes));
}

}  // namespace strata
