#pragma once
// How many bytes of tensors on the CPU this process holds, and the most it held: every allocation
// of LibTorch's CPU allocator is counted. Memory of shared windows (Communicator::allocate),
// libraries and the program itself is not tensor memory and not in these numbers.
#include <cstdint>

namespace strata::memory_meter {

// Counts from now on; what was allocated before is not known. Idempotent; before any other thread
// allocates. Costs two atomic additions and 64 bytes per allocation.
void install();
bool installed();

// Tensor memory that comes from elsewhere (negative: is gone). Counts installed or not.
void count(int64_t bytes);

int64_t live_bytes();
int64_t peak_bytes();  // since install() or the last reset_peak()
void reset_peak();     // to what is live now

}  // namespace strata::memory_meter
