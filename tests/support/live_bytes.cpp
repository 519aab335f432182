#include "tests/support/live_bytes.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>

#include <mutex>
#include <unordered_map>

namespace strata::testing {
namespace live_bytes_detail {

// The standard allocation with a table of sizes.
class CountingAllocator final : public c10::Allocator {
 public:
  static CountingAllocator& instance() {
    static CountingAllocator* const allocator = [] {
      auto* made = new CountingAllocator;  // outlives every tensor
      c10::SetCPUAllocator(made);
      return made;
    }();
    return *allocator;
  }

  c10::DataPtr allocate(size_t bytes) override {
    void* data = c10::alloc_cpu(bytes);
    const std::lock_guard lock(mutex_);
    if (data != nullptr) sizes_[data] = bytes;
    live_ += static_cast<int64_t>(bytes);
    return {data, data, &CountingAllocator::release, at::Device(at::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &CountingAllocator::release; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
  int64_t live() {
    const std::lock_guard lock(mutex_);
    return live_;
  }

 private:
  static void release(void* data) {
    if (data == nullptr) return;
    CountingAllocator& self = instance();
    {
      const std::lock_guard lock(self.mutex_);
      const auto it = self.sizes_.find(data);
      self.live_ -= static_cast<int64_t>(it->second);
      self.sizes_.erase(it);
    }
    c10::free_cpu(data);
  }

  std::mutex mutex_;
  std::unordered_map<void*, size_t> sizes_;
  int64_t live_ = 0;
};

}  // namespace live_bytes_detail

int64_t live_bytes() { return live_bytes_detail::CountingAllocator::instance().live(); }

}  // namespace strata::testing
