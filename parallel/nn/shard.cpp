#include "parallel/nn/shard.h"

#include <ATen/ops/cat.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "core/tensor.h"
#include "core/text.h"

namespace strata {

ShardSpec replicated() { return {}; }
ShardSpec automatic(int64_t unit, std::vector<int64_t> segments) {
  return {.dim = ShardSpec::kAutomatic, .unit = unit, .segments = std::move(segments)};
}
ShardSpec split_out(int64_t unit) { return {.dim = 0, .unit = unit}; }
ShardSpec split_out(int64_t unit, std::vector<int64_t> segments) {
  return {.dim = 0, .unit = unit, .segments = std::move(segments)};
}
ShardSpec split_or_replicate(int64_t unit) { return {.dim = 0, .unit = unit, .replicate = true}; }
ShardSpec split_in(int64_t unit) { return {.dim = 1, .unit = unit}; }
ShardSpec split(int dim, int64_t unit) { return {.dim = dim, .unit = unit}; }
ShardSpec split_vocabulary(int64_t unit) { return {.dim = 0, .unit = unit, .ragged = true}; }

namespace shard_detail {

std::vector<int64_t> segments_of(const ShardSpec& spec, const Shape& logical) {
  const int64_t extent = logical.at(spec.dim);
  if (spec.segments.empty()) return {extent};
  const int64_t total = std::accumulate(spec.segments.begin(), spec.segments.end(), int64_t{0});
  STRATA_CHECK(total == extent, cat("segments add up to ", total, ", dimension has ", extent));
  return spec.segments;
}

// Boxes of the flat range [begin, end) of a tensor of this shape, largest blocks first come as they
// lie in memory.
void flat_boxes(const Shape& shape, size_t dim, int64_t begin, int64_t end, Box& prefix,
                std::vector<Box>& out) {
  if (begin >= end) return;
  if (dim == shape.size()) {
    out.push_back(prefix);
    return;
  }
  int64_t stride = 1;
  for (size_t d = dim + 1; d < shape.size(); ++d) stride *= shape[d];
  auto emit = [&](int64_t first, int64_t count) {
    Box box = prefix;
    box.offset.push_back(first);
    box.extent.push_back(count);
    for (size_t d = dim + 1; d < shape.size(); ++d) {
      box.offset.push_back(0);
      box.extent.push_back(shape[d]);
    }
    out.push_back(std::move(box));
  };
  auto descend = [&](int64_t index, int64_t from, int64_t to) {
    Box inner = prefix;
    inner.offset.push_back(index);
    inner.extent.push_back(1);
    flat_boxes(shape, dim + 1, from, to, inner, out);
  };
  int64_t first = begin / stride, last = end / stride;
  if (begin % stride != 0) {
    descend(first, begin % stride, std::min(stride, end - first * stride));
    ++first;
  }
  if (first < last) emit(first, last - first);
  if (end % stride != 0 && last >= first) descend(last, 0, end % stride);
}

// The boxes cut so that each has one index in every dimension before `dim`; in the same order.
std::vector<Box> single_indices(const std::vector<Box>& boxes, int dim) {
  std::vector<Box> out = boxes;
  for (size_t d = 0; d < static_cast<size_t>(dim); ++d) {
    std::vector<Box> finer;
    for (const Box& box : out) {
      for (int64_t i = 0; i < box.extent[d]; ++i) {
        finer.push_back(box);
        finer.back().offset[d] += i;
        finer.back().extent[d] = 1;
      }
    }
    out = std::move(finer);
  }
  return out;
}

}  // namespace shard_detail

std::string why_not_divisible(const ShardSpec& spec, const Shape& logical, int count) {
  if (!spec.cut() || count == 1 || spec.ragged) return {};
  for (int64_t extent : shard_detail::segments_of(spec, logical)) {
    if (extent % spec.unit != 0)
      return cat("has extent ", extent, ", not a whole number of units of ", spec.unit);
    const int64_t units = extent / spec.unit;
    if (units % count != 0 && !(spec.replicate && count % units == 0)) {
      return cat("has ", units, units == 1 ? " unit of " : " units of ", spec.unit);
    }
  }
  return {};
}

int replicas(const ShardSpec& spec, const Shape& logical, int count) {
  if (!spec.cut()) return count;
  if (!spec.replicate) return 1;
  const int64_t units = shard_detail::segments_of(spec, logical).front() / spec.unit;
  return units > 0 && units < count ? static_cast<int>(count / units) : 1;
}

std::vector<Range> owned_ranges(const ShardSpec& spec, const Shape& logical, int index, int count) {
  STRATA_CHECK(index >= 0 && index < count, cat("part ", index, " of ", count));
  if (!spec.cut()) return {{0, logical.empty() ? 1 : logical[0]}};
  const int64_t extent = logical.at(spec.dim);
  if (spec.ragged) {
    const int64_t blocks = (extent + spec.unit * count - 1) / (spec.unit * count);
    const int64_t chunk = spec.unit * blocks;
    return {{std::min(extent, index * chunk), std::min(extent, (index + 1) * chunk)}};
  }
  const std::string why = why_not_divisible(spec, logical, count);
  STRATA_CHECK(why.empty(),
               cat("dimension ", spec.dim, " ", why, ", cannot be cut ", count, " ways"));
  const int copies = replicas(spec, logical, count);
  const int64_t own = index / copies, parts = count / copies;
  std::vector<Range> out;
  int64_t start = 0;
  for (int64_t segment : shard_detail::segments_of(spec, logical)) {
    const int64_t part = segment / parts;
    out.push_back({start + own * part, start + (own + 1) * part});
    start += segment;
  }
  return out;
}

Shape local_shape(const ShardSpec& spec, const Shape& logical, int index, int count) {
  Shape out = logical;
  if (!spec.cut()) return out;
  out[spec.dim] = 0;
  for (const Range& r : owned_ranges(spec, logical, index, count)) out[spec.dim] += r.size();
  return out;
}

int64_t Box::elements() const noexcept {
  return std::accumulate(extent.begin(), extent.end(), int64_t{1}, std::multiplies<>());
}

std::vector<LocalBox> local_boxes(const ShardSpec& spec, const Shape& logical, int index,
                                  int count) {
  std::vector<LocalBox> out;
  if (!spec.cut()) {
    out.push_back({{std::vector<int64_t>(logical.size(), 0), logical},
                   std::vector<int64_t>(logical.size(), 0)});
    return out;
  }
  int64_t at = 0;
  for (const Range& r : owned_ranges(spec, logical, index, count)) {
    LocalBox box{{std::vector<int64_t>(logical.size(), 0), logical},
                 std::vector<int64_t>(logical.size(), 0)};
    box.logical.offset[spec.dim] = r.begin;
    box.logical.extent[spec.dim] = r.size();
    box.local_offset[spec.dim] = at;
    at += r.size();
    if (box.logical.elements() > 0) out.push_back(std::move(box));
  }
  return out;
}

std::vector<LocalBox> local_boxes(const ShardSpec& spec, const Shape& logical, int index, int count,
                                  int64_t begin, int64_t end) {
  const Shape shape = local_shape(spec, logical, index, count);
  const std::vector<LocalBox> wholes = local_boxes(spec, logical, index, count);
  std::vector<Box> flat;
  Box prefix;
  shard_detail::flat_boxes(shape, 0, begin, end, prefix, flat);
  // Several ranges of an inner dimension alternate in memory: one piece for each leading index.
  if (wholes.size() > 1) flat = shard_detail::single_indices(flat, spec.dim);
  std::vector<LocalBox> out;
  for (const Box& piece : flat) {
    for (const LocalBox& whole : wholes) {
      LocalBox hit = whole;
      bool empty = false;
      for (size_t d = 0; d < shape.size(); ++d) {
        const int64_t low = std::max(piece.offset[d], whole.local_offset[d]);
        const int64_t high = std::min(piece.offset[d] + piece.extent[d],
                                      whole.local_offset[d] + whole.logical.extent[d]);
        if (low >= high) empty = true;
        hit.local_offset[d] = low;
        hit.logical.offset[d] = whole.logical.offset[d] + low - whole.local_offset[d];
        hit.logical.extent[d] = high - low;
      }
      if (!empty) out.push_back(std::move(hit));
    }
  }
  return out;
}

Tensor take_part(const Tensor& logical, const ShardSpec& spec, int index, int count) {
  if (!spec.cut() || count == 1) return logical;
  const Shape shape = logical.sizes().vec();
  std::vector<Tensor> parts;
  for (const Range& r : owned_ranges(spec, shape, index, count)) {
    parts.push_back(logical.narrow(spec.dim, r.begin, r.size()));
  }
  return parts.size() == 1 ? parts[0] : at::cat(parts, spec.dim);
}

Box whole_box(const Shape& shape) {
  return {std::vector<int64_t>(shape.size(), 0), {shape.begin(), shape.end()}};
}

std::optional<Box> intersect(const Box& a, const Box& b) {
  Box out;
  for (size_t i = 0; i < a.offset.size(); ++i) {
    const int64_t begin = std::max(a.offset[i], b.offset[i]);
    const int64_t end = std::min(a.offset[i] + a.extent[i], b.offset[i] + b.extent[i]);
    if (begin >= end) return std::nullopt;
    out.offset.push_back(begin);
    out.extent.push_back(end - begin);
  }
  return out;
}

int64_t element_count(const std::vector<Box>& boxes) {
  int64_t sum = 0;
  for (const Box& box : boxes) sum += box.elements();
  return sum;
}

Tensor box_view(Tensor values, const Box& box, const std::vector<int64_t>& origin) {
  for (size_t d = 0; d < box.extent.size(); ++d) {
    const int64_t begin = box.offset[d] - (origin.empty() ? 0 : origin[d]);
    values = values.narrow(static_cast<int64_t>(d), begin, box.extent[d]);
  }
  return values;
}

}  // namespace strata
