#include "data/prefetch.h"

#include <atomic>
#include <chrono>
#include <thread>

#include "tests/data/rows.h"

namespace strata {
namespace {

using namespace data_test;

std::unique_ptr<DataSource> small_source() {
  DataConfig config;
  config.source = "copy";
  config.sequence_length = 16;
  return make_data_source(config, Split::Train, 4);
}

std::vector<Prefetcher::Request> two_parts(int64_t step) {
  return {{step * 8, step * 8 + 3}, {step * 8 + 5, step * 8 + 8}};
}

TEST(Prefetcher, GivesWhatTheSourceGives) {
  const auto source = small_source();
  for (int depth : {0, 1, 2, 9}) {
    Prefetcher prefetcher(*source, two_parts, 5, depth);
    for (int64_t step = 5; step < 40; ++step) {
      const std::vector<Batch> batches = prefetcher.next(step);
      ASSERT_EQ(batches.size(), 2u);
      expect_equal(batches[0], source->rows(step * 8, step * 8 + 3));
      expect_equal(batches[1], source->rows(step * 8 + 5, step * 8 + 8));
    }
  }
}

// A source whose rows take time or fail on purpose.
class Slow final : public DataSource {
 public:
  explicit Slow(int64_t fails_at, int delay_ms = 0)
      : inner_(small_source()), fails_at_(fails_at), delay_ms_(delay_ms) {}
  Batch rows(int64_t begin, int64_t end) const override {
    std::this_thread::sleep_for(std::chrono::milliseconds(delay_ms_));
    if (begin <= fails_at_ && fails_at_ < end)
      throw DataError("row " + std::to_string(fails_at_) + " is damaged");
    ++reads;
    return inner_->rows(begin, end);
  }
  int64_t rows_per_epoch() const override { return inner_->rows_per_epoch(); }
  int64_t row_length() const override { return inner_->row_length(); }
  int64_t vocab_size() const override { return inner_->vocab_size(); }
  std::string fingerprint() const override { return inner_->fingerprint(); }
  std::string description() const override { return inner_->description(); }
  mutable std::atomic<int> reads{0};

 private:
  std::unique_ptr<DataSource> inner_;
  int64_t fails_at_;
  int delay_ms_;
};

std::vector<Prefetcher::Request> one_row(int64_t step) { return {{step, step + 1}}; }

TEST(Prefetcher, AnErrorComesAtItsStepAndStays) {
  const Slow source(3);
  Prefetcher prefetcher(source, one_row, 0, 4);
  for (int64_t step = 0; step < 3; ++step) EXPECT_EQ(prefetcher.next(step).size(), 1u);
  for (int again = 0; again < 2; ++again) {
    EXPECT_EQ(message_of<DataError>([&] { prefetcher.next(3); }), "row 3 is damaged");
  }
}

// However long that takes on a busy machine.
void wait_for_reads(const Slow& source, int count) {
  while (source.reads < count) std::this_thread::sleep_for(std::chrono::milliseconds(2));
}

TEST(Prefetcher, ReadsAheadButNotFurtherThanItsDepth) {
  const Slow source(-1);
  Prefetcher prefetcher(source, one_row, 0, 3);
  wait_for_reads(source, 3);
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  EXPECT_EQ(source.reads, 3);
  prefetcher.next(0);
  wait_for_reads(source, 4);
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  EXPECT_EQ(source.reads, 4);
  EXPECT_THROW(prefetcher.next(5), InternalError);
}

TEST(Prefetcher, CountsTheTimeItWaited) {
  // A busy machine can delay this thread until the row is there: then it is tried again.
  double waited = 0;
  for (int trial = 0; trial < 100 && waited <= 0.03; ++trial) {
    const Slow source(-1, 40);
    Prefetcher prefetcher(source, one_row, 0, 1);
    prefetcher.next(0);
    waited = prefetcher.waited_s();
  }
  EXPECT_GT(waited, 0.03);
}

TEST(Prefetcher, DoesNotWaitForWhatIsReady) {
  const Slow source(-1, 10);
  Prefetcher prefetcher(source, one_row, 0, 3);
  wait_for_reads(source, 3);  // two rows at least are ready
  prefetcher.next(0);
  prefetcher.next(1);
  EXPECT_EQ(prefetcher.waited_s(), 0);
}

TEST(Prefetcher, EndsWhileReading) {
  const Slow source(-1, 20);
  for (int i = 0; i < 5; ++i) {
    Prefetcher prefetcher(source, one_row, 0, 50);
    if (i > 2) prefetcher.next(0);
  }
}

}  // namespace
}  // namespace strata
