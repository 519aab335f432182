#include "parallel/engine/matrix_exchange.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <map>
#include <set>

#include "core/error.h"
#include "core/text.h"

namespace strata {

// Where several ranks hold the same box, the owner's own comes first, then the lowest rank's.
MatrixExchange::MatrixExchange(const std::vector<OwnedMatrix>& matrices, int64_t bytes) {
  int64_t in_round = 0;
  for (size_t i = 0; i < matrices.size(); ++i) {
    const OwnedMatrix& m = matrices[i];
    owners_.push_back(m.owner);
    if (m.shared()) {
      pieces_.emplace_back();
      continue;
    }
    std::set<Box> covered;
    for (const auto& holder : m.holders) {
      if (holder.rank != m.owner) continue;
      for (Box& box : boxes_of(m, holder)) covered.insert(std::move(box));
    }
    std::vector<ExchangePiece> pieces;
    for (const auto& holder : m.holders) {
      if (holder.rank == m.owner) continue;
      ExchangePiece piece{.holder = holder.rank};
      piece.scatter = boxes_of(m, holder);
      for (const Box& box : piece.scatter) {
        if (covered.insert(box).second) piece.gather.push_back(box);
      }
      pieces.push_back(std::move(piece));
    }
    int64_t together = 0;
    for (const Box& box : covered) together += box.elements();
    STRATA_CHECK(together == m.matrix.rows * m.matrix.cols,
                 cat(m.parameter->meta.name, ": its holders have ", together, " elements of a ",
                     m.matrix.rows, " x ", m.matrix.cols, " matrix"));
    pieces_.push_back(std::move(pieces));
    if (pieces_.back().empty()) continue;
    // All of a matrix may pass through one rank.
    const int64_t size = 4 * m.matrix.rows * m.matrix.cols;
    if (rounds_.empty() || in_round + size > bytes) {
      rounds_.emplace_back();
      in_round = 0;
    }
    in_round += size;
    rounds_.back().push_back(i);
  }
}

int64_t MatrixExchange::gathered(size_t matrix) const {
  int64_t sum = 0;
  for (const ExchangePiece& piece : pieces_.at(matrix)) sum += element_count(piece.gather);
  return sum;
}

MatrixExchange::Traffic MatrixExchange::traffic(int rank, size_t round) const {
  Traffic sum;
  for (const size_t i : rounds_.at(round)) {
    for (const ExchangePiece& piece : pieces_[i]) {
      if (piece.holder != rank && owners_[i] != rank) continue;
      sum.gradients += element_count(piece.gather);
      sum.values += element_count(piece.scatter);
    }
  }
  return sum;
}

MatrixExchange::Transit MatrixExchange::gather(size_t round, Communicator& stage,
                                               at::ScalarType wire, const Values& source,
                                               const Values& target) const {
  return move(round, stage, wire, true, source, target);
}

MatrixExchange::Transit MatrixExchange::scatter(size_t round, Communicator& stage,
                                                at::ScalarType wire, const Values& source,
                                                const Values& target) const {
  return move(round, stage, wire, false, source, target);
}

// One message per peer and direction, in the order of the plan.
MatrixExchange::Transit MatrixExchange::move(size_t round, Communicator& stage, at::ScalarType wire,
                                             bool to_owner, const Values& source,
                                             const Values& target) const {
  const at::NoGradGuard no_grad;
  const int me = stage.rank();
  struct Message {
    int64_t elements = 0, at = 0;
    Tensor buffer;
  };
  std::map<int, Message> out, in;
  const auto for_mine = [&](auto&& f) {
    for (const size_t i : rounds_.at(round)) {
      for (const ExchangePiece& piece : pieces_[i]) {
        const int from = to_owner ? piece.holder : owners_[i];
        const int to = to_owner ? owners_[i] : piece.holder;
        const std::vector<Box>& boxes = to_owner ? piece.gather : piece.scatter;
        if (from == me) f(i, to, boxes, true);
        if (to == me) f(i, from, boxes, false);
      }
    }
  };
  for_mine([&](size_t, int peer, const std::vector<Box>& boxes, bool send) {
    (send ? out : in)[peer].elements += element_count(boxes);
  });
  Transit transit;
  std::vector<Transfer> transfers;
  at::TensorOptions options = at::TensorOptions().dtype(wire);
  bool placed = false;
  const auto reserve = [&](std::map<int, Message>& messages, const Tensor& like) {
    if (!placed) options = options.device(like.device());
    placed = true;
    for (auto& [peer, message] : messages) {
      if (message.buffer.defined()) return;
      message.buffer = at::empty({message.elements}, options);
      transit.buffers_.push_back(message.buffer);
    }
  };
  for_mine([&](size_t i, int peer, const std::vector<Box>& boxes, bool send) {
    for (const Box& box : boxes) {
      const Tensor values = send ? source(i, box) : target(i, box);
      reserve(send ? out : in, values);
      Message& message = (send ? out : in).at(peer);
      const Tensor part = message.buffer.narrow(0, message.at, box.elements()).view(box.extent);
      message.at += box.elements();
      if (send) {
        part.copy_(values);
      } else {
        transit.unpack_.push_back({part, values});
      }
    }
  });
  for (auto& [peer, message] : out) {
    if (message.elements > 0) transfers.push_back({Transfer::Kind::Send, message.buffer, peer});
  }
  for (auto& [peer, message] : in) {
    if (message.elements > 0) transfers.push_back({Transfer::Kind::Recv, message.buffer, peer});
  }
  if (!transfers.empty()) transit.work_ = stage.exchange(transfers, {0, SiteOp::MatrixExchange});
  return transit;
}

void MatrixExchange::Transit::wait() {
  const at::NoGradGuard no_grad;
  work_.wait();
  for (const Unpack& u : unpack_) u.to.copy_(u.from);
  unpack_.clear();
  buffers_.clear();
}

}  // namespace strata
