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

std::string site_text(Site site, const std::string& layer_name) {
  bool of_layer = true;
  switch (site.op) {
    case SiteOp::None:
    case SiteOp::Norm:
    case SiteOp::Control:
    case SiteOp::Pipeline:
    case SiteOp::Checkpoint:
    case SiteOp::Data:
    case SiteOp::Startup:
    case SiteOp::Check:
    case SiteOp::MatrixExchange:
    case SiteOp::Test:
      of_layer = site.layer != 0;
      break;
    default:
      break;
  }
  const std::string op = site_op_name(site.op);
  if (!of_layer) return op;
  const std::string layer = layer_name.empty() ? cat("layer ", site.layer) : layer_name;
  return op.empty() ? layer : layer + " " + op;
}

std::string describe(const CommOperation& operation, const OpLog* log) {
  std::string text = comm_op_name(operation.op);
  const std::string reduce = reduce_name(operation.op, operation.reduce);
  if (!reduce.empty()) text += " " + reduce;
  if (operation.op != CommOp::Barrier && operation.op != CommOp::Bytes) {
    text += cat(" ", dtype_name(operation.dtype), " x ", operation.count);
  }
  if (operation.peer >= 0) text += cat(" root ", operation.peer);
  const std::string where = log ? log->site_text(operation.site) : site_text(operation.site, "");
  if (!where.empty()) text += " at " + where;
  return text;
}

}  // namespace strata
