#pragma once
// Exceptions as exit codes and sentences, and the agreement of all ranks on one failure.
#include <exception>
#include <functional>
#include <string>

#include "core/error.h"

namespace strata {

class Communicator;

struct Failure {
  int code = 0;  // 0: none
  std::string message;
};
// Of the exception being handled or given: Error's own code, 5 for memory that could not be had,
// else 1.
Failure describe(const std::exception_ptr& error);

// A failure that every rank knows of: rank 0 alone prints it, all ranks end in order.
class AgreedError final : public Error {
 public:
  AgreedError(int code, const std::string& message) : Error(message), code_(code) {}
  int exit_code() const noexcept override { return code_; }

 private:
  int code_;
};

// Collective. Runs `work`, which issues no collectives, on every rank. When it throws anywhere,
// every rank throws AgreedError with the message of the lowest such rank.
void together(Communicator& job, const std::function<void()>& work);

// Throws the failure on all ranks as AgreedError; for errors that are the same everywhere by
// construction.
[[noreturn]] inline void throw_agreed(const Error& error) {
  throw AgreedError(error.exit_code(), error.what());
}

// Result of `work`, which does the same on every rank (pure functions of equal arguments): its
// errors are agreed.
template <class F>
auto same_everywhere(F work) {
  try {
    return work();
  } catch (const Error& error) {
    throw_agreed(error);
  }
}

}  // namespace strata
