#include "parallel/comm/operation.h"

#include "core/rng.h"
#include "core/text.h"

namespace strata {

uint64_t CommOperation::make_signature() const {
  const uint64_t kind = static_cast<uint64_t>(op) | static_cast<uint64_t>(dtype) << 8 |
                        static_cast<uint64_t>(reduce) << 16 |
                        static_cast<uint64_t>(static_cast<uint32_t>(peer)) << 32;
  const uint64_t where = static_cast<uint64_t>(site.layer) << 16 | static_cast<uint64_t>(site.op);
  return splitmix64(splitmix64(splitmix64(kind) ^ static_cast<uint64_t>(count)) ^ where);
}

const char* reduce_name(CommOp op, uint8_t reduce) {
  static const char* const kReduce[] = {"sum", "min", "max"};
  static const char* const kBytes[] = {"broadcast", "gather", "all_gather", "allocate"};
  static const char* const kDirection[] = {"send", "receive"};
  if (op == CommOp::AllReduce && reduce < 3) return kReduce[reduce];
  if (op == CommOp::Bytes && reduce < 4) return kBytes[reduce];
  if (op == CommOp::Exchange && reduce < 2) return kDirection[reduce];
  return "";
}

std::string describe(const CommOperation& operation, const OpLog* log) {
  std::string text = comm_op_name(operation.op);
  const std::string reduce = reduce_name(operation.op, operation.reduce);
  if (!reduce.empty()) text += " " + reduce;
  if (operation.op != CommOp::Barrier && operation.op != CommOp::Bytes) {
    text += cat(" ", dtype_name(operation.dtype), " x ", operation.count);
  }
  if (operation.peer >= 0) text += cat(" root ", operation.peer);
  const Site site = operation.site;
  if (log) {
    const std::string where = log->site_text(site);
    if (!where.empty()) text += " at " + where;
  } else if (site.layer != 0 || site.op != SiteOp::None) {
    text += cat(" at layer ", site.layer, " ", site_op_name(site.op));
  }
  return text;
}

}  // namespace strata
