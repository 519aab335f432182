#include "optim/rules/each_piece.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <vector>

// MKL's, which LibTorch's wheel for x86 contains; null elsewhere.
extern "C" __attribute__((weak)) int MKL_Set_Num_Threads_Local(int threads);

namespace strata {
namespace each_piece_detail {

// One thread for LAPACK as well, in this scope and on this thread. LibTorch tells MKL to use as
// many as itself whatever it is called from, and MKL's QR then waits for the others of its team for
// ever: a region within a region has one thread.
class OneThreadOfMkl {
 public:
  OneThreadOfMkl()
      : before_(MKL_Set_Num_Threads_Local != nullptr ? MKL_Set_Num_Threads_Local(1) : 0) {}
  ~OneThreadOfMkl() {
    if (MKL_Set_Num_Threads_Local != nullptr) MKL_Set_Num_Threads_Local(before_);
  }
  OneThreadOfMkl(const OneThreadOfMkl&) = delete;
  OneThreadOfMkl& operator=(const OneThreadOfMkl&) = delete;

 private:
  int before_;
};

}  // namespace each_piece_detail

void for_each_piece(std::span<Piece> pieces, const UpdateRule& rule, Threads kind,
                    const std::function<void(Piece&)>& update) {
  const int threads = at::get_num_threads();
  const bool cpu = std::all_of(pieces.begin(), pieces.end(),
                               [](const Piece& piece) { return piece.weights.is_cpu(); });
  const bool few = pieces.size() < 2 * static_cast<size_t>(threads);
  if (!cpu || threads == 1 || (few && kind == Threads::Any)) {
    for (Piece& piece : pieces) update(piece);
    return;
  }
  const auto cost = [&](size_t i) {
    const Tensor& w = pieces[i].weights;
    return w.dim() == 2 ? rule.cost(w.size(0), w.size(1)) : static_cast<double>(w.numel());
  };
  std::vector<size_t> order(pieces.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return cost(a) > cost(b); });
  std::atomic<size_t> next = 0;
  // All threads take part, even with nothing to do: libraries called within then use one.
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    const each_piece_detail::OneThreadOfMkl one;
    for (int64_t thread = begin; thread < end; ++thread) {
      for (size_t i = next++; i < order.size(); i = next++) update(pieces[order[i]]);
    }
  });
}

void for_shared_batches(std::span<Piece> pieces,
                        const std::function<void(std::span<Piece>)>& update) {
  constexpr int64_t kElements = int64_t{1} << 26;
  for (size_t begin = 0; begin < pieces.size();) {
    size_t end = begin;
    for (int64_t elements = 0; end < pieces.size() && elements < kElements; ++end)
      elements += pieces[end].whole[0] * pieces[end].whole[1];
    update(pieces.subspan(begin, end - begin));
    begin = end;
  }
}

}  // namespace strata
