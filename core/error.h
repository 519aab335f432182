#pragma once
// Errors a person will read. what() is one or more complete sentences; exit_code() is what the
// process returns.
//
//   1 internal (a bug)   2 configuration   3 data   4 checkpoint   5 out of memory   6 numeric
//   7 communication      8 ranks disagree  9 storage   75 preempted and saved   10 verify: outside
//   tolerance
#include <stdexcept>
#include <string>
#include <vector>

namespace strata {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
  virtual int exit_code() const noexcept = 0;
};

// "<key>: got <given>, allowed: <allowed><hint>"
std::string problem_text(const std::string& key, const std::string& given,
                         const std::string& allowed, const std::string& hint = {});

// Everything that is wrong with what the user wrote, all at once: what() has one line per problem.
class ConfigError final : public Error {
 public:
  ConfigError(const std::string& key, const std::string& given, const std::string& allowed,
              const std::string& hint = {});
  explicit ConfigError(std::vector<std::string> problems);
  const std::vector<std::string>& problems() const noexcept { return problems_; }
  int exit_code() const noexcept override { return 2; }

 private:
  std::vector<std::string> problems_;
};

template <int Code>
class CodedError : public Error {
 public:
  using Error::Error;
  int exit_code() const noexcept override { return Code; }
};

class InternalError final : public CodedError<1> {
  using CodedError::CodedError;
};
class DataError final : public CodedError<3> {
  using CodedError::CodedError;
};
class CheckpointError final : public CodedError<4> {
  using CodedError::CodedError;
};
class OutOfMemoryError final : public CodedError<5> {
  using CodedError::CodedError;
};
class NumericError final : public CodedError<6> {
  using CodedError::CodedError;
};
class CommError final : public CodedError<7> {
  using CodedError::CodedError;
};
class DesyncError final : public CodedError<8> {
  using CodedError::CodedError;
};
class StorageError final : public CodedError<9> {
  using CodedError::CodedError;
};

[[noreturn]] void check_failed(const char* condition, const char* file, int line,
                               const std::string& message);

// For our own broken promises, never for what a user wrote.
#define STRATA_CHECK(condition, message)                                               \
  do {                                                                                 \
    if (!(condition)) ::strata::check_failed(#condition, __FILE__, __LINE__, message); \
  } while (false)

}  // namespace strata
