#pragma once
// Every op enrols once as a Subject; op_suite_test.cpp runs the same checks on all of them.
#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace strata::testing {

// Reproducible standard normal values of the wanted dtype (drawn in fp32, then converted).
Tensor normal(const Shape& shape, const std::string& name, at::ScalarType dtype = at::kDouble);

// |a - b| / |b| (Frobenius), both widened to fp64; |a| where b is zero.
double distance(const Tensor& a, const Tensor& b);
bool bit_equal(const Tensor& a, const Tensor& b);

using Inputs = std::vector<Tensor>;
using Op = std::function<Tensor(const Inputs&)>;

struct InputSpec {
  Shape shape;
  bool by_row = true;  // dimension 0 counts rows that do not influence one another; else a weight
  bool accumulate =
      false;  // held in the accumulate dtype beside 16-bit activations (weights, biases)
};

struct Subject {
  std::string name;
  std::vector<InputSpec> inputs;
  Op fast;  // also told which rows it gets where that matters: see slice_rows
  Op composite;
  // The op for rows [begin, end) of the inputs; default: `fast` on the slices.
  std::function<Tensor(const Inputs&, int64_t begin, int64_t end)> slice_rows = {};
  bool exact_rows =
      true;            // rows are independent to the last bit (false: matrix products of a library)
  bool smooth = true;  // false: rounds inside, finite differences mean nothing
  double fp32_bound = 2e-6;  // relative distance of the fp32 output and gradients from fp64
};
inline void PrintTo(const Subject& subject, std::ostream* out) { *out << subject.name; }

std::vector<Subject> all_subjects();
void add_quantised_and_structured(std::vector<Subject>& subjects);

// Inputs of a subject in one dtype, leaves that require gradients.
Inputs make_inputs(const Subject& subject, at::ScalarType dtype);

struct Result {
  Tensor output;
  std::vector<Tensor> gradients;  // of sum(output * direction), one per input
};
// direction: undefined draws one that depends on the output's shape only.
Result run_with_gradients(const Op& op, const Inputs& inputs, Tensor direction = {});

}  // namespace strata::testing
