#include <algorithm>

#include "core/error.h"
#include "core/rng.h"
#include "core/text.h"
#include "data/source_kinds.h"

namespace strata::datasets {
namespace masked_source_detail {

// Token t of sample g draws the four words 4 * (g * T + t) + 0..3 of one stream, so a mask never
// depends on how rows are grouped; each epoch hides other tokens. Of the chosen tokens 80 % become
// the mask id, 10 % a random id, 10 % stay. Validation samples repeat the masks of the first epoch.
class MaskedSource final : public DataSource {
 public:
  MaskedSource(const DataConfig& config, Split split, uint64_t seed,
               std::unique_ptr<DataSource> source)
      : source_(std::move(source)),
        split_(split),
        fraction_(config.mask_fraction),
        mask_(config.mask_token >= 0 ? config.mask_token : source_->vocab_size() - 1),
        rng_(seed, "data", split == Split::Train ? "mask/train" : "mask/valid") {
    if (mask_ >= source_->vocab_size()) {
      throw ConfigError("data.mask_token", cat(mask_), cat("-1..", source_->vocab_size() - 1),
                        cat(" (the vocabulary has ", source_->vocab_size(), " ids)"));
    }
    ContentHash hash;
    hash.add(std::string_view("masked 1")).add(std::string_view(source_->fingerprint()));
    hash.add(std::string_view(number_text(fraction_))).add(static_cast<uint64_t>(mask_)).add(seed);
    fingerprint_ = hash.hex();
  }
  int64_t rows_per_epoch() const override { return source_->rows_per_epoch(); }
  int64_t row_length() const override { return source_->row_length(); }
  int64_t vocab_size() const override { return source_->vocab_size(); }
  std::string fingerprint() const override { return fingerprint_; }
  std::string description() const override {
    return cat(source_->description(), ", ", number_text(100 * fraction_),
               " % of the tokens hidden as id ", mask_);
  }
  Batch rows(int64_t begin, int64_t end) const override {
    Batch out = source_->rows(begin, end);
    const auto chosen = static_cast<uint64_t>(fraction_ * 4294967296.0);
    const int64_t length = row_length();
    int64_t* tokens = out.tokens.data_ptr<int64_t>();
    int64_t* labels = out.labels.data_ptr<int64_t>();
    for (int64_t row = begin; row < end; ++row) {
      const int64_t number = split_ == Split::Valid ? row % rows_per_epoch() : row;
      for (int64_t t = 0; t < length; ++t, ++tokens, ++labels) {
        const auto element = 4 * static_cast<uint64_t>(number * length + t);
        *labels = kIgnoreLabel;
        if (rng_.word(element) >= chosen) continue;
        *labels = *tokens;
        const uint64_t way = (uint64_t{rng_.word(element + 1)} * 10) >> 32;
        if (way < 8) *tokens = mask_;
        if (way == 8) {
          *tokens = static_cast<int64_t>(
              (uint64_t{rng_.word(element + 2)} * static_cast<uint64_t>(vocab_size())) >> 32);
        }
      }
    }
    return out;
  }

 private:
  std::unique_ptr<DataSource> source_;
  Split split_;
  double fraction_;
  int64_t mask_;
  Rng rng_;
  std::string fingerprint_;
};

}  // namespace masked_source_detail

std::unique_ptr<DataSource> make_masked_source(const DataConfig& config, Split split, uint64_t seed,
                                               std::unique_ptr<DataSource> source) {
  return std::make_unique<masked_source_detail::MaskedSource>(config, split, seed,
                                                              std::move(source));
}

}  // namespace strata::datasets
