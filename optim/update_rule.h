#pragma once
// The mathematics of an update. A rule knows matrices, never ranks: the DistributedOptimizer gives
// it flat slices of parameters, or whole logical matrices.
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/registry.h"
#include "core/tensor.h"

namespace strata {

class ConfigVisitor;

// What of the optimizer's memory belongs to a piece.
struct StateSlot {
  std::string name;  // "m", "momentum", "Q_L": path /optim/<parameter>/<name>
  Shape shape;
  at::ScalarType dtype;
  // Element i belongs to element i of the weights (momentum): cut and stored as they are. Otherwise
  // it belongs to the logical matrix as a whole (a basis of its columns), and only ranks that share
  // the matrix can have less than all of it.
  bool of_weights = true;
  // That is, along this dimension, in which the slot is as long as the matrix; -1: each has all.
  int cut_with = -1;
};

// What a rule updates at a time.
struct Piece {
  std::string_view name;    // of the parameter
  int64_t index = 0;        // which of the parameter's logical matrices
  Tensor weights;           // [n], or [rows, cols] of a logical matrix; fp32 or fp64, contiguous
  Tensor grad;              // the same shape and type, as it was summed
  Tensor rounded;           // 16-bit copy of the weights to be written too; may be undefined
  std::span<Tensor> state;  // in the order of state_slots
  double grad_scale = 1;    // gradients are to be multiplied by this first: mean and clipping
  double lr = 0;            // of this step and parameter
  double decay = 0;         // weight decay coefficient of this step and parameter
  // Slabs of a shared matrix: [rows, cols] of all of it, and the dimension along which it is cut.
  Shape whole = {};
  int cut = -1;

  // A name of its own for each matrix of a model, the same in every layout: the parameter's, for
  // the second and later ones with "/<index>". Whatever differs from matrix to matrix (a phase, a
  // seed) comes from it.
  std::string matrix_name() const;
};

// Adds up a contiguous tensor over the ranks that share the matrices of an update, in place and
// blocking. Collective over them.
using SumOverSlabs = std::function<void(const Tensor&)>;

class UpdateRule {
 public:
  enum class Needs { Slice, Matrix };  // any flat piece of a tensor; or the whole logical matrix
  virtual ~UpdateRule() = default;
  virtual std::string name() const = 0;
  virtual Needs needs() const = 0;
  // Whether a rule on matrices updates vectors of so many elements too, as matrices of one row.
  virtual bool takes_vectors(int64_t /*size*/) const { return false; }
  virtual double weight_decay() const = 0;  // coefficient, before schedules and exceptions
  // State of a piece of `shape`, of a matrix always the whole, whose weights have type `dtype`;
  // begins as zeros.
  virtual std::vector<StateSlot> state_slots(const Shape& shape, at::ScalarType dtype) const = 0;
  // Updates weights (and `rounded`) of every piece. updates: how many the state has seen before
  // this one; all pieces agree. The pieces are independent: a rule may take those of equal shape
  // together. Any order of pieces gives the same bits.
  virtual void update(std::span<Piece> pieces, int64_t updates) const = 0;
  // What each of `ranks` ranks computes, in units of cost(), when they update a matrix together, of
  // whose longer side, dimension `cut`, each has a slab; 0: they cannot.
  virtual double shared_cost(int64_t /*rows*/, int64_t /*cols*/, int /*cut*/, int /*ranks*/) const {
    return 0;
  }
  // Such an update: pieces are slabs. Collective over the ranks, which have the same matrices in
  // the same order; state that is not cut is the same on all of them before and after.
  virtual void update_shared(std::span<Piece> pieces, int64_t updates,
                             const SumOverSlabs& sum) const;
  // Elements that an average update of a shared matrix adds up.
  virtual int64_t shared_elements(int64_t /*rows*/, int64_t /*cols*/) const { return 0; }
  // Relative cost of an update, for balancing owners: flops of an average step, in [rows, cols].
  virtual double cost(int64_t rows, int64_t cols) const;
};

// W <- (1 - lr decay) W - lr scale direction, the way of most rules (decoupled decay), then
// `rounded`. After: W <- W - lr scale direction, then W <- (1 - lr decay) W, as GaLore's and SOAP's
// authors do. The direction can have another type.
enum class DecayOrder { Before, After };
void apply_direction(Piece& piece, const Tensor& direction, DecayOrder order = DecayOrder::Before,
                     double scale = 1);

using RuleRegistry = Registry<UpdateRule, ConfigVisitor&>;
// Rules that exist, by optim.name. The visitor reads the rule's keys in the current section
// ([optim]).
RuleRegistry rule_registry();

}  // namespace strata
