#pragma once
// Which rank updates which logical matrix (optimizers-distributed.md 1, 2, 4). A rule for matrices
// needs them whole, so each has one owner among the ranks that hold parts of it: the tp ranks of a
// layer times the ranks over which ZeRO cuts. Copies of those ranks (data parallelism without ZeRO)
// do the same work each.
//
// At ZeRO 1 and 2 the parts of a flat buffer end where matrices end (aligned layouts): gradients
// arrive whole at their owner's dp index with the usual reduce-scatter and nothing else travels.
// What tp cuts, and everything at ZeRO 3, is brought to the owner and back (matrix_exchange.h).
//
// A rule may also be able to update a matrix where it lies (optimizers-distributed.md 2.8): where
// tp cuts the longer side into slabs, the tp ranks work together, each on its slab. Such a matrix
// is shared: it has tp owners, and nothing of it travels through the exchange.
//
// All of this is a function of metadata: equal on all ranks, stored nowhere.
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "parallel/nn/logical_matrix.h"
#include "parallel/plan/plan.h"

namespace strata {

// Cost of updating a matrix of [rows, cols] of a parameter as a whole; 0 for parameters that are
// updated in flat slices. Empty function: there are no others.
using MatrixCost = std::function<double(const ParamMeta&, int64_t rows, int64_t cols)>;
// What each of `ranks` ranks does when they update a matrix of [rows, cols] together, with slabs of
// dimension `cut`, the longer one; 0: it needs an owner.
using MatrixSharing =
    std::function<double(const ParamMeta&, int64_t rows, int64_t cols, int cut, int ranks)>;
// Of all matrices of a parameter.
double matrix_cost(const MatrixCost& cost, const ParamMeta& meta);

// Something to be placed.
struct OwnerItem {
  std::string name;      // settles ties
  double cost = 0;       // load of each rank of the chosen candidate
  int64_t elements = 0;  // settles ties
  // Where it can go: ranks that would all do the work. held: elements that each candidate has
  // already (empty: none has any).
  std::vector<std::vector<int>> candidates;
  std::vector<int64_t> held;
};

// What has one candidate first, then longest first to the least loaded candidate; of those within
// 5 % of the mean load of it, to the one that holds most. Pure. Returns a candidate of each item.
std::vector<int> assign_owners(const std::vector<OwnerItem>& items, int ranks);

// What each rank has to do.
std::vector<double> owner_loads(const std::vector<OwnerItem>& items, const std::vector<int>& owners,
                                int ranks);

// A matrix that this rank holds a part of, or owns.
struct OwnedMatrix {
  Parameter* parameter = nullptr;
  LogicalMatrix matrix;
  int layer = 0;
  double cost = 0;
  int owner = 0;  // rank within the stage; of a shared matrix the first of consecutive ones
  // Shared: the dimension along which it is cut, and how many owners there are.
  int shared_dim = -1, owners = 1;
  bool shared() const noexcept { return shared_dim >= 0; }
  bool owned_by(int rank) const noexcept { return rank >= owner && rank < owner + owners; }
  // Who holds something of it, by increasing rank: a range of the flat local part of the parameter.
  struct Holder {
    int rank = 0, tp_index = 0;
    Range range;
  };
  std::vector<Holder> holders;
};

// A layer of the stage, with parameters that no earlier one has.
struct MatrixLayer {
  int layer = 0;
  LayerStrategy strategy;
  std::vector<Parameter*> parameters;
};

// Of layers at ZeRO 1 and 2: which of their shards updates each parameter that is updated as
// matrices. Pure. ranks: of the stage.
std::map<const Parameter*, int> matrix_homes(const std::vector<MatrixLayer>& layers,
                                             const MatrixCost& cost, int ranks);

// All matrices of the stage as `rank` of it sees them: with the holders of its own copy. held: what
// of a parameter's flat local part a shard has. Pure; the same order on all ranks, expensive ones
// first.
struct MatrixPlacement {
  std::vector<OwnedMatrix> matrices;
  std::vector<double> loads;  // by rank of the stage, in units of the cost
};
MatrixPlacement place_matrices(const std::vector<MatrixLayer>& layers, const MatrixCost& cost,
                               const MatrixSharing& sharing,
                               const std::map<const Parameter*, int>& homes,
                               const std::function<Range(const Parameter&, int shard)>& held,
                               int ranks, int rank);

// The boxes of the matrix that a holder has, in the order in which they lie in its range.
std::vector<Box> boxes_of(const OwnedMatrix& matrix, const OwnedMatrix::Holder& holder);
// The same with the part of `flat`, the holder's range of the parameter, that is each box.
std::vector<std::pair<Box, Tensor>> parts_of(const OwnedMatrix& matrix,
                                             const OwnedMatrix::Holder& holder, const Tensor& flat);

}  // namespace strata
