#include "parallel/engine/matrix_owners.h"

#include <algorithm>
#include <numeric>
#include <string_view>
#include <tuple>

#include "core/error.h"
#include "core/text.h"

namespace strata {
namespace matrix_owners_detail {

// Rank of the stage that is shard `shard` of copy `copy`, at tp index `tp`.
int rank_of(const LayerStrategy& s, int copy, int shard, int tp) {
  return (copy * s.shard_count() + shard) * s.tp + tp;
}
int copies_of(const LayerStrategy& s) { return s.dp / s.shard_count(); }

// All copies of what is at one place.
std::vector<int> ranks_at(const LayerStrategy& s, int shard, int tp) {
  std::vector<int> out;
  for (int copy = 0; copy < copies_of(s); ++copy) out.push_back(rank_of(s, copy, shard, tp));
  return out;
}

// The dimension along which the tp ranks of one place hold disjoint slabs of a whole matrix, if it
// is the longer one; otherwise -1.
int slab_dim(const OwnedMatrix& matrix, const std::vector<OwnedMatrix::Holder>& tp_ranks) {
  const LogicalMatrix& m = matrix.matrix;
  if (tp_ranks.size() < 2 || m.box.extent.size() != 2) return -1;
  int64_t together = 0;
  int dim = -1;
  for (const auto& holder : tp_ranks) {
    const std::vector<Box> boxes = boxes_of(matrix, holder);
    if (boxes.size() != 1) return -1;
    const int cut = boxes[0].extent[0] < m.rows ? 0 : 1;
    if (boxes[0].extent[1 - cut] != m.box.extent[1 - cut] || (dim >= 0 && dim != cut)) return -1;
    dim = cut;
    together += boxes[0].elements();
  }
  if (together != m.rows * m.cols) return -1;
  return m.box.extent[dim] >= m.box.extent[1 - dim] ? dim : -1;
}

}  // namespace matrix_owners_detail

double matrix_cost(const MatrixCost& cost, const ParamMeta& meta) {
  double sum = 0;
  if (!cost || !meta.trainable) return sum;
  for (const LogicalMatrix& m : logical_matrices(meta)) sum += cost(meta, m.rows, m.cols);
  return sum;
}

std::vector<int> assign_owners(const std::vector<OwnerItem>& items, int ranks) {
  double total = 0;
  for (const OwnerItem& item : items) {
    STRATA_CHECK(!item.candidates.empty(), cat(item.name, " has no possible owner"));
    total += item.cost * static_cast<double>(item.candidates.front().size());
  }
  const double slack = 0.05 * total / ranks;
  std::vector<size_t> order(items.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto key = [&](size_t i) {
    return std::tuple<bool, double, int64_t, std::string_view>(
        items[i].candidates.size() > 1, -items[i].cost, -items[i].elements, items[i].name);
  };
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return key(a) < key(b); });
  std::vector<double> load(static_cast<size_t>(ranks), 0);
  std::vector<int> out(items.size(), 0);
  for (const size_t i : order) {
    const OwnerItem& item = items[i];
    std::vector<double> loads;
    for (const auto& candidate : item.candidates) {
      double most = 0;
      for (const int r : candidate) most = std::max(most, load[static_cast<size_t>(r)]);
      loads.push_back(most);
    }
    const double limit = *std::min_element(loads.begin(), loads.end()) + slack;
    size_t best = loads.size();
    for (size_t c = 0; c < loads.size(); ++c) {
      if (loads[c] > limit) continue;
      if (best == loads.size()) {
        best = c;
        continue;
      }
      const int64_t held = item.held.empty() ? 0 : item.held[c],
                    best_held = item.held.empty() ? 0 : item.held[best];
      if (held > best_held || (held == best_held && loads[c] < loads[best])) best = c;
    }
    out[i] = static_cast<int>(best);
    for (const int r : item.candidates[best]) load[static_cast<size_t>(r)] += item.cost;
  }
  return out;
}

std::vector<double> owner_loads(const std::vector<OwnerItem>& items, const std::vector<int>& owners,
                                int ranks) {
  std::vector<double> load(static_cast<size_t>(ranks), 0);
  for (size_t i = 0; i < items.size(); ++i) {
    for (const int r : items[i].candidates[static_cast<size_t>(owners[i])])
      load[static_cast<size_t>(r)] += items[i].cost;
  }
  return load;
}

std::vector<Box> boxes_of(const OwnedMatrix& matrix, const OwnedMatrix::Holder& holder) {
  std::vector<Box> out;
  for (auto& [box, part] : parts_of(matrix, holder, {})) out.push_back(std::move(box));
  return out;
}

// Boxes of a flat range lie in it one after the other.
std::vector<std::pair<Box, Tensor>> parts_of(const OwnedMatrix& matrix,
                                             const OwnedMatrix::Holder& holder,
                                             const Tensor& flat) {
  const Parameter& p = *matrix.parameter;
  std::vector<std::pair<Box, Tensor>> out;
  int64_t at = 0;
  for (const LocalBox& local : local_boxes(p.meta.shard, p.meta.logical, holder.tp_index, p.tp_size,
                                           holder.range.begin, holder.range.end)) {
    const Box& of = local.logical;
    if (const auto box = intersect(of, matrix.matrix.box)) {
      Tensor part;
      if (flat.defined())
        part = box_view(flat.narrow(0, at, of.elements()).view(of.extent), *box, of.offset);
      out.emplace_back(*box, std::move(part));
    }
    at += of.elements();
  }
  return out;
}

std::map<const Parameter*, int> matrix_homes(const std::vector<MatrixLayer>& layers,
                                             const MatrixCost& cost, int ranks) {
  namespace md = matrix_owners_detail;
  std::vector<OwnerItem> items;
  std::vector<const Parameter*> of;
  for (const MatrixLayer& l : layers) {
    const LayerStrategy& s = l.strategy;
    if ((s.zero != 1 && s.zero != 2) || s.shard_count() == 1) continue;
    for (const Parameter* p : l.parameters) {
      const double all = matrix_cost(cost, p->meta);
      if (all == 0) continue;
      // Over tp the matrices are dealt out once more.
      OwnerItem item{.name = p->meta.name, .cost = all / s.tp, .elements = p->meta.elements()};
      for (int k = 0; k < s.shard_count(); ++k) {
        item.candidates.emplace_back();
        for (int t = 0; t < s.tp; ++t) {
          const std::vector<int> at = md::ranks_at(s, k, t);
          item.candidates.back().insert(item.candidates.back().end(), at.begin(), at.end());
        }
      }
      items.push_back(std::move(item));
      of.push_back(p);
    }
  }
  const std::vector<int> owners = assign_owners(items, ranks);
  std::map<const Parameter*, int> out;
  for (size_t i = 0; i < items.size(); ++i) out[of[i]] = owners[i];
  return out;
}

MatrixPlacement place_matrices(const std::vector<MatrixLayer>& layers, const MatrixCost& cost,
                               const MatrixSharing& sharing,
                               const std::map<const Parameter*, int>& homes,
                               const std::function<Range(const Parameter&, int shard)>& held,
                               int ranks, int rank) {
  namespace md = matrix_owners_detail;
  struct Place {
    int shard, tp;
  };
  MatrixPlacement out;
  std::vector<OwnerItem> items;
  std::vector<std::vector<Place>> places;
  std::vector<const LayerStrategy*> strategies;
  for (const MatrixLayer& l : layers) {
    const LayerStrategy& s = l.strategy;
    const int copy = rank / s.tp / s.shard_count();
    for (Parameter* p : l.parameters) {
      if (matrix_cost(cost, p->meta) == 0) continue;
      const auto home = homes.find(p);
      for (LogicalMatrix& m : logical_matrices(p->meta)) {
        OwnedMatrix matrix{.parameter = p, .matrix = m, .layer = l.layer};
        matrix.cost = cost(p->meta, m.rows, m.cols);
        OwnerItem item{.name = cat(p->meta.name, " ", m.index),
                       .cost = matrix.cost,
                       .elements = m.rows * m.cols};
        std::vector<Place> choices;
        // Where all of it may lie in one shard.
        const int at_home = home != homes.end() ? home->second : s.shard_count() == 1 ? 0 : -1;
        if (sharing && at_home >= 0) {
          std::vector<OwnedMatrix::Holder> slabs;
          for (int t = 0; t < s.tp; ++t)
            slabs.push_back({md::rank_of(s, copy, at_home, t), t, held(*p, at_home)});
          const int cut = md::slab_dim(matrix, slabs);
          const double each = cut < 0 ? 0 : sharing(p->meta, m.rows, m.cols, cut, s.tp);
          if (each > 0) {
            matrix.shared_dim = cut;
            matrix.holders = std::move(slabs);
            matrix.owners = s.tp;
            item.cost = each;
            item.candidates.emplace_back();
            for (int t = 0; t < s.tp; ++t) {
              const std::vector<int> at = md::ranks_at(s, at_home, t);
              item.candidates.back().insert(item.candidates.back().end(), at.begin(), at.end());
            }
            choices.push_back({at_home, 0});
          }
        }
        for (int k = 0; k < s.shard_count() && !matrix.shared(); ++k) {
          for (int t = 0; t < s.tp; ++t) {
            const OwnedMatrix::Holder holder{md::rank_of(s, copy, k, t), t, held(*p, k)};
            const int64_t mine = element_count(boxes_of(matrix, holder));
            if (mine > 0) matrix.holders.push_back(holder);
            if (home != homes.end() && home->second != k) continue;
            item.candidates.push_back(md::ranks_at(s, k, t));
            item.held.push_back(mine);
            choices.push_back({k, t});
          }
        }
        out.matrices.push_back(std::move(matrix));
        items.push_back(std::move(item));
        places.push_back(std::move(choices));
        strategies.push_back(&s);
      }
    }
  }
  const std::vector<int> owners = assign_owners(items, ranks);
  out.loads = owner_loads(items, owners, ranks);
  for (size_t i = 0; i < items.size(); ++i) {
    const Place& at = places[i][static_cast<size_t>(owners[i])];
    const LayerStrategy& s = *strategies[i];
    out.matrices[i].owner = md::rank_of(s, rank / s.tp / s.shard_count(), at.shard, at.tp);
  }
  std::stable_sort(out.matrices.begin(), out.matrices.end(),
                   [](const OwnedMatrix& a, const OwnedMatrix& b) { return a.cost > b.cost; });
  return out;
}

}  // namespace strata
