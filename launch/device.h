#pragma once
// Which device a rank uses, and how many threads.
#include <string>

#include "core/tensor.h"
#include "launch/run_sections.h"

namespace strata {

int cuda_device_count();  // 0 in a build without CUDA or on a machine without GPUs

// Throws ConfigError when the device asked for is not there, or ranks would share one without
// permission.
at::Device choose_device(const RuntimeSection& config, int local_rank, int local_size);

// Makes the device current and creates its context.
void use_device(const at::Device& device);
// Waits for everything issued to the device; nothing on CPUs.
void wait_for_device(const at::Device& device);

// Cores this process may use divided among the node's ranks; at least 1.
int threads_per_rank(int local_size);
void set_threads(int threads);

}  // namespace strata
