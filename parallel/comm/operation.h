#pragma once
// What a communicator is issuing: filled by the base class, read by backends, the op log and desync
// messages. Private to parallel/comm.
#include <cstdint>
#include <string>

#include "core/tensor.h"
#include "parallel/comm/op_log.h"

namespace strata {

struct CommOperation {
  CommOp op;
  at::ScalarType dtype = at::ScalarType::Byte;
  // ReduceOp for all_reduce; for Bytes which call it is (0 broadcast, 1 gather, 2 all_gather, 3
  // allocate).
  uint8_t reduce = 0;
  int32_t peer = -1;  // root
  int64_t count = 0;  // elements of the tensor named first in the call's description
  Site site = {};
  uint64_t sequence = 0;   // on its communicator, from 1
  uint64_t signature = 0;  // equal on all members when they issue the same operation
  uint64_t record = 0;     // first record in the op log
  int records = 0;

  uint64_t make_signature() const;
};

const char* reduce_name(CommOp op, uint8_t reduce);

// "model.layers.3 region_exit". Layer 0 is left out where the operation belongs to no layer; empty
// for the default site.
std::string site_text(Site site, const std::string& layer_name);

// "all_reduce sum f32 x 128 at model.layers.3 region_exit"; log may be null (layer numbers instead
// of names).
std::string describe(const CommOperation& operation, const OpLog* log);

}  // namespace strata
