#include "core/memory_meter.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <malloc.h>

#include <atomic>

namespace strata::memory_meter {
namespace memory_meter_detail {

std::atomic<int64_t> live{0}, peak{0};
std::atomic<bool> on{false};

void add(int64_t bytes) {
  const int64_t now = live.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  int64_t most = peak.load(std::memory_order_relaxed);
  while (now > most && !peak.compare_exchange_weak(most, now, std::memory_order_relaxed)) {
  }
}

void release(void* data) {
  live.fetch_sub(static_cast<int64_t>(malloc_usable_size(data)), std::memory_order_relaxed);
  c10::free_cpu(data);
}

// The default allocator's memory, counted by what malloc really gave.
class CountingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    void* data = c10::alloc_cpu(bytes);
    if (data != nullptr) add(static_cast<int64_t>(malloc_usable_size(data)));
    return {data, data, &release_if_any, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release_if_any; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
  static void release_if_any(void* data) {
    if (data != nullptr) release(data);
  }
};

}  // namespace memory_meter_detail

using namespace memory_meter_detail;

void install() {
  static CountingAllocator allocator;
  if (!on.exchange(true)) c10::SetCPUAllocator(&allocator, /*priority=*/1);
}
bool installed() { return on; }
int64_t live_bytes() { return live; }
int64_t peak_bytes() { return peak; }
void reset_peak() { peak = live.load(); }

}  // namespace strata::memory_meter
