#include "parallel/checkpoint/assignment.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>
#include <tuple>
#include <utility>

#include "core/error.h"
#include "core/text.h"
#include "parallel/checkpoint/format.h"
#include "parallel/checkpoint/tiling.h"

namespace strata::checkpoint_detail {
namespace assignment_detail {

void put(std::string& out, int64_t value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

struct Cursor {
  std::string_view rest;
  int64_t number() {
    STRATA_CHECK(rest.size() >= sizeof(int64_t), "checkpoint offers are truncated");
    int64_t value;
    std::memcpy(&value, rest.data(), sizeof(value));
    rest.remove_prefix(sizeof(value));
    return value;
  }
  std::vector<int64_t> numbers(int64_t count) {
    std::vector<int64_t> out;
    for (int64_t i = 0; i < count; ++i) out.push_back(number());
    return out;
  }
};

// One distinct box and who holds it.
struct Candidate {
  const Offer* offer = nullptr;
  std::vector<std::pair<int, size_t>> holders;  // (rank, index of its offer), by rank
  int64_t bytes = 0;
};

struct Part {
  const Candidate* candidate = nullptr;
  Box box;
  int64_t bytes = 0;
};

// Equal slices of axis 0 with at most `limit` bytes each, never less than a row.
void cut(const Candidate& candidate, int64_t limit, std::vector<Part>& out) {
  const Box& box = candidate.offer->box;
  const int64_t rows = box.extent.empty() ? 1 : box.extent[0];
  const int64_t wanted = candidate.bytes <= limit ? 1 : (candidate.bytes + limit - 1) / limit;
  const int64_t parts = std::max<int64_t>(1, std::min(rows, wanted));
  for (int64_t i = 0; i < parts; ++i) {
    Part part{&candidate, box, candidate.bytes};
    if (parts > 1) {
      // The first rows % parts slices have one row more.
      const int64_t begin = rows / parts * i + std::min(i, rows % parts);
      const int64_t end = begin + rows / parts + (i < rows % parts ? 1 : 0);
      part.box.offset[0] = box.offset[0] + begin;
      part.box.extent[0] = end - begin;
      part.bytes = candidate.bytes / rows * (end - begin);
    }
    out.push_back(std::move(part));
  }
}

// Boxes with one holder load it; the others follow, largest first.
Assignment distribute(const std::vector<Candidate>& candidates, int ranks, int64_t max_piece,
                      int64_t replicated_piece) {
  std::vector<Part> fixed, free;
  for (const Candidate& candidate : candidates) {
    if (candidate.holders.size() == 1) {
      cut(candidate, max_piece, fixed);
    } else {
      cut(candidate, std::min(max_piece, replicated_piece), free);
    }
  }
  std::stable_sort(free.begin(), free.end(),
                   [](const Part& a, const Part& b) { return a.bytes > b.bytes; });
  Assignment out;
  out.tasks.resize(static_cast<size_t>(ranks));
  out.bytes.assign(static_cast<size_t>(ranks), 0);
  const auto give = [&](const Part& part, const std::pair<int, size_t>& holder) {
    const auto rank = static_cast<size_t>(holder.first);
    out.tasks[rank].push_back({holder.first, holder.second, part.box, part.bytes});
    out.bytes[rank] += part.bytes;
  };
  for (const Part& part : fixed) give(part, part.candidate->holders[0]);
  for (const Part& part : free) {
    const auto& holders = part.candidate->holders;
    give(part, *std::min_element(holders.begin(), holders.end(), [&](const auto& a, const auto& b) {
           return out.bytes[static_cast<size_t>(a.first)] < out.bytes[static_cast<size_t>(b.first)];
         }));
  }
  return out;
}

double unevenness(const Assignment& assignment) {
  const int64_t total =
      std::accumulate(assignment.bytes.begin(), assignment.bytes.end(), int64_t{0});
  const int64_t most = *std::max_element(assignment.bytes.begin(), assignment.bytes.end());
  if (total == 0) return 1;
  return static_cast<double>(most) * static_cast<double>(assignment.bytes.size()) /
         static_cast<double>(total);
}

// Distinct boxes in order of path and box; checks that ranks agree and that the boxes tile each
// tensor.
std::vector<Candidate> gather(const std::vector<std::vector<Offer>>& offers) {
  std::map<std::pair<std::string_view, Box>, Candidate> boxes;
  std::map<std::string_view, const Offer*> first;
  for (size_t rank = 0; rank < offers.size(); ++rank) {
    for (size_t i = 0; i < offers[rank].size(); ++i) {
      const Offer& offer = offers[rank][i];
      const Offer& known = *first.try_emplace(offer.path, &offer).first->second;
      STRATA_CHECK(known.dtype == offer.dtype && known.global == offer.global,
                   cat("checkpoint: ranks disagree on ", offer.path, ": ", dtype_name(known.dtype),
                       " ", shape_text(known.global), " and, on rank ", rank, ", ",
                       dtype_name(offer.dtype), " ", shape_text(offer.global)));
      // Empty boxes are how a rank says that it owns nothing; an empty tensor keeps one.
      if (element_count(offer.box.extent) == 0 && element_count(offer.global) != 0) continue;
      Candidate& candidate = boxes[{offer.path, offer.box}];
      if (candidate.offer == nullptr) {
        candidate.offer = &offer;
        candidate.bytes = box_bytes(offer.box.extent, offer.dtype);
      }
      // A rank may offer one box twice (two names of the same data): the first is enough.
      if (candidate.holders.empty() || candidate.holders.back().first != static_cast<int>(rank)) {
        candidate.holders.emplace_back(static_cast<int>(rank), i);
      }
    }
  }
  std::map<std::string_view, std::vector<const Box*>> by_tensor;
  for (const auto& [path, offer] : first) by_tensor[path];
  std::vector<Candidate> out;
  for (auto& [key, candidate] : boxes) {
    by_tensor[key.first].push_back(&candidate.offer->box);
    out.push_back(std::move(candidate));
  }
  for (const auto& [path, parts] : by_tensor) {
    const std::string why = why_not_tiled(first[path]->global, parts);
    STRATA_CHECK(why.empty(),
                 cat("checkpoint: tensor ", path, " ", shape_text(first[path]->global), ": ", why));
  }
  return out;
}

}  // namespace assignment_detail

std::string encode_offers(const std::vector<Offer>& offers) {
  using assignment_detail::put;
  std::string out;
  put(out, static_cast<int64_t>(offers.size()));
  for (const Offer& offer : offers) {
    put(out, static_cast<int64_t>(offer.path.size()));
    out += offer.path;
    put(out, static_cast<int64_t>(offer.dtype));
    put(out, static_cast<int64_t>(offer.global.size()));
    for (const auto* list : {&offer.global, &offer.box.offset, &offer.box.extent}) {
      for (const int64_t value : *list) put(out, value);
    }
  }
  return out;
}

std::vector<Offer> decode_offers(std::string_view bytes) {
  assignment_detail::Cursor cursor{bytes};
  std::vector<Offer> offers(static_cast<size_t>(cursor.number()));
  for (Offer& offer : offers) {
    const auto length = static_cast<size_t>(cursor.number());
    STRATA_CHECK(cursor.rest.size() >= length, "checkpoint offers are truncated");
    offer.path = cursor.rest.substr(0, length);
    cursor.rest.remove_prefix(length);
    offer.dtype = static_cast<at::ScalarType>(cursor.number());
    const int64_t axes = cursor.number();
    offer.global = cursor.numbers(axes);
    offer.box.offset = cursor.numbers(axes);
    offer.box.extent = cursor.numbers(axes);
  }
  return offers;
}

Assignment assign(const std::vector<std::vector<Offer>>& offers, int64_t max_piece) {
  constexpr double kGoal = 1.05;
  constexpr int64_t kSmallest = 64 << 10;
  const std::vector<assignment_detail::Candidate> candidates = assignment_detail::gather(offers);
  const int ranks = static_cast<int>(offers.size());
  Assignment best = assignment_detail::distribute(candidates, ranks, max_piece, max_piece);
  // A replicated box larger than a rank's fair share can only be shared by cutting it.
  const int64_t total = std::accumulate(best.bytes.begin(), best.bytes.end(), int64_t{0});
  int64_t piece = total / ranks / 4;
  for (; assignment_detail::unevenness(best) > kGoal && piece >= kSmallest; piece /= 4) {
    Assignment finer = assignment_detail::distribute(candidates, ranks, max_piece, piece);
    if (assignment_detail::unevenness(finer) < assignment_detail::unevenness(best))
      best = std::move(finer);
  }
  for (std::vector<Task>& tasks : best.tasks) {
    std::sort(tasks.begin(), tasks.end(), [&](const Task& a, const Task& b) {
      const Offer& left = offers[static_cast<size_t>(a.rank)][a.offer];
      const Offer& right = offers[static_cast<size_t>(b.rank)][b.offer];
      return std::tie(left.path, a.box) < std::tie(right.path, b.box);
    });
  }
  return best;
}

}  // namespace strata::checkpoint_detail
