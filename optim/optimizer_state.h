#pragma once
// What one rank updates, with its memory: flat slices for rules that take any piece, and logical
// matrices that this rank owns, whole or its slab of shared ones. Knows how it lies in the model's
// memory and how it is called in a checkpoint; nothing of formulas, nothing of communication.
// Private to optim.
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "optim/optimizer_tensor.h"
#include "optim/rule_set.h"
#include "parallel/checkpoint/checkpoint.h"
#include "parallel/engine/manager.h"

namespace strata {

struct UpdateItem {
  const ParamMeta* meta = nullptr;
  size_t rule = 0;
  std::vector<StateSlot> slots;  // of the slice, or of the whole matrix
  std::vector<Tensor> state;
  int64_t updates = -1;  // that the state has seen; -1: as many as the run
  // [n] of a slice, [rows, cols] of a matrix. Separate: not the model's own memory, because that
  // has 16 bits or only a part of the matrix.
  Tensor weights, grad, rounded;
  bool separate = false;

  const OwnedSlice* slice = nullptr;  // of slices
  size_t matrix = 0;                  // of matrices: number in the placement
  const OwnedMatrix* owned = nullptr;
  Box box;  // of matrices: what of the parameter it is, the whole matrix or this rank's slab of it
  // Of a matrix that is not one piece of the model's memory here: what of it is, in pieces.
  std::vector<std::pair<Box, Tensor>> own_values, own_grads;

  void collect_own_gradient();  // into grad
  void hand_back_own_values();
  Piece piece(const RuleSet& rules, double grad_scale, double lr, double decay);
  // A box of the parameter in a tensor like the item's weights.
  Tensor part_of(const Tensor& values, const Box& part) const;
  // What of a slot that is not of_weights is here.
  Box box_of(const StateSlot& slot) const;
};

class OptimizerState {
 public:
  OptimizerState(ParallelManager& model, const RuleSet& rules);

  std::vector<UpdateItem>& slices() noexcept { return slices_; }
  std::vector<UpdateItem>& matrices() noexcept { return matrices_; }
  UpdateItem* owner_of(size_t matrix);  // null: this rank is none
  // This rank's part of a box of a matrix, in the gradients or the values of the model.
  Tensor model_part(size_t matrix, const Box& box, bool gradient) const;
  // Slices of parameters that a rule on slices updates: those that clipping may be limited to.
  const std::vector<OwnedSlice>& companion_slices() const noexcept { return companions_; }

  void for_tensors(const std::function<void(const OptimizerTensor&)>& f) const;
  int64_t bytes() const;  // separate weights and state

  // State, and separate weights, see distributed_optimizer.h.
  void load_masters(const WeightSource& source);
  void load(const CheckpointReader& in, OptimizerReset reset);
  void load_converted(const WeightSource& weights, const CheckpointReader& state);

 private:
  void add_matrix(const OwnedMatrix& matrix, size_t number, size_t rule);
  void read_model(const std::function<Tensor(const Parameter&, const Box&, at::ScalarType)>& read);
  void read_state(UpdateItem& item, const CheckpointReader& in);
  std::vector<std::string> missing(const CheckpointReader& in, OptimizerReset reset) const;

  ParallelManager& model_;
  const RuleSet& rules_;
  std::vector<UpdateItem> slices_, matrices_;
  // What of a matrix is in the model's memory of this rank.
  struct ModelPart {
    Box box;
    Tensor gradient, value;
  };
  std::vector<ModelPart> model_parts(const OwnedMatrix& matrix, int rank) const;
  std::map<size_t, size_t> owned_;                   // number in the placement -> in matrices_
  std::vector<std::vector<ModelPart>> model_parts_;  // by number in the placement
  std::map<const Parameter*, const OwnedSlice*> slice_of_;
  std::vector<OwnedSlice> companions_;
};

}  // namespace strata
