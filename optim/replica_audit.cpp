#include "optim/replica_audit.h"

#include <algorithm>
#include <map>

#include "core/error.h"
#include "core/text.h"

namespace strata {
namespace replica_audit_detail {

// Whole weights under ZeRO 3 have memory only while their layer runs.
bool holds_memory(const Tensor& t) { return t.storage().data_ptr().get() != nullptr; }

std::string ranks_text(const std::vector<int>& ranks) {
  std::vector<std::string> words;
  for (const int rank : ranks) words.push_back(cat(rank));
  return cat(ranks.size() == 1 ? "rank " : "ranks ", join(words));
}

// "[0:64, 8:16]"
std::string box_text(const Box& box) {
  std::vector<std::string> dims;
  for (size_t d = 0; d < box.extent.size(); ++d)
    dims.push_back(cat(box.offset[d], ":", box.offset[d] + box.extent[d]));
  return cat("[", join(dims), "]");
}

ReplicaEntry entry_of(const std::string& name, const OwnedSlice& slice, const Tensor& flat) {
  ReplicaEntry out{name, 0};
  for_boxes(slice, flat, [&](const Box& box, const Tensor& part) {
    out.piece += ' ' + box_text(box);
    out.hash += element_hash(name, slice.parameter->meta.logical, box, part);
  });
  return out;
}

// One line per entry.
std::string packed(const std::vector<ReplicaEntry>& entries) {
  std::string out;
  for (const ReplicaEntry& e : entries) out += cat(e.hash, " ", e.piece, "\n");
  return out;
}

std::vector<ReplicaEntry> unpacked(const std::string& text) {
  std::vector<ReplicaEntry> out;
  for (size_t begin = 0; begin < text.size();) {
    const size_t space = text.find(' ', begin), end = text.find('\n', space);
    STRATA_CHECK(end != std::string::npos, "a list of replicas is cut short");
    out.push_back(
        {text.substr(space + 1, end - space - 1), std::stoull(text.substr(begin, space - begin))});
    begin = end + 1;
  }
  return out;
}

}  // namespace replica_audit_detail

std::optional<Drift> find_drift(const std::vector<std::vector<ReplicaEntry>>& by_rank) {
  struct Copy {
    uint64_t hash;
    int rank;
  };
  std::map<std::string, std::vector<Copy>> copies;
  std::vector<const std::string*> order;
  for (size_t rank = 0; rank < by_rank.size(); ++rank) {
    for (const ReplicaEntry& entry : by_rank[rank]) {
      const auto [at, fresh] = copies.try_emplace(entry.piece);
      if (fresh) order.push_back(&at->first);
      at->second.push_back({entry.hash, static_cast<int>(rank)});
    }
  }
  Drift out;
  for (const std::string* piece : order) {
    std::map<uint64_t, std::vector<int>> groups;
    for (const Copy& copy : copies.at(*piece)) groups[copy.hash].push_back(copy.rank);
    if (groups.size() == 1 || out.pieces++ > 0) continue;
    out.piece = *piece;
    for (auto& [hash, ranks] : groups) out.ranks.push_back(std::move(ranks));
    std::sort(out.ranks.begin(), out.ranks.end(), [](const auto& a, const auto& b) {
      return a.size() != b.size() ? a.size() > b.size() : a < b;
    });
  }
  if (out.pieces == 0) return std::nullopt;
  return out;
}

std::string Drift::text() const {
  using replica_audit_detail::ranks_text;
  std::vector<std::string> groups;
  std::vector<int> others;
  size_t holders = 0;
  for (const std::vector<int>& group : ranks) {
    groups.push_back(ranks_text(group));
    holders += group.size();
    if (&group != &ranks.front()) others.insert(others.end(), group.begin(), group.end());
  }
  std::sort(others.begin(), others.end());
  std::string out = cat("Copies of ", piece, " differ: ", join(groups, " | "), ". ");
  if (2 * ranks.front().size() > holders) {
    out += cat("Most copies agree: ", ranks_text(others),
               others.size() == 1 ? " has a wrong one. " : " have wrong ones. ");
  } else {
    out += "Which of them is right cannot be told. ";
  }
  if (pieces > 1) out += cat(pieces, " pieces of weights and optimizer state differ in all. ");
  return out + "Memory, a device or a transfer is at fault, or ranks compute differently.";
}

std::vector<ReplicaEntry> replica_entries(ParallelManager& model,
                                          const DistributedOptimizer& optimizer) {
  using namespace replica_audit_detail;
  std::vector<ReplicaEntry> out;
  for (Parameter* p : model.parameters()) {
    if (!holds_memory(p->value)) continue;
    const OwnedSlice whole{p, {0, p->value.numel()}, {}, {}, {}};
    out.push_back(entry_of(p->meta.name, whole, p->value.detach().view({-1})));
  }
  for (const OwnedSlice& slice : model.owned_slices()) {
    const Parameter& p = *slice.parameter;
    if (!holds_memory(p.value)) out.push_back(entry_of(p.meta.name, slice, slice.value));
  }
  // Boxes of a tensor follow each other.
  std::string last;
  optimizer.for_tensors([&](const OptimizerTensor& t) {
    if (t.in_model) return;  // seen above
    const std::string name = t.slot == "master" || t.global == t.meta->logical
                                 ? cat(t.slot, " of ", t.meta->name)
                                 : cat(t.slot, " of ", t.path);
    if (name != last) out.push_back({name, 0});
    last = name;
    out.back().piece += ' ' + box_text(t.box);
    out.back().hash += element_hash(name, t.global, t.box, t.values);
  });
  return out;
}

void check_replicas(ParallelManager& model, const DistributedOptimizer& optimizer) {
  using namespace replica_audit_detail;
  Communicator& job = model.pool().job();
  if (job.size() == 1) return;
  std::vector<std::vector<ReplicaEntry>> by_rank;
  for (const std::string& text : job.gather_bytes(packed(replica_entries(model, optimizer)), 0))
    by_rank.push_back(unpacked(text));
  std::string verdict;
  if (const auto drift = find_drift(by_rank)) verdict = drift->text();
  job.broadcast_bytes(verdict, 0);
  if (!verdict.empty()) throw DesyncError(verdict);
}

}  // namespace strata
