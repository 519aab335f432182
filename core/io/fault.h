#pragma once
// Where core/io asks the fault plan (set_fault_plan) before it touches the disk. Internal to
// core/io and its callers that write through other libraries. Costs one relaxed load when no plan
// is set.
#include <cstdint>

namespace strata::io {

enum class FaultOp : uint8_t { Write, Sync, Rename, Unlink, Mkdir };

// Counts one operation. Returns 0 to go on, an errno to fail with, or kShortWrite: write a part
// only. May not return at all (kill@...).
inline constexpr int kShortWrite = -1;
int next_fault(FaultOp op);

}  // namespace strata::io
