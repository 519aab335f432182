#pragma once
// Several ways to do the same thing, timed in turns so that whatever disturbs the machine disturbs
// all of them; medians, in milliseconds.
#include <algorithm>
#include <chrono>
#include <functional>
#include <vector>

namespace strata::bench {

using Way = std::function<void()>;

inline std::vector<double> side_by_side(const std::vector<Way>& ways, int rounds = 15) {
  std::vector<std::vector<double>> times(ways.size());
  for (int round = -1; round < rounds; ++round) {  // the first is not counted
    for (size_t i = 0; i < ways.size(); ++i) {
      const auto begin = std::chrono::steady_clock::now();
      ways[i]();
      const std::chrono::duration<double, std::milli> took =
          std::chrono::steady_clock::now() - begin;
      if (round >= 0) times[i].push_back(took.count());
    }
  }
  std::vector<double> medians;
  for (auto& t : times) {
    std::sort(t.begin(), t.end());
    medians.push_back(t[t.size() / 2]);
  }
  return medians;
}

}  // namespace strata::bench
