#include "optim/rules/muon.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "core/config/visitor.h"
#include "core/error.h"
#include "core/text.h"
#include "optim/matrix/newton_schulz_slabs.h"
#include "optim/matrix/passes.h"
#include "optim/rules/each_piece.h"

namespace strata {

void MuonConfig::visit(ConfigVisitor& v) {
  v.field("momentum", momentum, fraction_below_one(), "decay of the averaged gradient");
  v.field("nesterov", nesterov, "look ahead by one gradient");
  v.field("coefficients", coefficients, one_of(newton_schulz_sets()),
          "polynomials of the orthogonalisation: keller5 (the original), pe5 and pe8 (Polar "
          "Express), quintic5, cans5, dsv4_10, exact12, cubic5 (aol4 would flip signs and is "
          "refused)");
  v.field("ns_steps", ns_steps, between(0, 64), "their number; 0: as many as the set has");
  if (const std::string allowed = allowed_ns_steps(coefficients, ns_steps); !allowed.empty())
    v.problem("ns_steps", cat(ns_steps), allowed);
  v.field("eps", eps, number_between(1e-30, 1), "that of the set, 1e-20 where it has none",
          "floor of the norm before the orthogonalisation");
  v.field("eps_mode", eps_mode, one_of({"add", "clamp"}),
          "add eps to the norm, or divide by the larger of both");
  v.field("scale", scale, one_of({"match_rms", "original", "spectral", "none"}),
          "size of an update of p x q: 0.2 sqrt(max(p, q)), sqrt(max(1, p / q)), sqrt(p / q), 1");
  v.field("ns_dtype", ns_dtype, one_of({"auto", "fp32", "fp64", "bf16", "fp16"}),
          "type of the orthogonalisation; auto: that of the masters on CPUs, fp16 on GPUs");
  v.field("tp_mode", tp_mode, one_of({"owner", "gram"}),
          "matrices that tp cuts: brought to one rank each, or updated in place by all that hold "
          "slabs of the longer side, which add up small Gram matrices (others go to an owner)");
  v.field("weight_decay", weight_decay, non_negative(),
          "decoupled weight decay, by the learning rate without the scale");
}

namespace muon_detail {

class Muon final : public UpdateRule {
 public:
  Muon(const MuonConfig& config, const NewtonSchulz& how) : c_(config), how_(how) {}
  std::string name() const override { return "muon"; }
  Needs needs() const override { return Needs::Matrix; }
  double weight_decay() const override { return c_.weight_decay; }
  std::vector<StateSlot> state_slots(const Shape& shape, at::ScalarType dtype) const override {
    return {{"momentum", shape, dtype}};
  }
  double cost(int64_t rows, int64_t cols) const override {
    return newton_schulz_flops(rows, cols, how_) +
           8 * static_cast<double>(rows) * static_cast<double>(cols);
  }

  double shared_cost(int64_t rows, int64_t cols, int, int ranks) const override {
    if (c_.tp_mode != "gram") return 0;
    return newton_schulz_flops(rows, cols, how_, ranks) +
           8 * static_cast<double>(rows) * static_cast<double>(cols) / ranks;
  }
  int64_t shared_elements(int64_t rows, int64_t cols) const override {
    return newton_schulz_slabs_elements(rows, cols, how_);
  }

  void update_shared(std::span<Piece> all, int64_t, const SumOverSlabs& sum) const override {
    for_shared_batches(all, [&](std::span<Piece> pieces) {
      std::vector<Slab> slabs;
      for (Piece& piece : pieces) {
        const Tensor u = averaged(piece);
        // A copy: averaged() may give the momentum itself.
        slabs.push_back({(piece.cut == 0 ? u.t() : u).clone(at::MemoryFormat::Contiguous),
                         std::max(piece.whole[0], piece.whole[1])});
      }
      newton_schulz_slabs(slabs, how_, compute_type(pieces[0].weights), sum);
      for (size_t i = 0; i < pieces.size(); ++i)
        apply(pieces[i], pieces[i].cut == 0 ? slabs[i].x.t() : slabs[i].x);
    });
  }

  void update(std::span<Piece> pieces, int64_t) const override {
    for (const Piece& piece : pieces) {
      if (piece.weights.dim() != 2) {
        throw ConfigError("optim.include", cat(piece.name, " ", shape_text(piece.weights.sizes())),
                          "parameters that are matrices: muon has no update for vectors");
      }
    }
    if (pieces.empty()) return;
    if (!pieces[0].weights.is_cpu()) return update_batches(pieces);
    const at::ScalarType type = compute_type(pieces[0].weights);
    const bool own_products = type == at::kFloat || type == at::kDouble;
    for_each_piece(pieces, *this, own_products ? Threads::Any : Threads::One,
                   [&](Piece& piece) { apply(piece, newton_schulz(averaged(piece), how_, type)); });
  }

 private:
  // Of a device: those equal up to transposition together, for LibTorch's batched products.
  void update_batches(std::span<Piece> pieces) const {
    constexpr int64_t kElements = int64_t{1} << 26;
    std::map<std::pair<int64_t, int64_t>, std::vector<Piece*>> groups;
    for (Piece& piece : pieces) {
      const int64_t p = piece.weights.size(0), q = piece.weights.size(1);
      groups[{std::min(p, q), std::max(p, q)}].push_back(&piece);
    }
    for (auto& [shape, group] : groups) {
      const auto step =
          static_cast<size_t>(std::max<int64_t>(1, kElements / (shape.first * shape.second)));
      for (size_t begin = 0; begin < group.size(); begin += step) {
        const size_t end = std::min(group.size(), begin + step);
        std::vector<Tensor> matrices;
        for (size_t i = begin; i < end; ++i) {
          const Tensor u = averaged(*group[i]);
          matrices.push_back(u.size(0) > u.size(1) ? u.t() : u);
        }
        const Tensor batch =
            newton_schulz_batch(at::stack(matrices), how_, compute_type(matrices[0]));
        for (size_t i = begin; i < end; ++i) {
          Piece& piece = *group[i];
          const Tensor o = batch[static_cast<int64_t>(i - begin)];
          apply(piece, piece.weights.size(0) > piece.weights.size(1) ? o.t() : o);
        }
      }
    }
  }

  // Takes the gradient into the momentum and gives U.
  Tensor averaged(Piece& piece) const {
    return update_momentum(piece.state[0], piece.grad, c_.momentum,
                           (1 - c_.momentum) * piece.grad_scale, c_.nesterov);
  }

  void apply(Piece& piece, const Tensor& direction) const {
    const auto shape = piece.whole.empty() ? piece.weights.sizes() : at::IntArrayRef(piece.whole);
    apply_direction(piece, direction, DecayOrder::Before, scale(shape[0], shape[1]));
  }

  double scale(int64_t rows, int64_t cols) const {
    const double p = static_cast<double>(rows), q = static_cast<double>(cols);
    if (c_.scale == "match_rms") return 0.2 * std::sqrt(std::max(p, q));
    if (c_.scale == "original") return std::sqrt(std::max(1.0, p / q));
    return c_.scale == "spectral" ? std::sqrt(p / q) : 1.0;
  }

  at::ScalarType compute_type(const Tensor& x) const {
    if (c_.ns_dtype == "fp64" || x.scalar_type() == at::kDouble) return at::kDouble;
    if (c_.ns_dtype == "bf16") return at::kBFloat16;
    if (c_.ns_dtype == "fp16" || (c_.ns_dtype == "auto" && x.is_cuda())) return at::kHalf;
    return at::kFloat;
  }

  MuonConfig c_;
  NewtonSchulz how_;
};

}  // namespace muon_detail

std::unique_ptr<UpdateRule> make_muon(const MuonConfig& config) {
  NewtonSchulz how = newton_schulz_set(config.coefficients, config.ns_steps);
  if (config.eps) how.eps = *config.eps;
  how.clamp = config.eps_mode == "clamp";
  return make_muon(config, how);
}

std::unique_ptr<UpdateRule> make_muon(const MuonConfig& config, const NewtonSchulz& how) {
  return std::make_unique<muon_detail::Muon>(config, how);
}

}  // namespace strata
