#include "core/io/fault.h"

#include <atomic>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/io/file.h"
#include "core/text.h"

namespace strata::io {
namespace fault_detail {

constexpr const char* kOpNames[] = {"write", "sync", "rename", "unlink", "mkdir"};
constexpr size_t kOps = 5;
constexpr int kKill = -2;

struct Rule {
  FaultOp op;
  int64_t first, last;  // inclusive, counted from 1
  int action;           // errno, kShortWrite or kKill
};

struct Plan {
  std::vector<Rule> rules;
  std::atomic<int64_t> counts[kOps] = {};
};

struct NamedErrno {
  const char* name;
  int value;
};
constexpr NamedErrno kErrnos[] = {{"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT},    {"EIO", EIO},
                                  {"EROFS", EROFS},   {"EACCES", EACCES},    {"ESTALE", ESTALE},
                                  {"EINTR", EINTR},   {"EAGAIN", EAGAIN},    {"ENOENT", ENOENT},
                                  {"EFBIG", EFBIG},   {"SHORT", kShortWrite}};

// The process-wide plan that file.h documents. Readers take a copy of the pointer under the lock
// only when a plan is set.
struct Holder {
  std::atomic<bool> set{false};
  std::mutex mutex;
  std::shared_ptr<Plan> plan;
};
Holder& holder() {
  static Holder instance;
  return instance;
}

[[noreturn]] void refuse(const std::string& given) {
  throw ConfigError("fault.inject", "\"" + given + "\"",
                    "a list of OP:N=ERROR, OP:N+=ERROR, OP:*=ERROR or kill@OP:N, with OP one of "
                    "write, sync, rename, "
                    "unlink, mkdir and ERROR one of ENOSPC, EDQUOT, EIO, EROFS, EACCES, ESTALE, "
                    "EINTR, EAGAIN, ENOENT, "
                    "EFBIG, SHORT",
                    " Example: \"write:17=ENOSPC\".");
}

FaultOp parse_op(std::string_view name, const std::string& entry) {
  for (size_t i = 0; i < kOps; ++i) {
    if (name == kOpNames[i]) return static_cast<FaultOp>(i);
  }
  refuse(entry);
}

Rule parse_rule(const std::string& entry) {
  std::string_view rest = entry;
  Rule rule{};
  if (starts_with(rest, "kill@")) {
    rule.action = kKill;
    rest.remove_prefix(5);
  } else {
    const size_t equals = rest.find('=');
    if (equals == std::string_view::npos) refuse(entry);
    const std::string_view name = rest.substr(equals + 1);
    bool known = false;
    for (const NamedErrno& e : kErrnos) {
      if (name == e.name) {
        rule.action = e.value;
        known = true;
      }
    }
    if (!known) refuse(entry);
    rest = rest.substr(0, equals);
  }
  const size_t colon = rest.find(':');
  if (colon == std::string_view::npos) refuse(entry);
  rule.op = parse_op(rest.substr(0, colon), entry);
  if (rule.action == kShortWrite && rule.op != FaultOp::Write) refuse(entry);
  rest = rest.substr(colon + 1);
  if (rest == "*") {
    rule.first = 1;
    rule.last = INT64_MAX;
    return rule;
  }
  const bool onwards = ends_with(rest, "+");
  if (onwards) rest.remove_suffix(1);
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), rule.first);
  if (error != std::errc() || end != rest.data() + rest.size() || rule.first < 1) refuse(entry);
  rule.last = onwards ? INT64_MAX : rule.first;
  return rule;
}

}  // namespace fault_detail

void set_fault_plan(const std::string& plan) {
  std::shared_ptr<fault_detail::Plan> parsed;
  for (const std::string& part : split(plan, ',')) {
    const std::string entry(trim(part));
    if (entry.empty()) continue;
    if (!parsed) parsed = std::make_shared<fault_detail::Plan>();
    parsed->rules.push_back(fault_detail::parse_rule(entry));
  }
  fault_detail::Holder& holder = fault_detail::holder();
  const std::lock_guard<std::mutex> lock(holder.mutex);
  holder.plan = parsed;
  holder.set.store(parsed != nullptr, std::memory_order_release);
}

int next_fault(FaultOp op) {
  fault_detail::Holder& holder = fault_detail::holder();
  if (!holder.set.load(std::memory_order_relaxed)) return 0;
  std::shared_ptr<fault_detail::Plan> plan;
  {
    const std::lock_guard<std::mutex> lock(holder.mutex);
    plan = holder.plan;
  }
  if (!plan) return 0;
  const int64_t count = ++plan->counts[static_cast<size_t>(op)];
  for (const fault_detail::Rule& rule : plan->rules) {
    if (rule.op != op || count < rule.first || count > rule.last) continue;
    if (rule.action == fault_detail::kKill) {
      std::raise(SIGKILL);
    }
    return rule.action;
  }
  return 0;
}

}  // namespace strata::io
