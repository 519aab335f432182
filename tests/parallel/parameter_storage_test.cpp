// The values of a parameter may move to other storage between a forward and its backward (they are
// released and gathered again): nothing keeps the old storage alive, and the backward reads the new
// one.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <cstring>

#include "core/text.h"
#include "tests/support/lone_layer.h"
#include "tests/support/tiny_models.h"

namespace strata::testing {
namespace parameter_storage_detail {

constexpr int64_t kRows = 2, kLength = 20;

struct Subject {
  std::shared_ptr<const ModelSpec> spec;
  int layer;
  at::ScalarType dtype;
  Recompute recompute;

  LoneLayer make() const {
    return LoneLayer([this](const ParallelLayout& l) { return spec->make_layer(layer, l); },
                     spec->parameter_prefix(layer), {.recompute = recompute}, nullptr, dtype);
  }
  Tensor input() const {
    if (layer == 0) return {};
    return normal_values(spec->boundary(layer - 1, kRows, kLength), 1, dtype).requires_grad_();
  }
  Batch batch() const {
    Batch out = tiny_rows(spec->vocabulary(), 0, kRows, kLength, 0, true);
    out.training = true;
    return out;
  }
  Tensor direction(const Tensor& y) const {
    if (y.dim() == 1) return at::tensor({0.5, 0.0}, y.options());
    return normal_values(y.sizes().vec(), 2, y.scalar_type());
  }
};

// Frees the values of every parameter, which must have no other holder, and fills what was there
// before with NaN for whoever reads it nevertheless.
std::vector<Tensor> release(LoneLayer& layer, const std::string& what) {
  std::vector<Tensor> values;
  for (Parameter* p : layer.parameters()) {
    values.push_back(p->value.detach().clone());
    Tensor old = p->value.detach();
    p->value.set_data(at::empty({0}, old.options()));
    EXPECT_EQ(old.storage().use_count(), 1) << what << " keeps " << p->meta.name;
    std::memset(old.mutable_data_ptr(), 0xff, old.nbytes());
  }
  return values;
}

void attach(LoneLayer& layer, const std::vector<Tensor>& values) {
  for (size_t i = 0; i < values.size(); ++i) layer.parameters()[i]->value.set_data(values[i]);
}

void check(const Subject& subject, const std::string& what) {
  LoneLayer still = subject.make(), moving = subject.make();
  const Batch batch = subject.batch();
  const Tensor x = subject.input(), same_x = subject.input();
  const Tensor y = still.forward(x, batch);
  y.backward(subject.direction(y));
  const Tensor same_y = moving.forward(same_x, batch);
  attach(moving, release(moving, what));
  same_y.backward(subject.direction(y));
  const auto values = release(moving, what + " (after the backward)");
  EXPECT_TRUE(same_y.equal(y)) << what;
  if (x.defined()) {
    EXPECT_TRUE(same_x.grad().equal(x.grad())) << what;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    const Parameter &a = *still.parameters()[i], &b = *moving.parameters()[i];
    ASSERT_TRUE(b.value.grad().defined()) << what << " " << b.meta.name;
    EXPECT_TRUE(b.value.grad().equal(a.value.grad())) << what << " " << b.meta.name;
  }
}

TEST(ParameterStorage, MayChangeBetweenForwardAndBackward) {
  for (const TinyModel& model : tiny_models()) {
    const auto spec = make_tiny(model);
    for (int layer = 0; layer < spec->layer_count(); ++layer) {
      for (const auto dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
        for (const auto recompute : {Recompute::None, Recompute::Selective}) {
          check({spec, layer, dtype, recompute},
                cat(model.name, " ", spec->layer_name(layer), " ", dtype_name(dtype), " ",
                    recompute_name(recompute)));
        }
      }
    }
  }
}

}  // namespace parameter_storage_detail
}  // namespace strata::testing
