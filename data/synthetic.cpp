// Tasks whose answer is known, one row per sample number: nothing is stored and no row is used
// twice. They show whether a layer can do what its family claims (recall: look up; parity, s3, a5,
// s5: keep a state; copy: remember in order).
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "core/error.h"
#include "core/rng.h"
#include "core/text.h"
#include "data/source_kinds.h"

namespace strata::datasets {
namespace synthetic_detail {

// Draws of one row.
class Draws {
 public:
  Draws(uint64_t seed, const std::string& name) : rng_(seed, "data", name) {}
  int64_t below(int64_t limit) {
    return static_cast<int64_t>(
        (static_cast<uint64_t>(rng_.word(next_++)) * static_cast<uint64_t>(limit)) >> 32);
  }
  // `count` different numbers in [0, limit), in random order.
  std::vector<int64_t> distinct(int64_t count, int64_t limit) {
    std::vector<int64_t> all(static_cast<size_t>(limit));
    std::iota(all.begin(), all.end(), 0);
    for (int64_t i = 0; i < count; ++i) std::swap(all[i], all[i + below(limit - i)]);
    all.resize(static_cast<size_t>(count));
    return all;
  }

 private:
  Rng rng_;
  uint64_t next_ = 0;
};

class SyntheticSource : public DataSource {
 public:
  SyntheticSource(const DataConfig& config, Split split, uint64_t seed, int64_t default_vocab)
      : length_(config.sequence_length),
        vocab_size_(config.vocab_size > 0 ? config.vocab_size : default_vocab),
        split_(split),
        seed_(seed),
        rows_(config.rows) {
    if (split == Split::Valid) {
      rows_ = std::max<int64_t>(
          1, static_cast<int64_t>(static_cast<double>(rows_) * config.valid_fraction));
    }
  }
  int64_t rows_per_epoch() const final { return rows_; }
  int64_t row_length() const final { return length_; }
  int64_t vocab_size() const final { return vocab_size_; }
  std::string fingerprint() const final {
    ContentHash hash;
    hash.add(std::string_view("synthetic 1")).add(std::string_view(task()));
    for (int64_t value : {length_, vocab_size_, int64_t{split_ == Split::Valid}, detail()}) {
      hash.add(static_cast<uint64_t>(value));
    }
    return hash.add(seed_).hex();
  }
  std::string description() const final {
    return cat(split_name(split_), " task ", task(), ", vocabulary ", vocab_size_, ", rows of ",
               length_, " drawn as needed (", with_thousands(rows_), " count as an epoch)");
  }
  Batch rows(int64_t begin, int64_t end) const final {
    STRATA_CHECK(0 <= begin && begin <= end, cat("samples [", begin, ", ", end, ")"));
    const auto options = at::TensorOptions().dtype(at::kLong);
    Batch out;
    out.tokens = at::empty({end - begin, length_}, options);
    out.labels = at::full({end - begin, length_}, kIgnoreLabel, options);
    out.positions = default_positions(end - begin, length_);
    for (int64_t row = begin; row < end; ++row) {
      // Validation rows are the same in every epoch, training rows never come back.
      const int64_t number = split_ == Split::Valid ? row % rows_ : row;
      Draws draws(seed_, cat(task(), split_ == Split::Valid ? "/valid/" : "/train/", number));
      const int64_t at = (row - begin) * length_;
      fill(draws, out.tokens.data_ptr<int64_t>() + at, out.labels.data_ptr<int64_t>() + at);
    }
    return out;
  }

 protected:
  virtual const char* task() const = 0;
  virtual int64_t detail() const { return 0; }  // further settings that change rows
  // tokens[0..T) must all be written; labels start as kIgnoreLabel.
  virtual void fill(Draws& draws, int64_t* tokens, int64_t* labels) const = 0;

  int64_t length_, vocab_size_;
  Split split_;
  uint64_t seed_;
  int64_t rows_;
};

// Multi-query associative recall: P pairs key value key value ..., then the keys once more in
// random places among id 0; the label of such a key is its value, nothing else has a label. Keys
// are ids 1..h-1, values h..V-1, h = V/2.
class Recall final : public SyntheticSource {
 public:
  Recall(const DataConfig& config, Split split, uint64_t seed)
      : SyntheticSource(config, split, seed, 64) {
    const int64_t keys = vocab_size_ / 2 - 1, most = std::min(length_ / 3, keys);
    if (most < 1) {
      throw ConfigError(keys < 1 ? "model.vocab_size" : "data.sequence_length",
                        cat(keys < 1 ? vocab_size_ : length_),
                        keys < 1 ? "at least 4" : "at least 3", " (data.source = recall)");
    }
    pairs_ = config.pairs > 0 ? config.pairs : std::clamp<int64_t>(length_ / 4, 1, most);
    if (pairs_ > most) {
      throw ConfigError("data.pairs", cat(pairs_), cat("1..", most),
                        cat(" (a row of ", length_, " holds at most ", length_ / 3,
                            " pairs and their questions; a "
                            "vocabulary of ",
                            vocab_size_, " has ", keys, " keys)"));
    }
  }

 private:
  const char* task() const override { return "recall"; }
  int64_t detail() const override { return pairs_; }
  void fill(Draws& draws, int64_t* tokens, int64_t* labels) const override {
    const int64_t half = vocab_size_ / 2, facts = 2 * pairs_;
    const std::vector<int64_t> keys = draws.distinct(pairs_, half - 1);
    std::fill_n(tokens, length_, 0);
    for (int64_t i = 0; i < pairs_; ++i) {
      tokens[2 * i] = 1 + keys[static_cast<size_t>(i)];
      tokens[2 * i + 1] = half + draws.below(vocab_size_ - half);
    }
    const std::vector<int64_t> places = draws.distinct(pairs_, length_ - facts);
    for (int64_t i = 0; i < pairs_; ++i) {
      const int64_t place = facts + places[static_cast<size_t>(i)];
      tokens[place] = tokens[2 * i];
      labels[place] = tokens[2 * i + 1];
    }
  }

  int64_t pairs_ = 0;
};

// L = T/2 random ids (1..V-1), id 0, then the same ids again; labels from id 0 on are the ids to
// come.
class Copy final : public SyntheticSource {
 public:
  Copy(const DataConfig& config, Split split, uint64_t seed)
      : SyntheticSource(config, split, seed, 16) {
    if (vocab_size_ < 2 || length_ < 2) {
      throw ConfigError(vocab_size_ < 2 ? "model.vocab_size" : "data.sequence_length",
                        cat(vocab_size_ < 2 ? vocab_size_ : length_), "at least 2",
                        " (data.source = copy)");
    }
  }

 private:
  const char* task() const override { return "copy"; }
  void fill(Draws& draws, int64_t* tokens, int64_t* labels) const override {
    const int64_t half = length_ / 2;
    for (int64_t i = 0; i < half; ++i) tokens[i] = 1 + draws.below(vocab_size_ - 1);
    tokens[half] = 0;
    for (int64_t i = half + 1; i < length_; ++i) tokens[i] = tokens[i - half - 1];
    for (int64_t i = half; i < length_ && i - half < half; ++i) labels[i] = tokens[i - half];
  }
};

enum class Parity { All, Even };

// Permutations of n things in lexicographic order, all or the even ones, and their products.
class Group {
 public:
  Group(int n, Parity parity) : odd_(parity == Parity::All) {
    std::vector<int> p(static_cast<size_t>(n));
    std::iota(p.begin(), p.end(), 0);
    do {
      int inversions = 0;
      for (int i = 0; i < n; ++i) {
        for (int j = i + 1; j < n; ++j) inversions += p[i] > p[j];
      }
      if (parity == Parity::All || inversions % 2 == 0) elements_.push_back(p);
    } while (std::next_permutation(p.begin(), p.end()));
    std::vector<int> product(static_cast<size_t>(n));
    for (const auto& a : elements_) {
      for (const auto& b : elements_) {
        for (int i = 0; i < n; ++i) product[i] = a[b[i]];
        products_.push_back(number(product));
      }
    }
  }
  int64_t size() const { return static_cast<int64_t>(elements_.size()); }
  // What makes all others: the identity, the turn of all things by one (of an odd number, or in a
  // group with odd permutations), a swap of the first two or, among even ones, a turn of the first
  // three, and their inverses; sorted.
  std::vector<int64_t> generators() const {
    const size_t n = elements_[0].size();
    std::set<int64_t> out{0};
    for (const size_t turned : {n, n == 2 || odd_ ? size_t{2} : size_t{3}}) {
      std::vector<int> turn = elements_[0];
      std::rotate(turn.begin(), turn.begin() + 1, turn.begin() + static_cast<int64_t>(turned));
      const int64_t a = number(turn);
      out.insert(a);
      for (int64_t b = 0; b < size(); ++b) {
        if (product(a, b) == 0) out.insert(b);
      }
    }
    return {out.begin(), out.end()};
  }
  // a after b: first b, then a.
  int64_t product(int64_t a, int64_t b) const {
    return products_[static_cast<size_t>(a * size() + b)];
  }

 private:
  int64_t number(const std::vector<int>& permutation) const {
    return std::lower_bound(elements_.begin(), elements_.end(), permutation) - elements_.begin();
  }
  bool odd_;
  std::vector<std::vector<int>> elements_;
  std::vector<int64_t> products_;
};

// Words over a group: tokens g_1 g_2 ... g_T drawn evenly from data.letters, the label at t is the
// state g_t ... g_2 g_1 (g_1 acts first). Element 0 is the identity.
class GroupWords final : public SyntheticSource {
 public:
  GroupWords(const char* task, int n, Parity parity, const DataConfig& config, Split split,
             uint64_t seed)
      : SyntheticSource(config, split, seed, 0), task_(task), group_(n, parity) {
    if (vocab_size_ == 0) vocab_size_ = group_.size();
    if (vocab_size_ < group_.size()) {
      throw ConfigError("model.vocab_size", cat(vocab_size_), cat("at least ", group_.size()),
                        cat(" (data.source = ", task_, " has one id per group element)"));
    }
    if (config.letters == "generators") {
      letters_ = group_.generators();
    } else {
      letters_.resize(static_cast<size_t>(group_.size()));
      std::iota(letters_.begin(), letters_.end(), 0);
    }
  }

 private:
  const char* task() const override { return task_; }
  int64_t detail() const override {
    return std::ssize(letters_) == group_.size() ? 0 : std::ssize(letters_);
  }
  void fill(Draws& draws, int64_t* tokens, int64_t* labels) const override {
    int64_t state = 0;
    for (int64_t t = 0; t < length_; ++t) {
      tokens[t] = letters_[static_cast<size_t>(draws.below(std::ssize(letters_)))];
      state = group_.product(tokens[t], state);
      labels[t] = state;
    }
  }

  const char* task_;
  Group group_;
  std::vector<int64_t> letters_;
};

SourceRegistry::Make group_words(const char* task, int n, Parity parity) {
  return [=](const DataConfig& config, Split split, uint64_t seed) {
    return std::make_unique<GroupWords>(task, n, parity, config, split, seed);
  };
}

}  // namespace synthetic_detail

void register_synthetic_sources(SourceRegistry& registry) {
  using namespace synthetic_detail;
  registry.add("recall", [](const DataConfig& config, Split split, uint64_t seed) {
    return std::make_unique<Recall>(config, split, seed);
  });
  registry.add("copy", [](const DataConfig& config, Split split, uint64_t seed) {
    return std::make_unique<Copy>(config, split, seed);
  });
  registry.add("parity", group_words("parity", 2, Parity::All));
  registry.add("s3", group_words("s3", 3, Parity::All));
  registry.add("a5", group_words("a5", 5, Parity::Even));
  registry.add("s5", group_words("s5", 5, Parity::All));
}

}  // namespace strata::datasets
