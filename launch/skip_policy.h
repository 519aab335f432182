#pragma once
// How many steps with a non-finite gradient are borne: such a step changes nothing, and too many
// end the run.
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace strata {

class SkipPolicy {
 public:
  static constexpr int64_t kInARow = 3, kWithin = 20, kWindow = 1000;

  explicit SkipPolicy(std::vector<int64_t> skipped = {}) : skipped_(std::move(skipped)) {}

  // Step `step` is done. false: the run must end.
  bool add(int64_t step, bool skipped);
  // Skipped steps within the last kWindow, for checkpoints.
  const std::vector<int64_t>& skipped() const noexcept { return skipped_; }

 private:
  std::vector<int64_t> skipped_;
};

inline bool SkipPolicy::add(int64_t step, bool skipped) {
  if (!skipped) return true;
  skipped_.push_back(step);
  while (skipped_.front() <= step - kWindow) skipped_.erase(skipped_.begin());
  int64_t in_a_row = 1;
  for (size_t i = skipped_.size(); i > 1 && skipped_[i - 1] == skipped_[i - 2] + 1; --i) ++in_a_row;
  return in_a_row < kInARow && static_cast<int64_t>(skipped_.size()) < kWithin;
}

}  // namespace strata
