#include "data/encode.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>

#include "data/utf8.h"

namespace strata::datasets {
namespace encode_detail {

constexpr size_t kChunk = size_t{64} << 10, kLongest = size_t{1} << 20;

}  // namespace encode_detail

std::vector<std::string_view> encoding_chunks(std::string_view text) {
  using encode_detail::kChunk;
  using encode_detail::kLongest;
  std::vector<std::string_view> out;
  while (text.size() > kChunk) {
    size_t end = text.substr(0, kLongest).find('\n', kChunk);
    if (end != std::string_view::npos) {
      ++end;
    } else if (text.size() <= kLongest) {
      break;
    } else {
      // The last place up to kLongest where a code point starts.
      end = kLongest;
      while (end > kLongest - 3 && utf8::boundary_after(text, end) != end) --end;
    }
    out.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  if (!text.empty()) out.push_back(text);
  return out;
}

int thread_count(int requested) {
  if (requested > 0) return requested;
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

void parallel_tasks(int64_t count, int threads, const std::function<void(int64_t)>& task) {
  threads = static_cast<int>(std::min<int64_t>(thread_count(threads), count));
  if (threads <= 1) {
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  std::atomic<int64_t> next{0};
  std::mutex mutex;
  std::exception_ptr error;
  int64_t error_index = count;
  const auto work = [&] {
    for (int64_t i = next++; i < count; i = next++) {
      try {
        task(i);
      } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex);
        if (i < error_index) {
          error_index = i;
          error = std::current_exception();
        }
        // Lower indices have all been handed out; they finish and may still report.
        next = count;
      }
    }
  };
  std::vector<std::thread> helpers;
  for (int i = 1; i < threads; ++i) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
  if (error) std::rethrow_exception(error);
}

std::vector<int32_t> encode_parallel(const Tokenizer& tokenizer, std::string_view text,
                                     int threads) {
  const std::vector<std::string_view> chunks = encoding_chunks(text);
  std::vector<std::vector<int32_t>> parts(chunks.size());
  parallel_tasks(static_cast<int64_t>(chunks.size()), threads, [&](int64_t i) {
    parts[static_cast<size_t>(i)] = tokenizer.encode(chunks[static_cast<size_t>(i)]);
  });
  size_t total = 0;
  for (const auto& part : parts) total += part.size();
  std::vector<int32_t> out;
  out.reserve(total);
  for (auto& part : parts) {
    out.insert(out.end(), part.begin(), part.end());
    part = {};
  }
  return out;
}

}  // namespace strata::datasets
