#include <ATen/ops/empty.h>

#include <algorithm>

#include "core/error.h"
#include "core/text.h"
#include "data/source_kinds.h"

namespace strata::datasets {
namespace token_rows_detail {

class TokenRows final : public DataSource {
 public:
  TokenRows(const DataConfig& config, Split split, uint64_t seed, TokenRange range,
            std::string description)
      : range_(std::move(range)),
        description_(std::move(description)),
        length_(config.sequence_length),
        vocab_size_(config.vocab_size > 0 ? config.vocab_size : range_.stream->vocab_size()),
        seed_(seed),
        shuffle_(config.shuffle && split == Split::Train),
        packed_(config.pack_documents) {
    const int64_t tokens = range_.end - range_.begin;
    if (tokens < length_ + 1) too_short(config, split, tokens);
    rows_ = (tokens - 1) / length_;
    if (packed_) {
      const auto outside = [&](int64_t end) { return end <= range_.begin || end > range_.end; };
      ends_ = std::move(range_.document_ends);
      ends_.erase(std::remove_if(ends_.begin(), ends_.end(), outside), ends_.end());
    }
    ContentHash hash;
    hash.add(std::string_view("token rows 1"));
    range_.stream->add_to(hash);
    for (int64_t value : {range_.begin, range_.end, length_, int64_t{shuffle_}, int64_t{packed_}}) {
      hash.add(static_cast<uint64_t>(value));
    }
    if (shuffle_) hash.add(seed_);
    if (packed_) {
      for (int64_t end : ends_) hash.add(static_cast<uint64_t>(end));
    }
    fingerprint_ = hash.hex();
  }

  int64_t rows_per_epoch() const override { return rows_; }
  int64_t row_length() const override { return length_; }
  int64_t vocab_size() const override { return vocab_size_; }
  std::string fingerprint() const override { return fingerprint_; }
  std::string description() const override {
    return cat(
        description_, ", ", with_thousands(range_.end - range_.begin), " tokens, ",
        with_thousands(rows_), " rows of ", length_, shuffle_ ? ", shuffled" : ", in order",
        packed_ ? cat(", ", with_thousands(static_cast<int64_t>(ends_.size())), " documents apart")
                : "");
  }

  Batch rows(int64_t begin, int64_t end) const override {
    STRATA_CHECK(0 <= begin && begin <= end, cat("samples [", begin, ", ", end, ")"));
    const int64_t count = end - begin;
    const auto options = at::TensorOptions().dtype(at::kLong);
    Batch out;
    out.tokens = at::empty({count, length_}, options);
    out.labels = at::empty({count, length_}, options);
    out.positions = default_positions(count, length_);
    if (packed_) out.segments = at::empty({count, length_}, at::TensorOptions().dtype(at::kInt));
    std::vector<int64_t> ids(static_cast<size_t>(length_ + 1));
    for (int64_t r = 0; r < count; ++r) {
      const int64_t first = range_.begin + row_of(begin + r) * length_;
      range_.stream->read(first, length_ + 1, ids.data());
      check_ids(*range_.stream, ids.data(), length_ + 1, first, vocab_size_);
      std::copy_n(ids.data(), length_, out.tokens.data_ptr<int64_t>() + r * length_);
      int64_t* labels = out.labels.data_ptr<int64_t>() + r * length_;
      std::copy_n(ids.data() + 1, length_, labels);
      if (packed_) {
        separate_documents(first, labels, out.positions.data_ptr<int64_t>() + r * length_,
                           out.segments.data_ptr<int32_t>() + r * length_);
      }
    }
    return out;
  }

 private:
  int64_t row_of(int64_t sample) const {
    const int64_t epoch = sample / rows_, index = sample % rows_;
    return shuffle_ ? KeyedPermutation(rows_, seed_, epoch)(index) : index;
  }

  // Segments number the documents of the row; positions restart with each; the last token of a
  // document has no label, because what follows belongs to another text.
  void separate_documents(int64_t first, int64_t* labels, int64_t* positions,
                          int32_t* segments) const {
    auto end = std::upper_bound(ends_.begin(), ends_.end(), first);
    int64_t start = first;
    int32_t segment = 0;
    for (int64_t t = 0; t < length_; ++t) {
      const int64_t place = first + t;
      if (end != ends_.end() && place == *end) {
        ++end;
        ++segment;
        start = place;
      }
      positions[t] = place - start;
      segments[t] = segment;
      if (end != ends_.end() && place + 1 == *end) labels[t] = kIgnoreLabel;
    }
  }

  [[noreturn]] void too_short(const DataConfig& config, Split split, int64_t tokens) const {
    std::string advice =
        cat("; set data.sequence_length to at most ", std::max<int64_t>(tokens - 1, 1));
    if (tokens < 2) advice = "";
    if (split == Split::Valid && config.valid_path.empty()) {
      const int64_t all = range_.stream->size();
      advice += cat(advice.empty() ? "; set" : " or set", " data.valid_path");
      if (length_ + 1 < all / 2 && range_.begin > 0) {
        advice += cat(" or raise data.valid_fraction to ",
                      number_text(std::min(0.5, 1.1 * (length_ + 1) / all)));
      }
    } else {
      advice += advice.empty() ? "; use more data" : " or use more data";
    }
    throw DataError(cat(range_.part, " holds ", tokens,
                        " tokens, but one row of data.sequence_length = ", length_, " needs ",
                        length_ + 1, advice));
  }

  TokenRange range_;
  std::string description_;
  int64_t length_, vocab_size_;
  uint64_t seed_;
  bool shuffle_, packed_;
  int64_t rows_ = 0;
  std::vector<int64_t> ends_;  // absolute places in the stream
  std::string fingerprint_;
};

}  // namespace token_rows_detail

std::unique_ptr<DataSource> make_token_rows(const DataConfig& config, Split split, uint64_t seed,
                                            TokenRange range, const std::string& description) {
  return std::make_unique<token_rows_detail::TokenRows>(config, split, seed, std::move(range),
                                                        description);
}

std::vector<int64_t> packed_document_ends(const DataConfig& config, const TokenStream& stream,
                                          int64_t default_end) {
  if (!config.pack_documents) return {};
  std::vector<int64_t> ends;
  int64_t id = config.document_end;
  if (id < 0) {
    ends = stream.document_ends();
    if (ends.empty()) id = default_end;
  }
  if (id >= 0) ends = scan_document_ends(stream, id);
  if (!ends.empty()) return ends;
  const std::string why =
      id >= 0 ? cat(" (id ", id, ", which ends documents, occurs nowhere in ", stream.name(), ")")
              : cat(" (", stream.name(),
                    " records no document borders; set data.document_end to the id that ends a "
                    "document, or prepare the data with a document separator)");
  throw ConfigError("data.pack_documents", "true", "false for data without document borders", why);
}

std::string with_thousands(int64_t number) {
  std::string out = std::to_string(number);
  for (int64_t at = static_cast<int64_t>(out.size()) - 3; at > (number < 0 ? 1 : 0); at -= 3) {
    out.insert(static_cast<size_t>(at), 1, ',');
  }
  return out;
}

const char* split_name(Split split) { return split == Split::Train ? "training" : "validation"; }

}  // namespace strata::datasets
