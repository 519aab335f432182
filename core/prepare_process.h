#pragma once

namespace strata {

// What a process that computes sets once, before its first arithmetic and its first thread; run_cli
// does it. What the user has set in the environment stays.
//
// MKL_CBWR = AUTO: MKL gives the same bits in every run. Without it, on some processors, its
// eigenvectors and QR of the same matrix differ from run to run.
//
// M_MMAP_THRESHOLD, M_TRIM_THRESHOLD (mallopt; not with MALLOC_MMAP_THRESHOLD_ or
// MALLOC_TRIM_THRESHOLD_): freed memory stays with the process. A step needs tensors of the same
// sizes as the one before; by default the large ones go back to the system and come anew, page by
// page, which took a quarter of a step in bf16 of the L model of bench/train_step.cpp.
void prepare_process();

}  // namespace strata
