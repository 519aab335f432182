#pragma once
// Batches as plain vectors.
#include <vector>

#include "data/source.h"
#include "tests/data/files.h"

namespace strata::data_test {

template <class T>
std::vector<T> values(const Tensor& tensor) {
  const Tensor flat = tensor.contiguous();
  return {flat.const_data_ptr<T>(), flat.const_data_ptr<T>() + flat.numel()};
}
inline std::vector<int64_t> ids(const Tensor& tensor) { return values<int64_t>(tensor); }

inline void expect_equal(const Batch& a, const Batch& b) {
  EXPECT_EQ(ids(a.tokens), ids(b.tokens));
  EXPECT_EQ(ids(a.labels), ids(b.labels));
  EXPECT_EQ(ids(a.positions), ids(b.positions));
  ASSERT_EQ(a.segments.defined(), b.segments.defined());
  if (a.segments.defined()) {
    EXPECT_EQ(values<int32_t>(a.segments), values<int32_t>(b.segments));
  }
}

// Any way of asking for rows gives the same rows: at once, one by one, in another order, from
// another source object.
inline void expect_pure(const DataConfig& config, Split split, uint64_t seed, int64_t begin,
                        int64_t end) {
  const auto source = make_data_source(config, split, seed),
             twin = make_data_source(config, split, seed);
  EXPECT_EQ(source->fingerprint(), twin->fingerprint());
  EXPECT_EQ(source->fingerprint().size(), 16u);
  const Batch all = source->rows(begin, end);
  EXPECT_EQ(all.rows(), end - begin);
  EXPECT_EQ(all.length(), source->row_length());
  for (int64_t row = end - 1; row >= begin; --row) {
    expect_equal(twin->rows(row, row + 1), all.slice(row - begin, row - begin + 1));
  }
  for (int64_t part = begin; part < end; part += 3) {
    const int64_t stop = std::min(part + 3, end);
    expect_equal(source->rows(part, stop), all.slice(part - begin, stop - begin));
  }
  expect_equal(source->rows(begin, end), all);
  EXPECT_EQ(source->rows(begin, begin).rows(), 0);
}

}  // namespace strata::data_test
