#include "parallel/comm/communicator.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "core/rng.h"
#include "core/text.h"
#include "parallel/comm/op_log.h"
#include "parallel/comm/operation.h"

namespace strata {

namespace communicator_detail {

bool reducible(at::ScalarType dtype) {
  switch (dtype) {
    case at::ScalarType::Double:
    case at::ScalarType::Float:
    case at::ScalarType::BFloat16:
    case at::ScalarType::Half:
    case at::ScalarType::Long:
    case at::ScalarType::Int:
    case at::ScalarType::Byte:
    case at::ScalarType::Bool:
      return true;
    default:
      return false;
  }
}

struct ByteRange {
  const char *begin, *end;
};

ByteRange byte_range(const Tensor& tensor) {
  if (tensor.numel() == 0 || tensor.is_meta()) return {nullptr, nullptr};
  const char* begin = static_cast<const char*>(tensor.const_data_ptr());
  return {begin, begin + tensor.nbytes()};
}

// The usual in-place form is allowed: the small tensor is this rank's block of the large one.
bool bad_overlap(const Tensor& large, const Tensor& small, int rank, bool in_place_allowed) {
  const ByteRange a = byte_range(large), b = byte_range(small);
  if (a.begin >= b.end || b.begin >= a.end) return false;
  return !(in_place_allowed && b.begin == a.begin + rank * (b.end - b.begin));
}

}  // namespace communicator_detail

Communicator::Communicator(std::vector<int> ranks, int rank, std::string name)
    : ranks_(std::move(ranks)), rank_(rank), name_(std::move(name)) {
  STRATA_CHECK(rank_ >= 0 && rank_ < size(),
               cat("communicator ", name_, ": rank ", rank_, " of ", size()));
}

Communicator::~Communicator() = default;

void Communicator::set_op_log(std::shared_ptr<OpLog> log) {
  op_log_ = std::move(log);
  if (op_log_) log_id_ = op_log_->add_communicator(name_, ranks_);
}

void Communicator::check_tensor(const char* op, const char* what, const Tensor& tensor) const {
  STRATA_CHECK(tensor.defined(),
               cat("communicator ", name_, ": ", op, ": ", what, " is undefined"));
  STRATA_CHECK(tensor.is_contiguous(),
               cat("communicator ", name_, ": ", op, ": ", what, " of shape ",
                   shape_text(tensor.sizes()), " is not contiguous"));
}

void Communicator::check_pair(const char* op, const Tensor& out, const Tensor& in,
                              int64_t out_times, int64_t in_times) const {
  check_tensor(op, "out", out);
  check_tensor(op, "in", in);
  STRATA_CHECK(out.scalar_type() == in.scalar_type(),
               cat("communicator ", name_, ": ", op, ": out is ", dtype_name(out.scalar_type()),
                   ", in is ", dtype_name(in.scalar_type())));
  STRATA_CHECK(out.device() == in.device(), cat("communicator ", name_, ": ", op, ": out is on ",
                                                out.device().str(), ", in on ", in.device().str()));
  const auto expected = cat("communicator ", name_, ": ", op, " over ", size(), ": out ",
                            shape_text(out.sizes()), " does not fit in ", shape_text(in.sizes()));
  STRATA_CHECK(out.dim() >= 1 && in.dim() == out.dim(), expected);
  STRATA_CHECK(out.size(0) * in_times == in.size(0) * out_times, expected);
  STRATA_CHECK(in.sizes().slice(1) == out.sizes().slice(1), expected);
  if (in_times == out_times) STRATA_CHECK(out.size(0) % size() == 0, expected);
}

template <class Run>
Work Communicator::issue(CommOperation& operation, bool trivial, Run&& run) {
  const at::NoGradGuard no_grad;
  operation.signature = operation.make_signature();
  operation.sequence = ++sequence_;
  hash_ = splitmix64(hash_ ^ operation.signature);
  if (check_ == Check::Each && size() > 1) compare_with_members(operation);
  if (trivial) return Work();
  if (op_log_ && size() > 1) {
    operation.record =
        op_log_->posted({.comm = log_id_,
                         .sequence = operation.sequence,
                         .op = operation.op,
                         .dtype = static_cast<uint8_t>(operation.dtype),
                         .reduce = operation.reduce,
                         .count = static_cast<uint64_t>(operation.count),
                         .bytes = operation.count * c10::elementSize(operation.dtype),
                         .peer = operation.peer,
                         .site = operation.site,
                         .signature = operation.signature});
    operation.records = 1;
  }
  current_ = &operation;
  return run();
}

// Every member tells what it is about to do; the first difference stops all of them.
void Communicator::compare_with_members(const CommOperation& operation) {
  std::string mine(sizeof(uint64_t), '\0');
  std::memcpy(mine.data(), &operation.signature, sizeof(uint64_t));
  mine += describe(operation, op_log_.get());
  const std::vector<std::string> all = do_all_gather_bytes(mine);
  if (std::all_of(all.begin(), all.end(), [&](const std::string& other) { return other == mine; }))
    return;
  std::vector<std::string> texts;
  for (int r = 0; r < size(); ++r) {
    texts.push_back(cat("rank ", ranks_[r], ": ", all[r].substr(sizeof(uint64_t))));
  }
  throw DesyncError(cat("communicator ", name_, ": members disagree about operation #",
                        operation.sequence, ": ", join(texts, "; "),
                        ". One of them skipped, repeated or reordered a collective"));
}

Work Communicator::all_reduce(const Tensor& inout, ReduceOp op, Site site) {
  check_tensor("all_reduce", "inout", inout);
  STRATA_CHECK(communicator_detail::reducible(inout.scalar_type()),
               cat("communicator ", name_, ": all_reduce of ", dtype_name(inout.scalar_type()),
                   " is not supported"));
  CommOperation operation{.op = CommOp::AllReduce,
                          .dtype = inout.scalar_type(),
                          .reduce = static_cast<uint8_t>(op),
                          .count = inout.numel(),
                          .site = site};
  return issue(operation, size() == 1 || inout.numel() == 0,
               [&] { return do_all_reduce(inout, op); });
}

Work Communicator::all_gather(const Tensor& out, const Tensor& in, Site site) {
  check_pair("all_gather", out, in, size(), 1);
  STRATA_CHECK(!communicator_detail::bad_overlap(out, in, rank_, true),
               cat("communicator ", name_,
                   ": all_gather: in overlaps out and is not this rank's block of it"));
  CommOperation operation{
      .op = CommOp::AllGather, .dtype = in.scalar_type(), .count = in.numel(), .site = site};
  return issue(operation, in.numel() == 0, [&] {
    if (size() > 1) return do_all_gather(out, in);
    if (!out.is_same(in)) out.copy_(in);
    return Work();
  });
}

Work Communicator::reduce_scatter(const Tensor& out, const Tensor& in, Site site) {
  check_pair("reduce_scatter", out, in, 1, size());
  STRATA_CHECK(communicator_detail::reducible(in.scalar_type()),
               cat("communicator ", name_, ": reduce_scatter of ", dtype_name(in.scalar_type()),
                   " is not supported"));
  STRATA_CHECK(!communicator_detail::bad_overlap(in, out, rank_, true),
               cat("communicator ", name_,
                   ": reduce_scatter: out overlaps in and is not this rank's block of it"));
  CommOperation operation{
      .op = CommOp::ReduceScatter, .dtype = in.scalar_type(), .count = out.numel(), .site = site};
  return issue(operation, in.numel() == 0, [&] {
    if (size() > 1) return do_reduce_scatter(out, in);
    if (!out.is_same(in)) out.copy_(in);
    return Work();
  });
}

void Communicator::check_borders(const char* op, const Tensor& whole,
                                 std::span<const int64_t> borders) const {
  check_tensor(op, "whole", whole);
  const auto wrong = [&](const std::string& what) {
    return cat("communicator ", name_, ": ", op, ": ", what);
  };
  STRATA_CHECK(whole.dim() == 1, wrong(cat("whole ", shape_text(whole.sizes()), " is not flat")));
  STRATA_CHECK(borders.size() == ranks_.size() + 1,
               wrong(cat(borders.size(), " borders for ", size(), " parts")));
  STRATA_CHECK(std::is_sorted(borders.begin(), borders.end()) && borders.front() == 0 &&
                   borders.back() == whole.numel(),
               wrong(cat("borders do not cut 0..", whole.numel())));
}

Work Communicator::reduce_scatter_parts(const Tensor& out, const Tensor& whole,
                                        std::span<const int64_t> borders, Site site) {
  check_borders("reduce_scatter_parts", whole, borders);
  check_tensor("reduce_scatter_parts", "out", out);
  const int64_t mine = borders[rank_ + 1] - borders[rank_];
  const Tensor own = whole.narrow(0, borders[rank_], mine);
  STRATA_CHECK(out.dim() == 1 && out.numel() == mine && out.scalar_type() == whole.scalar_type() &&
                   out.device() == whole.device() &&
                   communicator_detail::reducible(whole.scalar_type()),
               cat("communicator ", name_, ": reduce_scatter_parts: out ", shape_text(out.sizes()),
                   " is not a part of ", mine, " elements of ", dtype_name(whole.scalar_type())));
  const bool in_place = mine == 0 || out.is_meta() || out.data_ptr() == own.data_ptr();
  STRATA_CHECK(in_place || !communicator_detail::bad_overlap(whole, out, 0, false),
               cat("communicator ", name_,
                   ": reduce_scatter_parts: out overlaps whole and is not this rank's part of it"));
  CommOperation operation{.op = CommOp::ReduceScatter,
                          .dtype = whole.scalar_type(),
                          .reduce = 1,
                          .count = whole.numel(),
                          .site = site};
  return issue(operation, whole.numel() == 0, [&] {
    if (size() > 1) return do_reduce_scatter_parts(out, whole, borders);
    if (!in_place) out.copy_(own);
    return Work();
  });
}

Work Communicator::all_gather_parts(const Tensor& whole, std::span<const int64_t> borders,
                                    Site site) {
  check_borders("all_gather_parts", whole, borders);
  CommOperation operation{.op = CommOp::AllGather,
                          .dtype = whole.scalar_type(),
                          .reduce = 1,
                          .count = whole.numel(),
                          .site = site};
  return issue(operation, size() == 1 || whole.numel() == 0,
               [&] { return do_all_gather_parts(whole, borders); });
}

Work Communicator::all_to_all(const Tensor& out, const Tensor& in, Site site) {
  check_pair("all_to_all", out, in, 1, 1);
  STRATA_CHECK(!communicator_detail::bad_overlap(out, in, 0, size() == 1),
               cat("communicator ", name_, ": all_to_all: in and out overlap"));
  CommOperation operation{
      .op = CommOp::AllToAll, .dtype = in.scalar_type(), .count = in.numel(), .site = site};
  return issue(operation, in.numel() == 0, [&] {
    if (size() > 1) return do_all_to_all(out, in);
    if (!out.is_same(in)) out.copy_(in);
    return Work();
  });
}

Work Communicator::broadcast(const Tensor& inout, int root, Site site) {
  check_tensor("broadcast", "inout", inout);
  STRATA_CHECK(root >= 0 && root < size(),
               cat("communicator ", name_, ": broadcast: root ", root, " of ", size()));
  CommOperation operation{.op = CommOp::Broadcast,
                          .dtype = inout.scalar_type(),
                          .peer = root,
                          .count = inout.numel(),
                          .site = site};
  return issue(operation, size() == 1 || inout.numel() == 0,
               [&] { return do_broadcast(inout, root); });
}

Work Communicator::exchange(std::span<const Transfer> transfers, Site site) {
  const at::NoGradGuard no_grad;
  std::vector<const Transfer*> to_self, from_self;
  std::vector<Transfer> others;
  for (const Transfer& t : transfers) {
    check_tensor("exchange", t.kind == Transfer::Kind::Send ? "a sent tensor" : "a received tensor",
                 t.tensor);
    STRATA_CHECK(t.peer >= 0 && t.peer < size(),
                 cat("communicator ", name_, ": exchange: peer ", t.peer, " of ", size()));
    if (t.peer == rank_) {
      (t.kind == Transfer::Kind::Send ? to_self : from_self).push_back(&t);
    } else if (t.tensor.numel() > 0) {
      others.push_back(t);
    }
  }
  STRATA_CHECK(to_self.size() == from_self.size(),
               cat("communicator ", name_, ": exchange: ", to_self.size(), " sends to itself, ",
                   from_self.size(), " receives"));
  for (size_t i = 0; i < to_self.size(); ++i) {
    const Tensor &from = to_self[i]->tensor, &to = from_self[i]->tensor;
    STRATA_CHECK(from.numel() == to.numel() && from.scalar_type() == to.scalar_type(),
                 cat("communicator ", name_, ": exchange with itself: ", shape_text(from.sizes()),
                     " does not fit ", shape_text(to.sizes())));
    to.view({-1}).copy_(from.view({-1}));
  }
  if (others.empty()) return Work();

  CommOperation operation{.op = CommOp::Exchange, .site = site};
  operation.sequence = ++exchanges_;
  if (op_log_) {
    sent_bytes_.resize(size());
    received_bytes_.resize(size());
    // One record per peer and direction.
    for (const auto kind : {Transfer::Kind::Recv, Transfer::Kind::Send}) {
      const bool receive = kind == Transfer::Kind::Recv;
      std::vector<uint64_t> bytes(size(), 0);
      for (const Transfer& t : others) {
        if (t.kind == kind) bytes[t.peer] += t.tensor.nbytes();
      }
      for (int peer = 0; peer < size(); ++peer) {
        if (bytes[peer] == 0) continue;
        uint64_t& total = (receive ? received_bytes_ : sent_bytes_)[peer];
        total += bytes[peer];
        const uint64_t record =
            op_log_->posted({.comm = log_id_,
                             .sequence = operation.sequence,
                             .op = CommOp::Exchange,
                             .dtype = static_cast<uint8_t>(at::ScalarType::Byte),
                             .reduce = static_cast<uint8_t>(receive),
                             .count = bytes[peer],
                             .bytes = bytes[peer],
                             .peer = peer,
                             .site = site,
                             .signature = total});
        if (operation.records++ == 0) operation.record = record;
      }
    }
  }
  current_ = &operation;
  return do_exchange(others);
}

void Communicator::barrier(Site site) {
  CommOperation operation{.op = CommOp::Barrier, .site = site};
  (void)issue(operation, size() == 1, [&] {
    if (op_log_) op_log_->waiting(operation.record);
    do_barrier();
    if (op_log_) op_log_->done(operation.record);
    return Work();
  });
}

void Communicator::broadcast_bytes(std::string& bytes, int root) {
  STRATA_CHECK(root >= 0 && root < size(),
               cat("communicator ", name_, ": broadcast_bytes: root ", root, " of ", size()));
  CommOperation operation{.op = CommOp::Bytes, .reduce = 0, .peer = root};
  (void)issue(operation, size() == 1, [&] {
    if (op_log_) op_log_->waiting(operation.record);
    do_broadcast_bytes(bytes, root);
    if (op_log_) op_log_->done(operation.record);
    return Work();
  });
}

std::vector<std::string> Communicator::gather_bytes(const std::string& bytes, int root) {
  STRATA_CHECK(root >= 0 && root < size(),
               cat("communicator ", name_, ": gather_bytes: root ", root, " of ", size()));
  std::vector<std::string> all;
  CommOperation operation{.op = CommOp::Bytes, .reduce = 1, .peer = root};
  (void)issue(operation, false, [&] {
    if (op_log_ && size() > 1) op_log_->waiting(operation.record);
    all = size() == 1 ? std::vector<std::string>{bytes} : do_all_gather_bytes(bytes);
    if (op_log_ && size() > 1) op_log_->done(operation.record);
    return Work();
  });
  if (rank_ != root) all.clear();
  return all;
}

std::vector<std::string> Communicator::all_gather_bytes(const std::string& bytes) {
  std::vector<std::string> all;
  CommOperation operation{.op = CommOp::Bytes, .reduce = 2};
  (void)issue(operation, false, [&] {
    if (op_log_ && size() > 1) op_log_->waiting(operation.record);
    all = size() == 1 ? std::vector<std::string>{bytes} : do_all_gather_bytes(bytes);
    if (op_log_ && size() > 1) op_log_->done(operation.record);
    return Work();
  });
  return all;
}

std::unique_ptr<Communicator> Communicator::subgroup(std::span<const int> ranks, std::string name) {
  std::vector<int> members(ranks.begin(), ranks.end());
  STRATA_CHECK(
      !members.empty() && std::adjacent_find(members.begin(), members.end(),
                                             [](int a, int b) { return a >= b; }) == members.end(),
      cat("communicator ", name_, ": subgroup ", name, ": its ranks must be increasing"));
  STRATA_CHECK(members.front() >= 0 && members.back() < size(),
               cat("communicator ", name_, ": subgroup ", name, ": rank outside 0..", size() - 1));
  STRATA_CHECK(std::binary_search(members.begin(), members.end(), rank_),
               cat("communicator ", name_, ": subgroup ", name, ": called by rank ", rank_,
                   ", not a member"));
  auto group = do_subgroup(std::move(members), std::move(name));
  group->check_ = check_;
  if (op_log_) group->set_op_log(op_log_);
  return group;
}

Tensor Communicator::allocate(int64_t elements, at::ScalarType dtype) {
  STRATA_CHECK(elements >= 0, cat("communicator ", name_, ": allocate of ", elements, " elements"));
  Tensor tensor;
  CommOperation operation{.op = CommOp::Bytes, .dtype = dtype, .reduce = 3, .count = elements};
  (void)issue(operation, false, [&] {
    if (op_log_ && size() > 1) op_log_->waiting(operation.record);
    tensor = do_allocate(elements, dtype);
    if (op_log_ && size() > 1) op_log_->done(operation.record);
    return Work();
  });
  return tensor;
}

}  // namespace strata
