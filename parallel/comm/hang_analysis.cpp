#include <algorithm>
#include <map>
#include <set>

#include "core/text.h"
#include "parallel/comm/op_log.h"

namespace strata {
namespace hang_analysis_detail {

enum class Verdict { Unknown, No, Yes };

std::string ranks_text(const std::vector<int>& ranks) {
  std::vector<std::string> parts;
  for (const int r : ranks) parts.push_back(std::to_string(r));
  return (ranks.size() == 1 ? "rank " : "ranks ") + join(parts);
}

std::string name_of(const OpRecord& r) {
  std::string text = r.op;
  if (!r.reduce.empty()) text += " " + r.reduce;
  text += cat(" #", r.sequence, " on ", r.communicator);
  std::vector<std::string> details;
  if (!r.dtype.empty()) details.push_back(cat(r.dtype, " x ", r.count));
  if (r.op == "exchange") details.push_back(bytes_text(static_cast<double>(r.bytes)));
  if (!r.site.empty()) details.push_back(r.site);
  if (!r.phase.empty()) details.push_back(r.phase);
  if (r.step >= 0) details.push_back(cat("step ", r.step));
  if (r.microbatch >= 0) details.push_back(cat("micro-batch ", r.microbatch));
  return details.empty() ? text : text + " (" + join(details) + ")";
}

// What makes two operations the same in two repetitions of a step.
std::string key_of(const OpRecord& r) {
  return cat(r.op, "|", r.reduce, "|", r.dtype, "|", r.count, "|", r.site);
}

struct Edge {
  int from, to;
  std::string reason;
};

class Analysis {
 public:
  explicit Analysis(const std::vector<FlightRecord>& ranks) {
    for (const FlightRecord& f : ranks) {
      by_rank_[f.rank] = &f;
      world_ = std::max(world_, f.world);
      auto& keys = keys_[f.rank];
      for (const OpRecord& r : f.records) keys.push_back(key_of(r));
    }
  }

  std::string report() {
    for (const auto& [rank, flight] : by_rank_) add_waits(*flight);
    find_culprits();
    return text();
  }

 private:
  using Records = std::vector<OpRecord>;

  const Records& records(int rank) const {
    static const Records none;
    const auto found = by_rank_.find(rank);
    return found == by_rank_.end() ? none : found->second->records;
  }
  static bool same_group(const OpRecord& a, const OpRecord& b) {
    return a.communicator == b.communicator && a.members == b.members;
  }
  static bool collective(const OpRecord& r) { return r.op != "exchange"; }

  // This rank's record of the collective that `other` is about; null: it has none.
  const OpRecord* find(int rank, const OpRecord& other) const {
    for (const OpRecord& r : records(rank)) {
      if (collective(r) && same_group(r, other) && r.sequence == other.sequence) return &r;
    }
    return nullptr;
  }
  uint64_t last_posted(int rank, const OpRecord& other) const {
    uint64_t last = 0;
    for (const OpRecord& r : records(rank)) {
      if (collective(r) && same_group(r, other)) last = std::max(last, r.sequence);
    }
    return last;
  }

  // A process that waits for anything drives all it has posted.
  bool waits(int rank) const {
    const Records& all = records(rank);
    return std::any_of(all.begin(), all.end(),
                       [](const OpRecord& r) { return !r.done && r.waiting; });
  }

  void add_waits(const FlightRecord& flight) {
    for (const OpRecord& r : flight.records) {
      if (r.done || !r.waiting) continue;
      if (collective(r)) {
        add_collective_waits(flight.rank, r);
      } else {
        add_exchange_waits(flight.rank, r);
      }
    }
  }

  void add_collective_waits(int rank, const OpRecord& r) {
    bool missing = false;
    for (const int m : r.members) {
      if (m == rank || last_posted(m, r) >= r.sequence) continue;
      missing = true;
      edges_.push_back({rank, m, cat("rank ", m, " has not posted ", name_of(r))});
    }
    if (missing) return;
    // Everybody came. Do they run the same operation?
    std::map<uint64_t, std::vector<int>> groups;
    for (const int m : r.members) {
      if (const OpRecord* theirs = find(m, r)) groups[theirs->signature].push_back(m);
    }
    if (groups.size() > 1) {
      const std::set<int> guilty = deviating(r, groups);
      if (guilty.count(rank) > 0 && guilty.size() < r.members.size())
        return;  // others wait for it, not it for them
      for (const int m : r.members) {
        const OpRecord* theirs = find(m, r);
        if (m == rank || !theirs || theirs->signature == r.signature || guilty.count(m) == 0)
          continue;
        edges_.push_back(
            {rank, m,
             cat("rank ", m, " posted ", name_of(*theirs), " where rank ", rank, " posted ",
                 name_of(r), ": one of them skipped, repeated or reordered a collective")});
      }
      return;
    }
    bool absent = false;
    for (const int m : r.members) {
      const OpRecord* theirs = find(m, r);
      if (m == rank || !theirs || theirs->done || waits(m)) continue;
      absent = true;
      edges_.push_back(
          {rank, m, cat("rank ", m, " posted ", name_of(r), " but is not working on it")});
    }
    if (!absent)
      stuck_.push_back(
          cat("all members of ", name_of(r), " wait for it: a network or device problem"));
  }

  void add_exchange_waits(int rank, const OpRecord& r) {
    if (r.peer < 0 || r.peer >= static_cast<int>(r.members.size())) return;
    const int other = r.members[r.peer];
    const auto me = std::find(r.members.begin(), r.members.end(), rank);
    const int my_index = static_cast<int>(me - r.members.begin());
    uint64_t total = 0;
    bool open = false;
    for (const OpRecord& t : records(other)) {
      if (collective(t) || !same_group(t, r) || t.peer != my_index || t.receive == r.receive)
        continue;
      total = std::max(total, t.signature);
      open = open || !t.done;
    }
    if (total < r.signature) {
      edges_.push_back({rank, other,
                        cat("rank ", other,
                            r.receive ? " has not sent what rank " : " has not received what rank ",
                            rank, r.receive ? " receives in " : " sends in ", name_of(r))});
    } else if (open && !waits(other)) {
      edges_.push_back(
          {rank, other,
           cat("rank ", other, " posted its side of ", name_of(r), " but is not working on it")});
    }
  }

  // Which members issued the wrong one of several operations: those whose own history, or other
  // ranks', went on differently; else the smaller side; else all.
  std::set<int> deviating(const OpRecord& r,
                          const std::map<uint64_t, std::vector<int>>& groups) const {
    std::set<int> guilty;
    size_t members = 0, largest = 0, sides_of_largest = 0;
    for (const auto& [signature, ranks] : groups) {
      members += ranks.size();
      if (ranks.size() > largest) {
        largest = ranks.size();
        sides_of_largest = 0;
      }
      if (ranks.size() == largest) ++sides_of_largest;
      for (const int m : ranks) {
        const OpRecord* theirs = find(m, r);
        if (deviates(m, *theirs) == Verdict::Yes) guilty.insert(m);
      }
    }
    if (!guilty.empty() && guilty.size() < members) return guilty;
    guilty.clear();
    for (const auto& [signature, ranks] : groups) {
      if (sides_of_largest == 1 && ranks.size() == largest) continue;
      guilty.insert(ranks.begin(), ranks.end());
    }
    return guilty;
  }

  // Does this record break the pattern of the operations before it, as seen in earlier steps of the
  // same rank, or in other ranks when it has none? The longest matching context decides.
  Verdict deviates(int rank, const OpRecord& record) const {
    const std::vector<std::string>& own = keys_.at(rank);
    const size_t at = static_cast<size_t>(&record - records(rank).data());
    std::string expected;
    if (predict(own, at, own, at, expected))
      return expected == own[at] ? Verdict::No : Verdict::Yes;
    size_t agree = 0, differ = 0;
    for (const auto& [other, keys] : keys_) {
      if (other == rank || !predict(own, at, keys, keys.size(), expected)) continue;
      ++(expected == own[at] ? agree : differ);
    }
    if (agree == differ) return Verdict::Unknown;
    return agree > differ ? Verdict::No : Verdict::Yes;
  }

  // What followed in history[0, end) after the same operations as before own[at].
  static bool predict(const std::vector<std::string>& own, size_t at,
                      const std::vector<std::string>& history, size_t end, std::string& expected) {
    constexpr size_t kContext = 12;
    for (size_t length = std::min(kContext, at); length > 0; --length) {
      for (size_t j = end; j-- > length;) {
        if (std::equal(own.begin() + static_cast<std::ptrdiff_t>(at - length),
                       own.begin() + static_cast<std::ptrdiff_t>(at),
                       history.begin() + static_cast<std::ptrdiff_t>(j - length))) {
          expected = history[j];
          return true;
        }
      }
    }
    return false;
  }

  // Ranks that others wait for and that wait for nobody; of a circle of ranks, the one that left
  // the usual order.
  void find_culprits() {
    std::map<int, std::set<int>> reach;
    for (const Edge& e : edges_) {
      reach[e.from].insert(e.to);
      reach[e.to];
    }
    for (bool grown = true; grown;) {
      grown = false;
      for (auto& [from, to] : reach) {
        const size_t before = to.size();
        for (const int middle : std::set<int>(to))
          to.insert(reach[middle].begin(), reach[middle].end());
        grown = grown || to.size() != before;
      }
    }
    std::set<int> guilty;
    for (const auto& [rank, to] : reach) {
      if (to.empty()) {
        guilty.insert(rank);
        continue;
      }
      // A sink component: everything reachable from here leads back here.
      const bool sink = std::all_of(to.begin(), to.end(),
                                    [&, r = rank](int other) { return reach[other].count(r) > 0; });
      if (!sink || *to.begin() != rank) continue;  // each circle once, by its lowest rank
      deadlock_ = true;
      std::set<int> out_of_order;
      for (const int member : to) {
        for (const OpRecord& r : records(member)) {
          if (r.done || !r.waiting) continue;
          if (deviates(member, r) == Verdict::Yes) out_of_order.insert(member);
          break;
        }
      }
      const bool decided = !out_of_order.empty() && out_of_order.size() < to.size();
      guilty.insert(decided ? out_of_order.begin() : to.begin(),
                    decided ? out_of_order.end() : to.end());
    }
    culprits_.assign(guilty.begin(), guilty.end());
  }

  std::string text() const {
    std::string out;
    if (culprits_.empty()) {
      out = stuck_.empty() ? "culprit: unknown (no rank waits for another)\n"
                           : "culprit: unknown (" + stuck_.front() + ")\n";
    } else {
      out = cat(culprits_.size() == 1 ? "culprit: " : "culprits: ", ranks_text(culprits_));
      if (deadlock_)
        out += culprits_.size() == 1 ? " (deadlock: other order)"
                                     : " (deadlock: they wait for each other)";
      out += "\n";
    }
    std::set<std::string> said;
    for (const Edge& e : edges_) {
      if (std::find(culprits_.begin(), culprits_.end(), e.to) == culprits_.end() ||
          !said.insert(e.reason).second)
        continue;
      out += "  " + e.reason + "\n";
    }
    std::set<int> waiting;
    for (const Edge& e : edges_) waiting.insert(e.from);
    if (!waiting.empty()) {
      out += "waiting: " + ranks_text(std::vector<int>(waiting.begin(), waiting.end())) + "\n";
    }
    for (const auto& [rank, flight] : by_rank_) out += rank_line(*flight);
    std::vector<int> silent;
    for (int rank = 0; rank < world_ && silent.size() < 16; ++rank) {
      if (by_rank_.count(rank) == 0) silent.push_back(rank);
    }
    const int silent_count = world_ - static_cast<int>(by_rank_.size());
    if (!silent.empty()) {
      out +=
          ranks_text(silent) +
          (silent_count > static_cast<int>(silent.size()) ? cat(" ... (", silent_count, " in all)")
                                                          : "") +
          ": no flight record\n";
    }
    return out;
  }

  static std::string rank_line(const FlightRecord& f) {
    std::string out = cat("rank ", f.rank);
    if (f.pid != 0) out += cat(" (", f.host.empty() ? "" : f.host + ", ", "pid ", f.pid, ")");
    out += cat(": phase ", f.phase.empty() ? "unknown" : f.phase);
    if (f.step >= 0) out += cat(", step ", f.step);
    out += cat(", heard of ", duration_text(f.heartbeat_age_s), " ago");
    const OpRecord* pending = nullptr;
    for (const OpRecord& r : f.records) {
      if (!r.done && !pending) pending = &r;
    }
    if (pending) {
      out += cat("; ", pending->waiting ? "waits in " : "has open ", name_of(*pending), " for ",
                 duration_text(pending->age_s));
    } else if (!f.records.empty()) {
      out += cat("; last completed ", name_of(f.records.back()));
    }
    return out + "\n";
  }

  int world_ = 1;
  std::map<int, const FlightRecord*> by_rank_;
  std::map<int, std::vector<std::string>> keys_;
  std::vector<Edge> edges_;
  std::vector<std::string> stuck_;
  std::vector<int> culprits_;
  bool deadlock_ = false;
};

}  // namespace hang_analysis_detail

std::string analyse_hang(const std::vector<FlightRecord>& ranks) {
  return hang_analysis_detail::Analysis(ranks).report();
}

}  // namespace strata
