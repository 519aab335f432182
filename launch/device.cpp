#include "launch/device.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <sched.h>

#include <algorithm>
#include <thread>

#include "core/error.h"
#include "core/text.h"

namespace strata {

int cuda_device_count() {
  if (!at::globalContext().hasCUDA()) return 0;
  return static_cast<int>(at::detail::getCUDAHooks().deviceCount());
}

at::Device choose_device(const RuntimeSection& config, int local_rank, int local_size) {
  if (config.device == "cpu" || config.invariant()) return at::kCPU;
  const int count = cuda_device_count();
  if (count == 0) {
    if (config.device == "auto") return at::kCPU;
    const bool built = at::globalContext().hasCUDA();
    throw ConfigError(
        "runtime.device", "cuda", "cpu",
        built ? " (this machine shows no GPU)" : " (this binary was built without CUDA)");
  }
  if (local_size > count && !config.share_devices) {
    throw ConfigError("ranks on this node", cat(local_size),
                      cat("at most ", count, ", one for each GPU"),
                      " (runtime.share_devices = true with runtime.backend = mpi lets them share)");
  }
  return at::Device(at::kCUDA, static_cast<at::DeviceIndex>(local_rank % count));
}

void use_device(const at::Device& device) {
  if (!device.is_cuda()) return;
  at::globalContext().lazyInitDevice(at::kCUDA);
  c10::impl::VirtualGuardImpl(at::kCUDA).setDevice(device);
}

void wait_for_device(const at::Device& device) {
  if (device.is_cuda()) c10::impl::VirtualGuardImpl(at::kCUDA).synchronizeDevice(device.index());
}

int threads_per_rank(int local_size) {
  const int all = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  int allowed = all;
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof set, &set) == 0) allowed = std::max(1, CPU_COUNT(&set));
  // A launcher that binds ranks has already divided the cores.
  return std::max(1, std::min(allowed, all / std::max(1, local_size)));
}

void set_threads(int threads) {
  at::set_num_threads(threads);
  if (at::get_num_interop_threads() == 1) return;
  try {
    at::set_num_interop_threads(1);
  } catch (const c10::Error&) {
    // Parallel work has begun in this process already (a program that embeds Strata): its choice
    // stays.
  }
}

}  // namespace strata
