#include "core/error.h"

#include "core/text.h"

namespace strata {
namespace error_detail {

std::string one_per_line(const std::vector<std::string>& problems) {
  return problems.empty() ? "the configuration is not valid" : join(problems, "\n");
}

}  // namespace error_detail

std::string problem_text(const std::string& key, const std::string& given,
                         const std::string& allowed, const std::string& hint) {
  std::string out = cat(key, ": got ", given, ", allowed: ", allowed);
  const std::string_view tail = trim(hint);
  if (tail.empty()) return out;
  // A remark in brackets or after punctuation belongs to the sentence, anything else is a sentence
  // of its own.
  constexpr std::string_view kGoesOn = ",;:.";
  if (kGoesOn.find(tail.front()) != std::string_view::npos) return out.append(tail);
  if (tail.front() != '(') out += out.back() == '.' ? "" : ".";
  return out.append(" ").append(tail);
}

ConfigError::ConfigError(const std::string& key, const std::string& given,
                         const std::string& allowed, const std::string& hint)
    : ConfigError(std::vector<std::string>{problem_text(key, given, allowed, hint)}) {}

ConfigError::ConfigError(std::vector<std::string> problems)
    : Error(error_detail::one_per_line(problems)), problems_(std::move(problems)) {}

void check_failed(const char* condition, const char* file, int line, const std::string& message) {
  throw InternalError(cat("Internal error, this is a bug in Strata: ", message, " (", file, ":",
                          line, ": ", condition, " does not hold)"));
}

}  // namespace strata
