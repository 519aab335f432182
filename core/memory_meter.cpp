#include "core/memory_meter.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>

#include <atomic>

namespace strata::memory_meter {
namespace memory_meter_detail {

std::atomic<int64_t> live{0}, peak{0};
std::atomic<bool> on{false};

}  // namespace memory_meter_detail

using namespace memory_meter_detail;

void count(int64_t bytes) {
  const int64_t now = live.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  int64_t most = peak.load(std::memory_order_relaxed);
  while (now > most && !peak.compare_exchange_weak(most, now, std::memory_order_relaxed)) {
  }
}

namespace memory_meter_detail {

// In front of every block, as long as LibTorch's alignment.
struct alignas(64) Header {
  int64_t bytes;
};

void release(void* data) {
  if (data == nullptr) return;
  Header* header = static_cast<Header*>(data) - 1;
  count(-header->bytes);
  c10::free_cpu(header);
}

class CountingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    const c10::Device cpu(c10::DeviceType::CPU);
    if (bytes == 0) return {nullptr, nullptr, &release, cpu};
    auto* header = static_cast<Header*>(c10::alloc_cpu(sizeof(Header) + bytes));
    header->bytes = static_cast<int64_t>(bytes);
    count(header->bytes);
    return {header + 1, header + 1, &release, cpu};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

}  // namespace memory_meter_detail

void install() {
  static CountingAllocator allocator;
  if (!on.exchange(true)) c10::SetCPUAllocator(&allocator, /*priority=*/1);
}
bool installed() { return on; }
int64_t live_bytes() { return live; }
int64_t peak_bytes() { return peak; }
void reset_peak() { peak = live.load(); }

}  // namespace strata::memory_meter
