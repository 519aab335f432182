#pragma once
// Brings pieces of logical matrices to the ranks that update them as wholes, and new values back to
// all holders (optimizers-distributed.md 3). The plan of who sends what is made once from metadata;
// matrices whose owner holds everything, and shared ones, are not in it.
#include <cstdint>
#include <functional>
#include <vector>

#include "core/tensor.h"
#include "parallel/comm/communicator.h"
#include "parallel/engine/matrix_owners.h"

namespace strata {

// What of one matrix travels between its owner and another holder.
struct ExchangePiece {
  int holder = 0;            // rank of the stage that is not the owner
  std::vector<Box> gather;   // boxes of the gradient that the holder sends to the owner
  std::vector<Box> scatter;  // boxes of new values that the owner sends to the holder
};

class MatrixExchange {
 public:
  // Pure: metadata only. bytes: limit of what a rank sends or receives in a round, 4 bytes an
  // element.
  MatrixExchange(const std::vector<OwnedMatrix>& matrices, int64_t bytes = int64_t{256} << 20);

  // Numbers in the placement of the matrices that travel together: as many, in its order, as keep
  // every rank's messages below the limit.
  const std::vector<std::vector<size_t>>& rounds() const noexcept { return rounds_; }
  // Something of this matrix travels.
  bool travels(size_t matrix) const { return !pieces_.at(matrix).empty(); }
  // Elements of it that other ranks send to its owner.
  int64_t gathered(size_t matrix) const;
  // Elements that `rank` sends and receives in a round.
  struct Traffic {
    int64_t gradients = 0, values = 0;
  };
  Traffic traffic(int rank, size_t round) const;

  // Sends and receives of one round under way; wait() unpacks. Movable.
  class Transit {
   public:
    void wait();

   private:
    friend class MatrixExchange;
    struct Unpack {
      Tensor from, to;  // a box of the message, and where it belongs
    };
    Work work_;
    std::vector<Tensor> buffers_;
    std::vector<Unpack> unpack_;
  };

  // source(matrix, box): this rank's values of a box, a view of the box's extent; target likewise,
  // written by wait(). Called by every rank of the stage for every round in order.
  using Values = std::function<Tensor(size_t matrix, const Box& box)>;
  Transit gather(size_t round, Communicator& stage, at::ScalarType wire, const Values& source,
                 const Values& target) const;
  Transit scatter(size_t round, Communicator& stage, at::ScalarType wire, const Values& source,
                  const Values& target) const;

 private:
  Transit move(size_t round, Communicator& stage, at::ScalarType wire, bool to_owner,
               const Values& source, const Values& target) const;

  std::vector<int> owners_;
  std::vector<std::vector<ExchangePiece>> pieces_;  // by matrix
  std::vector<std::vector<size_t>> rounds_;
};

}  // namespace strata
