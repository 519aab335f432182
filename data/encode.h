#pragma once
// Tokenising long texts on several threads so that the result never depends on how many there are.
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"

namespace strata::datasets {

// Cuts a long text after the first line end beyond 64 KiB of each piece (without one within 1 MiB,
// between two code points there). Pieces are encoded on their own, whoever encodes: chunks of a
// chunk are the chunk itself.
std::vector<std::string_view> encoding_chunks(std::string_view text);

// Number of threads for a request; 0: one per core.
int thread_count(int requested);
// task(0), ..., task(count - 1) on `threads` threads, in any order; of several errors the one with
// the lowest index is thrown.
void parallel_tasks(int64_t count, int threads, const std::function<void(int64_t)>& task);

// tokenizer.encode(text) on several threads.
std::vector<int32_t> encode_parallel(const Tokenizer& tokenizer, std::string_view text,
                                     int threads);

}  // namespace strata::datasets
