#include "parallel/nn/logical_matrix.h"

#include "core/error.h"
#include "core/text.h"

namespace strata {
namespace logical_matrix_detail {

LogicalMatrix matrix_of(int64_t index, Box box, size_t row_dim) {
  LogicalMatrix out{.index = index, .rows = box.extent[row_dim], .cols = 1, .box = std::move(box)};
  for (size_t d = row_dim + 1; d < out.box.extent.size(); ++d) out.cols *= out.box.extent[d];
  return out;
}

}  // namespace logical_matrix_detail

std::vector<LogicalMatrix> logical_matrices(const ParamMeta& meta) {
  using logical_matrix_detail::matrix_of;
  const Shape& shape = meta.logical;
  if (shape.empty()) return {};
  const Box whole = whole_box(shape);
  if (shape.size() == 1) return {{.index = 0, .rows = 1, .cols = shape[0], .box = whole}};
  std::vector<LogicalMatrix> out;
  if (meta.view == MatrixView::Batch && shape.size() > 2) {
    for (int64_t i = 0; i < shape[0]; ++i) {
      Box box = whole;
      box.offset[0] = i;
      box.extent[0] = 1;
      out.push_back(matrix_of(i, std::move(box), 1));
    }
  } else if (meta.view == MatrixView::Segments && meta.matrix_rows.size() > 1) {
    int64_t at = 0;
    for (const int64_t length : meta.matrix_rows) {
      Box box = whole;
      box.offset[0] = at;
      box.extent[0] = length;
      out.push_back(matrix_of(static_cast<int64_t>(out.size()), std::move(box), 0));
      at += length;
    }
    STRATA_CHECK(at == shape[0], cat(meta.name, ": its matrices have ", at, " rows together"));
  } else {
    out.push_back(matrix_of(0, whole, 0));
  }
  return out;
}

}  // namespace strata
