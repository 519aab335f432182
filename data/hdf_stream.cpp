#include <algorithm>

#include "core/error.h"
#include "core/io/hdf5.h"
#include "core/text.h"
#include "data/token_stream.h"

namespace strata::datasets {
namespace hdf_stream_detail {

constexpr int64_t kSlab = int64_t{1} << 22;  // ids read at a time

// Full name of a data set called `name` at the root, "" when there is none.
std::string find_dataset(const io::HdfFile& file, const std::string& name) {
  for (const std::string& path : file.datasets()) {
    if (path == name || path == cat('/', name)) return path;
  }
  return "";
}

int64_t checked_length(const io::HdfFile& file, const std::string& path,
                       const std::string& dataset) {
  const Shape shape = file.shape(dataset);
  if (shape.size() != 1) {
    throw DataError(cat(path, ": data set \"", dataset, "\" has shape ", shape_text(shape),
                        ", allowed: one dimension; flatten it when writing"));
  }
  const at::ScalarType dtype = file.dtype(dataset);
  if (!c10::isIntegralType(dtype, /*includeBool=*/false)) {
    throw DataError(cat(path, ": data set \"", dataset, "\" has elements of type ",
                        dtype_name(dtype), ", allowed: integers"));
  }
  return shape[0];
}

// Calls each(values, count, first) with int64 values.
template <class Each>
void for_slabs(const io::HdfFile& file, const std::string& dataset, int64_t length,
               const Each& each) {
  for (int64_t begin = 0; begin < length; begin += kSlab) {
    const int64_t count = std::min(kSlab, length - begin);
    const Tensor slab = file.read_slab(dataset, {begin}, {count}).to(at::kLong).contiguous();
    each(slab.const_data_ptr<int64_t>(), count, begin);
  }
}

std::unique_ptr<TokenStream> read_set(const std::string& path) {
  const io::HdfFile file(path, io::HdfFile::Mode::Read);
  const std::string tokens = find_dataset(file, "tokens");
  if (tokens.empty()) {
    throw DataError(
        cat(path, ": has no data set \"tokens\" (found: ",
            file.datasets().empty() ? "none" : join(file.datasets()),
            "); token sets hold one-dimensional \"tokens\" and optional \"document_ends\""));
  }
  const int64_t length = checked_length(file, path, tokens);
  if (length == 0) throw DataError(cat(path, ": data set \"", tokens, "\" is empty"));

  // One pass for the largest id, which decides how wide ids are held, and one to fetch them.
  int64_t largest = 0;
  for_slabs(file, tokens, length, [&](const int64_t* ids, int64_t count, int64_t first) {
    for (int64_t i = 0; i < count; ++i) {
      if (ids[i] < 0 || ids[i] >= (int64_t{1} << 31)) {
        throw DataError(
            cat(path, ", token ", first + i, ": id ", ids[i], ", allowed: 0..2147483647"));
      }
      largest = std::max(largest, ids[i]);
    }
  });
  auto stream = std::make_unique<MemoryStream>(path, 0, largest);
  const std::string ends = find_dataset(file, "document_ends");
  const int64_t documents = ends.empty() ? 0 : checked_length(file, path, ends);
  std::vector<int64_t> borders;
  for_slabs(file, ends, documents, [&](const int64_t* values, int64_t count, int64_t first) {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t before = borders.empty() ? 0 : borders.back();
      if (values[i] <= before || values[i] > length) {
        throw DataError(cat(path, ": document_ends[", first + i, "] = ", values[i],
                            ", allowed: more than ", before, " and at most ", length,
                            " (exclusive ends in increasing order)"));
      }
      borders.push_back(values[i]);
    }
  });
  if (!borders.empty() && borders.back() != length) borders.push_back(length);
  size_t next = 0;
  for_slabs(file, tokens, length, [&](const int64_t* ids, int64_t count, int64_t first) {
    for (int64_t done = 0; done < count;) {
      int64_t step = count - done;
      if (next < borders.size()) step = std::min(step, borders[next] - first - done);
      stream->append(ids + done, step);
      done += step;
      if (next < borders.size() && first + done == borders[next]) {
        stream->end_document();
        ++next;
      }
    }
  });
  return stream;
}

}  // namespace hdf_stream_detail

std::unique_ptr<TokenStream> make_hdf_stream(const std::string& path) {
  const InputFile file(path);
  const std::string head = file.head(8);
  if (!starts_with(head, std::string_view("\x89HDF\r\n\x1a\n", 8))) {
    throw DataError(cat(path, ": not an HDF5 file: starts with ", hex_bytes(head, 8),
                        "; for token files use data.source = tokens, for text data.source = text"));
  }
  try {
    return hdf_stream_detail::read_set(path);
  } catch (const CheckpointError& error) {
    throw DataError(
        cat(path, ": cannot be read as HDF5: ", error.what(), "; copy or write the file again"));
  } catch (const StorageError& error) {
    throw DataError(cat(path, ": cannot be read as HDF5: ", error.what()));
  }
}

}  // namespace strata::datasets
