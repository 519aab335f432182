#include "optim/rules/soap.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linalg_eigh.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "core/config/visitor.h"
#include "core/error.h"
#include "core/rng.h"
#include "optim/matrix/large_product.h"
#include "optim/matrix/orthogonal_factor.h"
#include "optim/matrix/slab_grams.h"
#include "optim/matrix/symmetric_product.h"
#include "optim/matrix/tiles.h"
#include "optim/rules/each_piece.h"

namespace strata {

void SoapConfig::visit(ConfigVisitor& v) {
  v.field("beta1", beta1, fraction_below_one(), "decay of the first moment");
  v.field("beta2", beta2, fraction_below_one(), "decay of the second moment");
  v.field("shampoo_beta", shampoo_beta, number_between(-1, 1),
          "decay of the factors; below 0: beta2");
  v.field("eps", eps, positive(), "added to the root of the second moment");
  v.field("precondition_frequency", precondition_frequency, at_least(1),
          "updates from one refresh of the bases to the next");
  v.field("one_sided", one_sided, one_of({"never", "auto", "always"}),
          "sides without a factor: none, those above max_precond_dim, or those and the larger one");
  v.field("max_precond_dim", max_precond_dim, at_least(1),
          "rows or columns up to which a side has a factor (not with one_sided = never)");
  v.field("merge_dims", merge_dims,
          "matrices of at most max_precond_dim elements have one factor, of all their elements");
  v.field("precondition_1d", precondition_1d,
          "vectors of at most max_precond_dim elements have a factor too; otherwise the companion "
          "updates them");
  v.field("block", block, at_least(0),
          "matrices are cut into tiles of this many rows and columns, each with its own factors; "
          "0: whole");
  if (block > 0 && merge_dims)
    v.problem("merge_dims", "true", "false with optim.block, which cuts what this would merge");
  v.field("normalize_grads", normalize_grads,
          "scale each direction to a root mean square of 1; helps at frequencies around 100");
  v.field("correct_bias", correct_bias, "divide moments by 1 - beta^t");
  v.field(
      "tp_mode", tp_mode, one_of({"owner", "gram"}),
      "matrices that tp cuts: brought to one rank each; or, where the longer side is cut and has "
      "no factor, updated in place by all that hold slabs (others go to an owner)");
  v.field("stagger", stagger, "refresh the bases of different matrices in different updates");
  v.field("weight_decay", weight_decay, non_negative(), "decoupled weight decay, after the update");
}

namespace soap_detail {

constexpr double kMaxFailures = 3;

// The matrix alone decides, so that the phase does not depend on who computes.
int64_t phase_of(const Piece& piece, int64_t frequency) {
  return static_cast<int64_t>(fnv1a64(piece.matrix_name()) % static_cast<uint64_t>(frequency));
}

Tensor scaled_gradient(const Piece& piece) {
  return piece.grad_scale == 1 ? piece.grad : piece.grad * piece.grad_scale;
}

template <class Decompose>
std::optional<Tensor> attempt(const Tensor& input, at::ScalarType type, Decompose&& decompose) {
  try {
    Tensor q = decompose(input.to(type)).to(input.scalar_type()).contiguous();
    if (is_orthogonal(q)) return q;
  } catch (const c10::LinAlgError&) {  // LAPACK did not converge
  }
  return std::nullopt;
}

template <class Decompose>
std::optional<Tensor> basis(const Tensor& input, Decompose&& decompose) {
  std::optional<Tensor> q = attempt(input, input.scalar_type(), decompose);
  if (!q && input.scalar_type() != at::kDouble) q = attempt(input, at::kDouble, decompose);
  return q;
}

std::optional<Tensor> eigenvectors(const Tensor& factor) {
  return basis(factor, [](const Tensor& s) { return std::get<1>(at::linalg_eigh(s)).flip(1); });
}

std::optional<Tensor> orthogonal_factor(const Tensor& a) {
  return basis(a, orthogonal_factor_by_reflections);
}

struct Sides {
  bool left = false, right = false;
};

// State of one tile of a matrix, as views; undefined tensors: a side without a factor.
struct State {
  Tile tile;
  Tensor m, v, L, Q_L, R, Q_R;

  Tensor into_basis(const Tensor& x) const {
    const Tensor left = Q_L.defined() ? large_product(Q_L.t(), x) : x;
    return Q_R.defined() ? large_product(left, Q_R) : left;
  }
  Tensor out_of_basis(const Tensor& x) const {
    const Tensor left = Q_L.defined() ? large_product(Q_L, x) : x;
    return Q_R.defined() ? large_product(left, Q_R.t()) : left;
  }
};

class Soap final : public UpdateRule {
 public:
  explicit Soap(const SoapConfig& config) : c_(config) {}
  std::string name() const override { return "soap"; }
  Needs needs() const override { return Needs::Matrix; }
  double weight_decay() const override { return c_.weight_decay; }

  std::vector<StateSlot> state_slots(const Shape& shape, at::ScalarType dtype) const override {
    STRATA_CHECK(shape.size() == 2, "soap updates matrices");
    const Shape seen = as_seen(shape[0], shape[1]);
    const std::vector<Tile> tiles = tiles_of(seen[0], seen[1], c_.block);
    int64_t left = 0, right = 0;
    for (const Tile& tile : tiles) {
      const Sides on = sides(tile.rows, tile.cols);
      if (on.left) left += tile.rows * tile.rows;
      if (on.right) right += tile.cols * tile.cols;
    }
    const auto factor = [&](int64_t elements, int64_t side) {
      return tiles.size() == 1 ? Shape{side, side} : Shape{elements};
    };
    std::vector<StateSlot> slots{{"m", shape, dtype}, {"v", shape, dtype}};
    if (left > 0) {
      slots.push_back({"L", factor(left, seen[0]), dtype, false});
      slots.push_back({"Q_L", factor(left, seen[0]), dtype, false});
    }
    if (right > 0) {
      slots.push_back({"R", factor(right, seen[1]), dtype, false});
      slots.push_back({"Q_R", factor(right, seen[1]), dtype, false});
    }
    if (left > 0 || right > 0) slots.push_back({"failed_refreshes", {1}, dtype, false});
    return slots;
  }

  void update(std::span<Piece> pieces, int64_t updates) const override {
    const bool decomposes =
        updates == 0 || std::any_of(pieces.begin(), pieces.end(),
                                    [&](const Piece& piece) { return refreshes(piece, updates); });
    const Threads threads = decomposes || c_.normalize_grads ? Threads::One : Threads::Any;
    for_each_piece(pieces, *this, threads, [&](Piece& piece) {
      std::vector<State> tiles = states(piece);
      const Tensor scaled = scaled_gradient(piece);
      const Tensor grad = scaled.view(as_seen(scaled.size(0), scaled.size(1)));
      if (updates == 0) {
        for (State& s : tiles) begin(piece, s, s.tile.of(grad));
        if (piece.rounded.defined()) piece.rounded.copy_(piece.weights);
      } else {
        step(piece, tiles, grad, updates);
      }
    });
  }

  bool takes_vectors(int64_t size) const override {
    return c_.precondition_1d && size <= c_.max_precond_dim;
  }

  double cost(int64_t rows, int64_t cols) const override { return cost(rows, cols, 1); }

  double shared_cost(int64_t rows, int64_t cols, int cut, int ranks) const override {
    const bool whole = c_.block == 0 && as_seen(rows, cols)[0] == rows;
    if (c_.tp_mode != "gram" || !whole || c_.normalize_grads) return 0;
    const Sides on = sides(rows, cols);
    return on.left == (cut == 1) && on.right == (cut == 0) ? cost(rows, cols, ranks) : 0;
  }
  int64_t shared_elements(int64_t rows, int64_t cols) const override {
    return std::min(rows, cols) * std::min(rows, cols);
  }

  void update_shared(std::span<Piece> all, int64_t updates,
                     const SumOverSlabs& sum) const override {
    for_shared_batches(all, [&](std::span<Piece> pieces) {
      std::vector<Tensor> grads, slabs;
      for (const Piece& piece : pieces) {
        grads.push_back(scaled_gradient(piece));
        slabs.push_back(piece.cut == 0 ? grads.back().t() : grads.back());
      }
      const std::vector<Tensor> grams = slab_grams(slabs, sum);
      for_each_piece(pieces, *this, Threads::One, [&](Piece& piece) {
        const auto i = static_cast<size_t>(&piece - pieces.data());
        std::vector<State> slab{slab_state(piece)};
        if (updates == 0) {
          begin(piece, slab[0], grads[i], grams[i]);
          if (piece.rounded.defined()) piece.rounded.copy_(piece.weights);
        } else {
          step(piece, slab, grads[i], updates, grams[i]);
        }
      });
    });
  }

 private:
  // Per side of size d: into and out of the basis and half a product for the factor; at a refresh
  // S Q, QR and taking m along. Of slabs, what only involves factors is done by each rank.
  double cost(int64_t rows, int64_t cols, double slabs) const {
    double flops = 10 * static_cast<double>(rows) * static_cast<double>(cols) / slabs;
    const Shape seen = as_seen(rows, cols);
    for (const Tile& tile : tiles_of(seen[0], seen[1], c_.block)) {
      const double p = static_cast<double>(tile.rows), q = static_cast<double>(tile.cols);
      const Sides on = sides(tile.rows, tile.cols);
      for (const double d : {on.left ? p : 0, on.right ? q : 0}) {
        const double refresh = (2 + 8. / 3 + 2) * d * d * d + 2 * d * p * q / slabs;
        flops += 5 * d * p * q / slabs + refresh / static_cast<double>(c_.precondition_frequency);
      }
    }
    return flops;
  }

  // Rows and columns that have factors.
  Shape as_seen(int64_t p, int64_t q) const {
    if (c_.merge_dims && p * q <= c_.max_precond_dim) return {1, p * q};
    return {p, q};
  }

  Sides sides(int64_t p, int64_t q) const {
    Sides on{p > 1, q > 1};
    if (c_.one_sided == "always" && on.left && on.right) (p <= q ? on.right : on.left) = false;
    if (c_.one_sided != "never") {
      on.left = on.left && p <= c_.max_precond_dim;
      on.right = on.right && q <= c_.max_precond_dim;
    }
    return on;
  }

  std::vector<State> states(const Piece& piece) const {
    std::vector<State> out;
    int64_t left = 0, right = 0;
    const Shape seen = as_seen(piece.weights.size(0), piece.weights.size(1));
    const Tensor m = piece.state[0].view(seen), v = piece.state[1].view(seen);
    for (const Tile& tile : tiles_of(seen[0], seen[1], c_.block)) {
      const Sides on = sides(tile.rows, tile.cols);
      State s{tile, tile.of(m), tile.of(v), {}, {}, {}, {}};
      const auto take = [&](size_t slot, int64_t at, int64_t side) {
        return piece.state[slot].view(-1).narrow(0, at, side * side).view({side, side});
      };
      if (on.left) {
        s.L = take(2, left, tile.rows);
        s.Q_L = take(3, left, tile.rows);
        left += tile.rows * tile.rows;
      }
      if (on.right) {
        // Behind L, Q_L of this or any other tile, and before failed_refreshes.
        const size_t last = piece.state.size() - 1;
        s.R = take(last - 2, right, tile.cols);
        s.Q_R = take(last - 1, right, tile.cols);
        right += tile.cols * tile.cols;
      }
      out.push_back(std::move(s));
    }
    return out;
  }

  // A matrix whose slab along one side this rank has; the other side has a factor.
  State slab_state(const Piece& piece) const {
    const auto& x = piece.state;
    const Tile tile{0, piece.weights.size(0), 0, piece.weights.size(1)};
    if (piece.cut == 1) return {tile, x[0], x[1], x[2], x[3], {}, {}};
    return {tile, x[0], x[1], {}, {}, x[2], x[3]};
  }

  // gram: of a shared matrix, what its only factor takes in.
  void add_to_factors(const State& s, const Tensor& grad, const Tensor& gram = {}) const {
    const double weight = 1 - (c_.shampoo_beta < 0 ? c_.beta2 : c_.shampoo_beta);
    if (gram.defined()) {
      Tensor factor = s.L.defined() ? s.L : s.R;
      factor.mul_(1 - weight).add_(gram, weight);
      return;
    }
    const Tensor share = grad * weight;
    if (s.L.defined()) symmetric_product_out(s.L.mul_(1 - weight), share, grad.t(), true);
    if (s.R.defined()) symmetric_product_out(s.R.mul_(1 - weight), share.t(), grad, true);
  }

  void begin(Piece& piece, State& s, const Tensor& grad, const Tensor& gram = {}) const {
    add_to_factors(s, grad, gram);
    const auto set = [&](const Tensor& factor, Tensor& q) {
      if (!factor.defined()) return;
      const std::optional<Tensor> vectors = eigenvectors(factor);
      if (!vectors) {
        throw NumericError("soap: no eigenvectors of the first gradient of '" +
                           std::string(piece.name) +
                           "' could be computed, in fp64 either; is the gradient finite?");
      }
      q.copy_(*vectors);
    };
    set(s.L, s.Q_L);
    set(s.R, s.Q_R);
  }

  void step(Piece& piece, std::vector<State>& tiles, const Tensor& grad, int64_t t,
            const Tensor& gram = {}) const {
    Tensor direction = at::empty_like(grad);
    for (State& s : tiles) {
      const Tensor g = s.into_basis(s.tile.of(grad));
      s.m.lerp_(g, 1 - c_.beta1);
      s.v.mul_(c_.beta2).addcmul_(g, g, 1 - c_.beta2);
      s.tile.of(direction).copy_(s.out_of_basis(s.m / s.v.sqrt().add_(c_.eps)));
    }
    // Before the scaling to 1, which is of the direction without the corrections.
    if (c_.normalize_grads) direction = direction / (1e-30 + direction.square().mean().sqrt());
    const double n = static_cast<double>(t);
    const double correction =
        c_.correct_bias ? std::sqrt(1 - std::pow(c_.beta2, n)) / (1 - std::pow(c_.beta1, n)) : 1;
    apply_direction(piece, direction.view(piece.weights.sizes()), DecayOrder::After, correction);
    for (const State& s : tiles) add_to_factors(s, s.tile.of(grad), gram);
    if (refreshes(piece, t)) refresh(piece, tiles);
  }

  bool refreshes(const Piece& piece, int64_t t) const {
    const int64_t f = c_.precondition_frequency;
    return (t + (c_.stagger ? phase_of(piece, f) : 0)) % f == 0;
  }

  void refresh(const Piece& piece, std::vector<State>& tiles) const {
    bool failed = false, any = false;
    for (State& s : tiles) {
      if (s.L.defined()) failed = !refresh_side(s.L, s.Q_L, s, 0) || failed;
      if (s.R.defined()) failed = !refresh_side(s.R, s.Q_R, s, 1) || failed;
      any = any || s.L.defined() || s.R.defined();
    }
    if (!any) return;
    Tensor& failures = piece.state.back();
    if (!failed) {
      failures.zero_();
      return;
    }
    failures.add_(1);
    if (failures.item<double>() >= kMaxFailures) {
      throw NumericError(
          "soap: three refreshes in a row of the basis of '" + std::string(piece.name) +
          "' failed, in fp64 too; its factors are not finite or the learning rate is "
          "far too high");
    }
  }

  // m <- (Qnew^T Qold) m, or m <- m (Qold^T Qnew): through the matrix in brackets where that is
  // cheaper, with rows (columns) of m fewer than columns (rows).
  static void turn_to(const Tensor& found, const Tensor& q, Tensor& m, int64_t dim) {
    const Tensor x = dim == 0 ? m : m.t();
    const bool bracket = x.size(0) <= x.size(1);
    const Tensor turned = bracket ? large_product(large_product(found.t(), q), x)
                                  : large_product(found.t(), large_product(q, x));
    m.copy_(dim == 0 ? turned : turned.t());
  }

  // False: q, v and m are as they were.
  bool refresh_side(const Tensor& factor, Tensor& q, State& s, int64_t dim) const {
    const Tensor sq = large_product(factor, q);
    // The diagonal of Q^T S Q. Sorting the columns of Q sorts those of S Q.
    const Tensor sizes = (q * sq).sum(0);
    const Tensor order = at::argsort(sizes, /*stable=*/true, /*dim=*/0, /*descending=*/true);
    const bool sorted = order.equal(at::arange(order.numel(), order.options()));
    const std::optional<Tensor> found = orthogonal_factor(sorted ? sq : sq.index_select(1, order));
    if (!found) return false;
    turn_to(*found, q, s.m, dim);
    if (!sorted) s.v.copy_(s.v.index_select(dim, order));
    q.copy_(*found);
    return true;
  }
  SoapConfig c_;
};

}  // namespace soap_detail

std::unique_ptr<UpdateRule> make_soap(const SoapConfig& config) {
  return std::make_unique<soap_detail::Soap>(config);
}

}  // namespace strata
