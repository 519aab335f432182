#include "tests/layouts/compare.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/text.h"

namespace strata::testing {
namespace compare_detail {

constexpr double kLearningRate = 0.02;

struct Reference {
  StepReport report;
  std::map<std::string, Tensor> start, gradients, end;
};

// Rows differ less in what one process computes than in how it is spread: remembered.
const Reference& reference(const LayoutRow& row, int64_t steps) {
  static std::map<std::string, Reference> known;
  const RunSetup setup = row.setup().serial();
  Reference& out = known[cat(row.model().name, " ", setup.global_batch, " ", setup.microbatches,
                             " ", setup.packed, " ", setup.max_grad_norm, " ", steps)];
  if (!out.start.empty()) return out;
  ModelRun run(row.model(), setup, make_self_communicator());
  out.start = run.weights();
  out.report = run.step(0, kLearningRate);
  out.gradients = run.gradients();
  for (int64_t step = 1; step < steps; ++step) run.step(step, kLearningRate);
  out.end = run.weights();
  return out;
}

}  // namespace compare_detail

void expect_like_one_process(const LayoutRow& row, int64_t steps) {
  using compare_detail::kLearningRate;
  const std::string what = row.text();
  SCOPED_TRACE(what);
  ModelRun run(row.model(), row.setup(), make_mpi_communicator());
  const auto start = run.weights();
  const StepReport report = run.step(0, kLearningRate);
  const auto gradients = run.gradients();
  for (int64_t step = 1; step < steps; ++step) run.step(step, kLearningRate);
  const auto end = run.weights();
  if (!run.first()) return;
  const compare_detail::Reference& one = compare_detail::reference(row, steps);
  EXPECT_EQ(report.counted, one.report.counted);
  EXPECT_LE(std::abs(report.loss - one.report.loss), 1e-12 * one.report.loss) << "loss";
  EXPECT_LE(std::abs(report.grad_norm - one.report.grad_norm), 1e-12 * one.report.grad_norm)
      << "norm";
  ASSERT_EQ(start.size(), one.start.size());
  for (const auto& [name, w] : one.start)
    EXPECT_TRUE(w.equal(start.at(name))) << "initial " << name;
  for (const auto& [name, g] : one.gradients) {
    if (!zero_but_for_rounding(name)) {
      EXPECT_GT(g.norm().item<double>(), 0) << name;
    }
    EXPECT_LE(gradient_error(name, gradients.at(name), g, one.report.grad_norm), 1e-12)
        << "gradient of " << name;
  }
  // Biases begin at zero, and the gradients of those of keys all but cancel.
  for (const auto& [name, w] : one.end)
    EXPECT_LE(relative_error(end.at(name), w, w), 1e-10) << "weights " << name;
}

Bits bits_of(const TinyModel& model, const RunSetup& setup, std::unique_ptr<Communicator> job,
             int64_t steps) {
  ModelRun run(model, setup, std::move(job));
  Bits out;
  const StepReport first = run.step(0, compare_detail::kLearningRate);
  out.loss = first.loss;
  out.norm = first.grad_norm;
  out.gradients = run.gradients();
  for (int64_t step = 1; step < steps; ++step)
    out.last_loss = run.step(step, compare_detail::kLearningRate).loss;
  out.weights = run.weights();
  return out;
}

void expect_same_bits(const Bits& a, const Bits& b, const std::string& what) {
  SCOPED_TRACE(what);
  EXPECT_EQ(a.loss, b.loss) << "loss";
  EXPECT_EQ(a.norm, b.norm) << "norm";
  EXPECT_EQ(a.last_loss, b.last_loss) << "last loss";
  EXPECT_EQ(a.gradients.size(), b.gradients.size());
  for (const auto& [name, g] : a.gradients) EXPECT_TRUE(g.equal(b.gradients.at(name))) << name;
  for (const auto& [name, w] : a.weights) EXPECT_TRUE(w.equal(b.weights.at(name))) << name;
}

}  // namespace strata::testing
