#pragma once
// What a comparison with reference results found: one line per tensor, worst first.
#include <string>
#include <vector>

#include "core/tensor.h"

namespace strata {

class ParityReport {
 public:
  explicit ParityReport(double tolerance) : tolerance_(tolerance) {}

  // Relative Frobenius error of `got` against `expected`. Where the norm of `expected` is below
  // `floor`, the error is taken relative to `floor`: gradients that are zero in exact arithmetic
  // are compared absolutely.
  void compare(const std::string& name, const Tensor& got, const Tensor& expected,
               double floor = 0);
  void compare(const std::string& name, double got, double expected);
  void add(const std::string& name, double error);  // that is known already
  void fail(const std::string& name, const std::string& why);

  bool passed() const;
  std::string table() const;
  // Object members "passed", "tolerance", "checks".
  std::string json_members() const;

 private:
  struct Line {
    std::string name;
    double error = 0;  // infinite: failed for a reason in `note`
    std::string note;
  };
  std::vector<Line> sorted() const;
  bool good(const Line& line) const { return line.error <= tolerance_; }  // false for NaN

  double tolerance_;
  std::vector<Line> lines_;
};

}  // namespace strata
