#include "optim/rules/galore.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/eye.h>

#include <algorithm>
#include <cmath>

#include "core/config/visitor.h"
#include "core/error.h"
#include "core/log.h"
#include "optim/matrix/large_product.h"
#include "optim/matrix/slab_grams.h"
#include "optim/matrix/subspace.h"
#include "optim/rules/each_piece.h"

namespace strata {

void GaloreConfig::visit(ConfigVisitor& v) {
  v.field("proj_type", proj_type, one_of({"std", "reverse_std", "left", "right", "full"}),
          "side that is projected: the smaller, the larger, rows, columns, both");
  v.field("rank", rank, at_least(1), "directions of the subspace; at most all that a matrix has");
  v.field("update_proj_gap", update_proj_gap, at_least(1), "updates from one subspace to the next");
  v.field("scale", scale, positive(), "factor of the direction");
  v.field("on_refresh", on_refresh, one_of({"keep", "reset", "rotate"}),
          "what becomes of the moments in a new subspace");
  v.field("svd", svd, one_of({"gram", "randomized", "full"}),
          "how the subspace is found: eigenvectors of the smaller G G^T or G^T G, samples, or a "
          "singular value decomposition");
  v.field("beta1", beta1, fraction_below_one(), "decay of the first moment");
  v.field("beta2", beta2, fraction_below_one(), "decay of the second moment");
  v.field("eps", eps, positive(), "added to the root of the second moment, before bias correction");
  v.field("weight_decay", weight_decay, non_negative(), "decoupled weight decay, after the update");
  v.field(
      "tp_mode", tp_mode, one_of({"owner", "gram"}),
      "matrices that tp cuts: brought to one rank each; or, where the longer side is cut and the "
      "other projected, updated in place by all that hold slabs (others go to an owner)");
}

namespace galore_detail {

struct Sides {
  bool left = false, right = false;
};

Sides sides(const std::string& type, int64_t p, int64_t q) {
  if (type == "full") return {true, true};
  if (type == "left" || type == "right") return {type == "left", type == "right"};
  const bool right = (p >= q) == (type == "std");
  return {!right, right};
}

struct State {
  Tensor m, v, A, B;  // A or B undefined: that side is not projected
  State(std::span<Tensor> state, Sides on) : m(state[0]), v(state[1]) {
    if (on.left) A = state[2];
    if (on.right) B = state[on.left ? 3 : 2];
  }
  Tensor project(const Tensor& g) const {
    const Tensor low = A.defined() ? large_product(A.t(), g) : g;
    return B.defined() ? large_product(low, B.t()) : low;
  }
  Tensor back(const Tensor& x) const {
    const Tensor wide = A.defined() ? large_product(A, x) : x;
    return B.defined() ? large_product(wide, B) : wide;
  }
};

class Galore final : public UpdateRule {
 public:
  explicit Galore(const GaloreConfig& config)
      : c_(config), method_(parse_subspace_method(config.svd)) {}
  std::string name() const override { return "galore"; }
  Needs needs() const override { return Needs::Matrix; }
  double weight_decay() const override { return c_.weight_decay; }

  std::vector<StateSlot> state_slots(const Shape& shape, at::ScalarType dtype) const override {
    STRATA_CHECK(shape.size() == 2, "galore updates matrices");
    const int64_t p = shape[0], q = shape[1], r = rank(p, q);
    const Sides on = sides(c_.proj_type, p, q);
    const Shape low{on.left ? r : p, on.right ? r : q};
    const bool both = on.left && on.right;
    const int cut_with = both ? -1 : on.left ? 1 : 0;
    std::vector<StateSlot> slots{{"m", low, dtype, false, cut_with},
                                 {"v", low, dtype, false, cut_with}};
    if (on.left) slots.push_back({both ? "projector_left" : "projector", {p, r}, dtype, false});
    if (on.right) slots.push_back({both ? "projector_right" : "projector", {r, q}, dtype, false});
    return slots;
  }

  void update(std::span<Piece> pieces, int64_t updates) const override {
    const bool decomposes = updates % c_.update_proj_gap == 0;
    for_each_piece(pieces, *this, decomposes ? Threads::One : Threads::Any,
                   [&](Piece& piece) { update_one(piece, updates); });
  }

  double cost(int64_t rows, int64_t cols) const override { return cost(rows, cols, 1); }

  double shared_cost(int64_t rows, int64_t cols, int cut, int ranks) const override {
    if (c_.tp_mode != "gram" || method_ == SubspaceMethod::Full) return 0;
    const Sides on = sides(c_.proj_type, rows, cols);
    return on.left == (cut == 1) && on.right == (cut == 0) ? cost(rows, cols, ranks) : 0;
  }
  int64_t shared_elements(int64_t rows, int64_t cols) const override {
    return std::min(rows, cols) * std::min(rows, cols) / c_.update_proj_gap;
  }

  void update_shared(std::span<Piece> all, int64_t updates,
                     const SumOverSlabs& sum) const override {
    for_shared_batches(all, [&](std::span<Piece> pieces) {
      std::vector<Tensor> vectors(pieces.size());
      if (updates % c_.update_proj_gap == 0) vectors = vectors_of_slabs(pieces, updates, sum);
      for_each_piece(pieces, *this, Threads::Any, [&](Piece& piece) {
        State s(piece.state, sides_of_slab(piece));
        if (updates % c_.update_proj_gap == 0) {
          const Tensor& found = vectors[static_cast<size_t>(&piece - pieces.data())];
          turn(s, s.A.defined() ? found : Tensor(), s.B.defined() ? found : Tensor(), updates);
        }
        step(piece, s, updates);
      });
    });
  }

 private:
  // Of slabs, finding the subspace is done by each rank.
  double cost(int64_t rows, int64_t cols, double slabs) const {
    const double p = static_cast<double>(rows), q = static_cast<double>(cols);
    const double r = static_cast<double>(rank(rows, cols)), least = std::min(p, q);
    const double refresh = 2 * least * p * q / slabs + 10 * least * least * least;
    return 4 * p * q * r / slabs + refresh / static_cast<double>(c_.update_proj_gap);
  }
  int64_t rank(int64_t p, int64_t q) const { return std::min({c_.rank, p, q}); }

  void update_one(Piece& piece, int64_t updates) const {
    State s(piece.state, sides(c_.proj_type, piece.weights.size(0), piece.weights.size(1)));
    if (updates % c_.update_proj_gap == 0) refresh(piece, s, updates);
    step(piece, s, updates);
  }

  // The side of which no slabs are cut is projected.
  static Sides sides_of_slab(const Piece& piece) { return {piece.cut == 1, piece.cut == 0}; }

  void step(Piece& piece, State& s, int64_t updates) const {
    const Shape shape = piece.whole.empty() ? Shape(piece.weights.sizes().vec()) : piece.whole;
    if (updates == 0 && c_.rank > std::min(shape[0], shape[1])) {
      log::warn("galore: optim.rank = ", c_.rank, " is more than '", piece.name, "' has (",
                shape[0], " x ", shape[1], "); ", std::min(shape[0], shape[1]), " is used");
    }
    // Lengths do not matter to the subspace, so that the small projection is scaled.
    const Tensor low = s.project(piece.grad).mul_(piece.grad_scale);
    s.m.lerp_(low, 1 - c_.beta1);
    s.v.mul_(c_.beta2).addcmul_(low, low, 1 - c_.beta2);
    // Moments that were reset have seen the updates of this subspace alone.
    const int64_t seen = c_.on_refresh == "reset" ? updates % c_.update_proj_gap : updates;
    const double t = static_cast<double>(seen + 1);
    const double step = std::sqrt(1 - std::pow(c_.beta2, t)) / (1 - std::pow(c_.beta1, t));
    apply_direction(piece, s.back(s.m / s.v.sqrt().add_(c_.eps)), DecayOrder::After,
                    c_.scale * step);
  }

  static Rng random_of(const Piece& piece, int64_t updates) {
    return {static_cast<uint64_t>(updates), "galore", piece.matrix_name()};
  }

  void refresh(const Piece& piece, State& s, int64_t updates) const {
    const Tensor& grad = piece.grad;
    const Rng random = random_of(piece, updates);
    const int64_t r = rank(grad.size(0), grad.size(1));
    turn(s, s.A.defined() ? leading_vectors(grad, r, method_, random) : Tensor(),
         s.B.defined() ? leading_vectors(grad.t(), r, method_, random) : Tensor(), updates);
  }

  // Vectors of the projected side of each matrix, the same on all ranks; undefined where there are
  // none.
  std::vector<Tensor> vectors_of_slabs(std::span<Piece> pieces, int64_t updates,
                                       const SumOverSlabs& sum) const {
    std::vector<Tensor> slabs;
    for (const Piece& piece : pieces) slabs.push_back(piece.cut == 0 ? piece.grad.t() : piece.grad);
    const std::vector<double> squares = slab_squares(slabs, sum);
    for (size_t i = 0; i < slabs.size(); ++i) {
      // Grams of unit length neither over- nor underflow.
      const bool usable = std::isfinite(squares[i]) && squares[i] > 0;
      slabs[i] = slabs[i] * (usable ? 1 / std::sqrt(squares[i]) : 0);
    }
    const std::vector<Tensor> grams = slab_grams(slabs, sum);
    std::vector<Tensor> out(pieces.size());
    for_each_piece(pieces, *this, Threads::One, [&](Piece& piece) {
      const auto i = static_cast<size_t>(&piece - pieces.data());
      out[i] = leading_vectors_of_gram(grams[i], rank(piece.whole[0], piece.whole[1]), method_,
                                       random_of(piece, updates));
    });
    return out;
  }

  // Takes new vectors: columns of A, of the transpose of B.
  void turn(State& s, const Tensor& u, const Tensor& v, int64_t updates) const {
    if (c_.on_refresh == "reset") {
      s.m.zero_();
      s.v.zero_();
    }
    const bool rotate = c_.on_refresh == "rotate" && updates > 0;
    if (u.defined()) {
      const Tensor found = u.to(s.A.scalar_type());
      if (rotate) s.m.copy_(large_product(large_product(found.t(), s.A), s.m));
      s.A.copy_(found);
    } else if (s.A.defined() && updates == 0) {
      s.A.copy_(at::eye(s.A.size(0), s.A.size(1), s.A.options()));
    }
    if (v.defined()) {
      const Tensor found = v.to(s.B.scalar_type());
      if (rotate) s.m.copy_(large_product(s.m, large_product(s.B, found)));
      s.B.copy_(found.t());
    } else if (s.B.defined() && updates == 0) {
      s.B.copy_(at::eye(s.B.size(0), s.B.size(1), s.B.options()));
    }
  }
  GaloreConfig c_;
  SubspaceMethod method_;
};

}  // namespace galore_detail

std::unique_ptr<UpdateRule> make_galore(const GaloreConfig& config) {
  return std::make_unique<galore_detail::Galore>(config);
}

}  // namespace strata
