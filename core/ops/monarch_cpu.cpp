#include "core/ops/monarch_cpu.h"

#include <ATen/ops/empty.h>

#include "core/ops/cpu_rows.h"
#include "core/ops/simd.h"

namespace strata::ops::monarch_cpu {

namespace monarch_cpu_detail {

template <class S>
struct Span {
  const S* from = nullptr;
  S* to = nullptr;
  int64_t rows = 0, members = 0, features = 0;  // features of a joined row
  int64_t groups = 0;
  int64_t plane = 0;  // elements from one group's matrix to the next
};

// G = 0: any number of groups.
template <int G, bool Split, class S>
[[gnu::always_inline]] inline void move_row(const S* from, S* to, const Span<S>& span) {
  const int64_t groups = G > 0 ? G : span.groups;
  const int64_t whole = Split ? span.members : span.features / groups;
  for (int64_t m = 0; m < whole; ++m) {
    for (int64_t g = 0; g < groups; ++g) {
      if constexpr (Split) {
        to[g * span.plane + m] = from[m * groups + g];
      } else {
        to[m * groups + g] = from[g * span.plane + m];
      }
    }
  }
  if constexpr (!Split) {
    for (int64_t g = 0; g < span.features - whole * groups; ++g)
      to[whole * groups + g] = from[g * span.plane + whole];
  }
}

template <bool Split>
struct Move {
  template <int Bytes, class S>
  [[gnu::always_inline]] static inline void run(const Span<S>& span) {
    const auto rows = [&](auto groups) __attribute__((always_inline)) {
      for (int64_t r = 0; r < span.rows; ++r) {
        const int64_t joined = r * span.features, split = r * span.members;
        move_row<decltype(groups)::value, Split>(span.from + (Split ? joined : split),
                                                 span.to + (Split ? split : joined), span);
      }
    };
    switch (span.groups) {
      case 2:
        return rows(std::integral_constant<int, 2>{});
      case 4:
        return rows(std::integral_constant<int, 4>{});
      case 8:
        return rows(std::integral_constant<int, 8>{});
      default:
        return rows(std::integral_constant<int, 0>{});
    }
  }
};

template <bool Split>
void move(const Tensor& from, const Tensor& to, int64_t rows, int64_t members, int64_t features,
          int64_t groups) {
  with_types(from, [&]<class S, class A>(S, A) {
    for_blocks(rows, rows_per_block(features), [&](int64_t, int64_t begin, int64_t end) {
      Span<S> span;
      span.rows = end - begin;
      span.members = members;
      span.features = features;
      span.groups = groups;
      span.plane = rows * members;
      span.from = from.const_data_ptr<S>() + begin * (Split ? features : members);
      span.to = to.mutable_data_ptr<S>() + begin * (Split ? members : features);
      simd::run<Move<Split>>(span);
    });
  });
}

}  // namespace monarch_cpu_detail

Tensor split_groups(const Tensor& x_NF, int64_t groups) {
  const Tensor x = x_NF.contiguous();
  const int64_t rows = x.size(0), members = x.size(1) / groups;
  Tensor out = at::empty({groups, rows, members}, x.options());
  monarch_cpu_detail::move<true>(x, out, rows, members, x.size(1), groups);
  return out;
}

Tensor join_groups(const Tensor& x_GNM, int64_t features) {
  const Tensor x = x_GNM.contiguous();
  Tensor out = at::empty({x.size(1), features}, x.options());
  monarch_cpu_detail::move<false>(x, out, x.size(1), x.size(2), features, x.size(0));
  return out;
}

}  // namespace strata::ops::monarch_cpu
