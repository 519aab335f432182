#pragma once
// How a logical tensor is cut over the tensor axis. owned_ranges is the only place that knows:
// initialisation, checkpoints, optimizers, converters and tests all call it.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/range.h"
#include "core/tensor_fwd.h"

namespace strata {

struct ShardSpec {
  static constexpr int kReplicated = -1;
  static constexpr int kAutomatic = -2;  // not declared: the library decides (auto_split.h)
  int dim = kReplicated;                 // logical dimension cut
  int64_t unit = 1;  // every part is a whole number of units (a head, a block, a quantisation tile)
  std::vector<int64_t>
      segments;  // logical lengths of fused parts along dim, each cut by itself; empty: one part
  // Vocabulary rule: rank r owns [r*c, (r+1)*c) of the extent n, c = unit * ceil(n / (unit *
  // count)); the last ranks may own less or nothing. Nothing is padded.
  bool ragged = false;
  // Fewer units (of a segment) than parts: each unit is held by parts / units consecutive ranks
  // (key/value heads under a larger tp). Segments have equally many units then.
  bool replicate = false;

  bool cut() const noexcept { return dim >= 0; }
  bool operator==(const ShardSpec&) const = default;
};
ShardSpec replicated();
// Of a linear's weight only: cut by the rules of auto_split.h, its output in units of `unit`
// features (a head) and segment by segment. After Module::collect() no such spec is left.
ShardSpec automatic(int64_t unit = 1, std::vector<int64_t> segments = {});
ShardSpec split_out(int64_t unit = 1);                             // rows of a [out, in] weight
ShardSpec split_out(int64_t unit, std::vector<int64_t> segments);  // fused rows (q, k, v)
ShardSpec split_or_replicate(int64_t unit);  // rows; fewer units than ranks are replicated
ShardSpec split_in(int64_t unit = 1);        // columns of a [out, in] weight
ShardSpec split(int dim, int64_t unit = 1);
ShardSpec split_vocabulary(int64_t unit);  // rows, ragged

// Ranges of spec.dim owned by part `index` of `count`, in local order; one covering everything when
// not cut.
std::vector<Range> owned_ranges(const ShardSpec& spec, const Shape& logical, int index, int count);
Shape local_shape(const ShardSpec& spec, const Shape& logical, int index, int count);
// Number of consecutive parts that hold the same elements: `count` when not cut, usually 1 when
// cut.
int replicas(const ShardSpec& spec, const Shape& logical, int count);
// "" when `count` parts are possible, else why not: "has 4 units of 128".
std::string why_not_divisible(const ShardSpec& spec, const Shape& logical, int count);

// A hyper-rectangle of a logical tensor.
struct Box {
  std::vector<int64_t> offset, extent;
  int64_t elements() const noexcept;
  bool operator==(const Box&) const = default;
  auto operator<=>(const Box&) const = default;
};
Box whole_box(const Shape& shape);
std::optional<Box> intersect(const Box& a, const Box& b);  // empty when they share no element
int64_t element_count(const std::vector<Box>& boxes);
// The box of a logical tensor in `values`, which holds it from index `origin` on (all of it, when
// empty): a view.
Tensor box_view(Tensor values, const Box& box, const std::vector<int64_t>& origin = {});

// A logical box together with where its elements lie in a local tensor: element (i, j, ...) of the
// box is element local_offset + (i, j, ...) of the local tensor of shape local_shape().
struct LocalBox {
  Box logical;
  std::vector<int64_t> local_offset;
};
// The local part as boxes: one per owned range.
std::vector<LocalBox> local_boxes(const ShardSpec& spec, const Shape& logical, int index,
                                  int count);
// The same for the flat range [begin, end) of the local part (a ZeRO slice), in the order in which
// they lie there, one after the other: at most 2 * (dims - 1) + 1 boxes a range, or for several
// ranges of an inner dimension so many for each index before it.
std::vector<LocalBox> local_boxes(const ShardSpec& spec, const Shape& logical, int index, int count,
                                  int64_t begin, int64_t end);

// This rank's part of a logical tensor (a copy where it must be, a view where it can be).
Tensor take_part(const Tensor& logical, const ShardSpec& spec, int index, int count);

}  // namespace strata
