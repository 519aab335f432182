#include "tests/ops/op_suite.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/rng.h"
#include "core/text.h"

namespace strata::testing {

Tensor normal(const Shape& shape, const std::string& name, at::ScalarType dtype) {
  Tensor x = at::empty(shape, at::TensorOptions().dtype(at::kFloat));
  Rng(11, "init", name).fill_normal(0, x.numel(), x.mutable_data_ptr<float>());
  return x.to(dtype);
}

double distance(const Tensor& a, const Tensor& b) {
  const Tensor wide = b.detach().to(at::kDouble);
  const double norm = wide.norm().item<double>();
  const double difference = (a.detach().to(at::kDouble) - wide).norm().item<double>();
  return norm > 0 ? difference / norm : difference;
}

bool bit_equal(const Tensor& a, const Tensor& b) {
  return a.scalar_type() == b.scalar_type() && a.equal(b);
}

Inputs make_inputs(const Subject& subject, at::ScalarType dtype) {
  Inputs inputs;
  for (size_t i = 0; i < subject.inputs.size(); ++i) {
    const InputSpec& spec = subject.inputs[i];
    const auto type = spec.accumulate ? accumulate_dtype(dtype) : dtype;
    // Values that bf16 can hold, so that every dtype sees the same numbers.
    const Tensor x = normal(spec.shape, cat(subject.name, ".", i), at::kBFloat16);
    inputs.push_back(x.to(type, /*non_blocking=*/false, /*copy=*/true).requires_grad_());
  }
  return inputs;
}

Result run_with_gradients(const Op& op, const Inputs& inputs, Tensor direction) {
  Result result;
  result.output = op(inputs);
  if (!direction.defined()) {
    direction = normal(result.output.sizes().vec(), "direction", at::kBFloat16);
  }
  for (const Tensor& x : inputs) {
    x.mutable_grad() = Tensor();
  }
  result.output.backward(direction.to(result.output.scalar_type()));
  for (const Tensor& x : inputs) {
    result.gradients.push_back(x.grad().defined() ? x.grad().clone() : Tensor());
    x.mutable_grad() = Tensor();
  }
  result.output = result.output.detach();
  return result;
}

namespace op_suite_detail {

class OpSuite : public ::testing::TestWithParam<Subject> {
 protected:
  void SetUp() override { threads_ = at::get_num_threads(); }
  void TearDown() override { at::set_num_threads(threads_); }

 private:
  int threads_ = 1;
};

void expect_near(const Result& got, const Result& wanted, double bound) {
  EXPECT_LE(distance(got.output, wanted.output), bound) << "output";
  ASSERT_EQ(got.gradients.size(), wanted.gradients.size());
  for (size_t i = 0; i < got.gradients.size(); ++i) {
    ASSERT_TRUE(got.gradients[i].defined()) << "gradient of input " << i;
    // Gradients that are 0 but for rounding (queries of a single token) have no relative error.
    const double rounding = got.gradients[i].scalar_type() == at::kDouble ? 1e-13 : 1e-6;
    if (got.gradients[i].norm().item<double>() < rounding &&
        wanted.gradients[i].norm().item<double>() < rounding) {
      continue;
    }
    EXPECT_LE(distance(got.gradients[i], wanted.gradients[i]), bound) << "gradient of input " << i;
  }
}

void expect_bit_equal(const Result& got, const Result& wanted) {
  EXPECT_TRUE(bit_equal(got.output, wanted.output)) << "output";
  for (size_t i = 0; i < got.gradients.size(); ++i) {
    EXPECT_TRUE(bit_equal(got.gradients[i], wanted.gradients[i])) << "gradient of input " << i;
  }
}

TEST_P(OpSuite, EqualsItsCompositeFormInFp64) {
  const Subject& subject = GetParam();
  const Inputs inputs = make_inputs(subject, at::kDouble);
  expect_near(run_with_gradients(subject.fast, inputs),
              run_with_gradients(subject.composite, inputs), 1e-13);
}

TEST_P(OpSuite, GradientsEqualFiniteDifferences) {
  const Subject& subject = GetParam();
  if (!subject.smooth) return;  // straight-through gradients: the composite form is the check
  const Inputs inputs = make_inputs(subject, at::kDouble);
  const Result result = run_with_gradients(subject.fast, inputs);
  const Tensor direction =
      normal(result.output.sizes().vec(), "direction", at::kBFloat16).to(at::kDouble);
  constexpr double h = 1e-6;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Tensor step = normal(inputs[i].sizes().vec(), cat("step.", i));
    const auto loss_at = [&](double s) {
      Inputs moved = inputs;
      moved[i] = (inputs[i].detach() + step * s);
      return (subject.fast(moved) * direction).sum().item<double>();
    };
    const double slope = (loss_at(h) - loss_at(-h)) / (2 * h);
    const double predicted = (result.gradients[i] * step).sum().item<double>();
    const double scale = result.gradients[i].norm().item<double>() + 1e-3;
    EXPECT_NEAR(slope, predicted, 1e-6 * scale * std::sqrt(static_cast<double>(step.numel())))
        << "input " << i;
  }
}

TEST_P(OpSuite, Fp32IsNearFp64) {
  const Subject& subject = GetParam();
  expect_near(run_with_gradients(subject.fast, make_inputs(subject, at::kFloat)),
              run_with_gradients(subject.fast, make_inputs(subject, at::kDouble)),
              subject.fp32_bound);
}

TEST_P(OpSuite, Bf16IsFp64Rounded) {
  const Subject& subject = GetParam();
  const Result narrow = run_with_gradients(subject.fast, make_inputs(subject, at::kBFloat16));
  EXPECT_EQ(narrow.output.scalar_type(), at::kBFloat16);
  expect_near(narrow, run_with_gradients(subject.fast, make_inputs(subject, at::kDouble)), 1e-2);
}

TEST_P(OpSuite, BitsDoNotDependOnTheNumberOfThreads) {
  const Subject& subject = GetParam();
  for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const Inputs inputs = make_inputs(subject, dtype);
    at::set_num_threads(1);
    const Result one = run_with_gradients(subject.fast, inputs);
    for (const int threads : {2, 3}) {
      at::set_num_threads(threads);
      const Result several = run_with_gradients(subject.fast, inputs);
      if (subject.exact_rows) {
        expect_bit_equal(several, one);
      } else {
        expect_near(several, one, dtype == at::kDouble ? 1e-14 : dtype == at::kFloat ? 1e-6 : 5e-3);
      }
    }
  }
}

TEST_P(OpSuite, RowsDoNotDependOnTheirNeighbours) {
  const Subject& subject = GetParam();
  for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const Inputs inputs = make_inputs(subject, dtype);
    const Result all = run_with_gradients(subject.fast, inputs);
    const int64_t rows = all.output.size(0);
    const Tensor direction = normal(all.output.sizes().vec(), "direction", at::kBFloat16);
    for (const auto& [begin, end] :
         {std::pair<int64_t, int64_t>{0, 1}, {1, rows}, {rows - 1, rows}}) {
      Inputs part;
      for (size_t i = 0; i < inputs.size(); ++i) {
        const Tensor x = inputs[i].detach();
        part.push_back(
            (subject.inputs[i].by_row ? x.slice(0, begin, end) : x).clone().requires_grad_());
      }
      const Op op = [&](const Inputs& given) {
        return subject.slice_rows ? subject.slice_rows(given, begin, end) : subject.fast(given);
      };
      const Result some = run_with_gradients(op, part, direction.slice(0, begin, end));
      const auto check = [&](const Tensor& got, const Tensor& wanted) {
        if (subject.exact_rows) {
          EXPECT_TRUE(bit_equal(got, wanted))
              << dtype_name(dtype) << " rows " << begin << " to " << end;
        } else {
          EXPECT_LE(distance(got, wanted), dtype == at::kDouble  ? 1e-14
                                           : dtype == at::kFloat ? 1e-6
                                                                 : 5e-3);
        }
      };
      check(some.output, all.output.slice(0, begin, end));
      for (size_t i = 0; i < inputs.size(); ++i) {
        if (subject.inputs[i].by_row) {
          check(some.gradients[i], all.gradients[i].slice(0, begin, end));
        }
      }
    }
  }
}

// The same values held in other ways: with gaps after each row, with the first two dimensions
// exchanged, with steps between features.
TEST_P(OpSuite, AnyStridesGiveTheSameResult) {
  const Subject& subject = GetParam();
  const auto gaps = [](const Tensor& x) {
    Shape shape = x.sizes().vec();
    shape.back() += 3;
    return at::full(shape, 7.0, x.options()).narrow(-1, 1, x.size(-1)).copy_(x);
  };
  const auto exchanged = [](const Tensor& x) {
    return x.dim() < 2 ? x.clone() : x.transpose(0, 1).contiguous().transpose(0, 1);
  };
  const auto steps = [](const Tensor& x) {
    Shape shape = x.sizes().vec();
    shape.push_back(2);
    return at::full(shape, 7.0, x.options()).select(-1, 1).copy_(x);
  };
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const Inputs inputs = make_inputs(subject, dtype);
    const Result plain = run_with_gradients(subject.fast, inputs);
    for (const std::function<Tensor(const Tensor&)>& held :
         {std::function<Tensor(const Tensor&)>(gaps),
          std::function<Tensor(const Tensor&)>(exchanged),
          std::function<Tensor(const Tensor&)>(steps)}) {
      Inputs others;
      for (const Tensor& x : inputs) {
        others.push_back(held(x.detach()).requires_grad_());
      }
      const Tensor direction =
          held(normal(plain.output.sizes().vec(), "direction", at::kBFloat16).to(dtype));
      const Result result = run_with_gradients(subject.fast, others, direction);
      if (subject.exact_rows) {
        expect_bit_equal(result, plain);
      } else {
        expect_near(result, plain, dtype == at::kFloat ? 1e-6 : 5e-3);
      }
    }
  }
}

TEST_P(OpSuite, NoRowsGiveNoRows) {
  const Subject& subject = GetParam();
  for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    Inputs inputs = make_inputs(subject, dtype);
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (subject.inputs[i].by_row) {
        inputs[i] = inputs[i].detach().slice(0, 0, 0).clone().requires_grad_();
      }
    }
    const Op op = [&](const Inputs& given) {
      return subject.slice_rows ? subject.slice_rows(given, 0, 0) : subject.fast(given);
    };
    const Result result = run_with_gradients(op, inputs);
    EXPECT_EQ(result.output.size(0), 0);
    for (size_t i = 0; i < inputs.size(); ++i) {
      ASSERT_EQ(result.gradients[i].sizes(), inputs[i].sizes()) << "input " << i;
      EXPECT_EQ(result.gradients[i].count_nonzero().item<int64_t>(), 0) << "input " << i;
    }
  }
}

std::vector<Subject> subjects() {
  std::vector<Subject> out = all_subjects();
  add_quantised_and_structured(out);
  return out;
}

INSTANTIATE_TEST_SUITE_P(Ops, OpSuite, ::testing::ValuesIn(subjects()),
                         [](const ::testing::TestParamInfo<Subject>& info) {
                           return info.param.name;
                         });

}  // namespace op_suite_detail

}  // namespace strata::testing
