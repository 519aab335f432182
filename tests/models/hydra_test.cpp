// The mixer of hydra against numbers computed by an implementation of its own, and what must hold
// whatever the weights are.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/text.h"
#include "models/hydra/block.h"
#include "models/register.h"
#include "tests/support/lone_layer.h"
#include "tests/support/tiny_models.h"

namespace strata::testing {
namespace hydra_test_detail {

Tensor wave(const Shape& shape, double phase, double scale) {
  return (at::sin(at::arange(element_count(shape), at::kDouble) * 0.7 + phase) * scale).view(shape);
}

LoneLayer mixer_of(const HydraConfig& c) {
  return LoneLayer(
      [&](const ParallelLayout& layout) { return std::make_shared<HydraMixer>(c, 0, layout); }, "",
      {}, nullptr);
}

void set(LoneLayer& mixer, const std::string& name, const Tensor& value) {
  for (Parameter* p : mixer.parameters()) {
    if (p->meta.name != name) continue;
    ASSERT_EQ(p->value.sizes(), value.sizes()) << name;
    p->value.requires_grad_(false);
    p->value.copy_(value);
    p->value.requires_grad_(true);
    return;
  }
  ADD_FAILURE() << "no parameter " << name;
}
Tensor get(const LoneLayer& mixer, const std::string& name) {
  for (const Parameter* p : mixer.parameters()) {
    if (p->meta.name == name) return p->value.detach().clone();
  }
  ADD_FAILURE() << "no parameter " << name;
  return {};
}

HydraConfig small() {
  HydraConfig c;
  c.hidden_size = 4;
  c.headdim = 4;
  c.d_state = 3;
  c.d_conv = 3;
  c.chunk_size = 2;
  return c;
}

Batch rows(int64_t count, int64_t length) {
  Batch batch;
  batch.tokens = at::zeros({count, length}, at::kLong);
  batch.positions = default_positions(count, length);
  return batch;
}

TEST(HydraMixerTest, EqualsTheGoldenNumbers) {
  LoneLayer mixer = mixer_of(small());
  const Tensor in_proj = wave({32, 4}, 0.1, 0.5), conv = wave({20, 1, 3}, 0.2, 0.5),
               conv_bias = wave({20}, 0.3, 0.1);
  set(mixer, "in_proj_z.weight", in_proj.slice(0, 0, 8));
  set(mixer, "in_proj_x.weight", in_proj.slice(0, 8, 16));
  set(mixer, "in_proj_bc.weight", in_proj.slice(0, 16, 28));
  set(mixer, "in_proj_dt.weight", in_proj.slice(0, 28, 32));
  set(mixer, "conv1d_x.weight", conv.slice(0, 0, 8));
  set(mixer, "conv1d_bc.weight", conv.slice(0, 8, 20));
  set(mixer, "conv1d_x.bias", conv_bias.slice(0, 0, 8));
  set(mixer, "conv1d_bc.bias", conv_bias.slice(0, 8, 20));
  set(mixer, "dt_bias", wave({2}, 0.4, 0.5));
  set(mixer, "A_log", wave({2}, 0.5, 0.5));
  set(mixer, "D", wave({2}, 0.6, 0.1) + 1.0);
  set(mixer, "fc_D.weight", wave({2, 8}, 0.7, 0.2));
  set(mixer, "norm.weight", wave({8}, 0.8, 0.1) + 1.0);
  set(mixer, "out_proj.weight", wave({4, 8}, 0.9, 0.5));
  const Tensor u = wave({1, 5, 4}, 1.0, 1.0);
  const LoneResult r = mixer.run(u, rows(1, 5), at::zeros({1, 5, 4}, at::kDouble) + 1.0);
  const auto expect = [](const Tensor& got, std::vector<double> wanted, const std::string& what) {
    const Tensor difference = got.flatten() - at::tensor(wanted, at::kDouble);
    EXPECT_LE(difference.abs().max().item<double>(), 6e-11) << what;
  };
  expect(r.y, {0.0560185601,  0.2430287985,  0.3209511272,  0.2548086873, 0.0757781400,
               -0.0225172900, -0.1107054236, -0.1492014082, 0.3632417406, -0.1904602704,
               -0.6586707144, -0.8312247922, 0.3149288215,  0.2362378745, 0.0515072478,
               -0.1563433467, -0.1546308381, -0.0727056910, 0.0418547318, 0.1376278947},
         "output");
  expect(r.gradients.at("A_log"), {0.0083202003, -0.0016005186}, "A_log");
  expect(r.gradients.at("dt_bias"), {-0.0222742039, -0.0145192918}, "dt_bias");
  expect(r.gradients.at("D"), {-0.5390748963, 0.5804310512}, "D");
  expect(r.gradients.at("norm.weight"),
         {-0.3171097746, 0.3747862978, -0.9132066314, 0.1902136439, 0.3704853966, -0.0266517994,
          0.3391271103, -0.1767353463},
         "norm.weight");
  expect(r.dx.select(1, 0), {0.2687211301, 0.7117546255, 0.8200387991, 0.5426459120}, "du row 0");
  expect(r.dx.select(1, 4), {-0.5909570867, -0.0971234528, 0.4423888586, 0.7738387773}, "du row 4");
  const auto norm_of = [&](const std::vector<std::string>& parts) {
    double squares = 0;
    for (const auto& name : parts) {
      squares += r.gradients.at(name).square().sum().item<double>();
    }
    return std::sqrt(squares);
  };
  EXPECT_NEAR(
      norm_of({"in_proj_z.weight", "in_proj_x.weight", "in_proj_bc.weight", "in_proj_dt.weight"}),
      7.5124363078, 1e-9);
  EXPECT_NEAR(norm_of({"conv1d_x.weight", "conv1d_bc.weight"}), 32.2551202753, 1e-9);
  EXPECT_NEAR(norm_of({"fc_D.weight"}), 0.3818846157, 1e-9);
  EXPECT_NEAR(norm_of({"out_proj.weight"}), 4.3155389040, 1e-9);
}

// Reversed tokens through a mixer whose directions are exchanged and whose taps are reversed.
TEST(HydraMixerTest, MirroredWeightsGiveMirroredOutputs) {
  HydraConfig c = small();
  c.hidden_size = 8;
  c.ngroups = 2;
  c.bias = true;
  LoneLayer one = mixer_of(c), other = mixer_of(c);
  const int64_t half = c.keys() / 2;  // B and C of one direction
  for (const std::string part : {"in_proj_bc", "conv1d_bc"}) {
    for (const std::string kind : {".weight", ".bias"}) {
      const Tensor value = get(one, part + kind);
      set(other, part + kind,
          at::cat({value.slice(0, half, 2 * half), value.slice(0, 0, half)}, 0));
    }
  }
  for (const std::string kind : {".weight", ".bias"}) {
    const Tensor value = get(one, "in_proj_dt" + kind);
    set(other, "in_proj_dt" + kind,
        at::cat({value.slice(0, c.heads(), 2 * c.heads()), value.slice(0, 0, c.heads())}, 0));
  }
  for (const std::string name : {"conv1d_x.weight", "conv1d_bc.weight"}) {
    set(other, name, get(other, name).flip(2));
  }
  const Tensor u = normal_values({2, 11, 8}, 3);
  const Tensor y = one.forward(u, rows(2, 11)).detach();
  const Tensor mirrored = other.forward(u.flip(1), rows(2, 11)).detach().flip(1);
  EXPECT_LE((mirrored - y).abs().max().item<double>(), 1e-13);
}

TEST(HydraMixerTest, PaddingIsInertUnlessItIsAskedFor) {
  for (const bool mask : {true, false}) {
    for (const bool learned : {true, false}) {
      HydraConfig c = small();
      c.mask_pad = mask;
      c.learnable_init_states = learned;
      c.initializer_range = 0.5;
      LoneLayer mixer = mixer_of(c);
      if (learned) set(mixer, "init_states", normal_values({2, 4, 3}, 8));
      const Tensor u = normal_values({2, 12, 4}, 4);
      Batch batch = rows(2, 12);
      batch.segments = at::zeros({2, 12}, at::kInt);
      batch.segments.slice(1, 7, 12).fill_(-1);
      const Tensor padded = mixer.forward(u, batch).detach().slice(1, 0, 7);
      const Tensor alone = mixer.forward(u.slice(1, 0, 7), rows(2, 7)).detach();
      const double difference = (padded - alone).abs().max().item<double>();
      if (mask) {
        EXPECT_LE(difference, 1e-13);
      } else {
        EXPECT_GE(difference, 1e-5);
        // What only makes tokens divisible is never seen.
        batch.segments.slice(1, 7, 12).fill_(-2);
        EXPECT_LE(
            (mixer.forward(u, batch).detach().slice(1, 0, 7) - alone).abs().max().item<double>(),
            1e-13);
      }
    }
  }
}

TEST(HydraMixerTest, DocumentsOfARowDoNotSeeOneAnother) {
  HydraConfig c = small();
  LoneLayer mixer = mixer_of(c);
  const Tensor u = normal_values({1, 10, 4}, 6);
  Batch batch = rows(1, 10);
  batch.segments = at::zeros({1, 10}, at::kInt);
  batch.segments.slice(1, 4, 10).fill_(1);
  const Tensor packed = mixer.forward(u, batch).detach();
  const Tensor first = mixer.forward(u.slice(1, 0, 4), rows(1, 4)).detach();
  const Tensor second = mixer.forward(u.slice(1, 4, 10), rows(1, 6)).detach();
  EXPECT_LE((packed - at::cat({first, second}, 1)).abs().max().item<double>(), 1e-13);
  c.mask_pad = false;
  LoneLayer parity = mixer_of(c);
  EXPECT_THROW(parity.forward(u, batch), ConfigError);
  c.mask_pad = c.learnable_init_states = true;
  LoneLayer learned = mixer_of(c);
  EXPECT_THROW(learned.forward(u, batch), ConfigError);
}

// A look-up of the padding id adds nothing to its row; other ids learn as ever.
TEST(HydraEmbedding, ThePaddingIdDoesNotLearn) {
  const auto spec = make_model_from_json(
      R"({"model_type": "bert", "matrix_mixer_type": "hydra", "vocab_size": 9, "hidden_size": 8,
          "headdim": 4, "num_hidden_layers": 0, "hidden_dropout_prob": 0.0})",
      "test");
  LoneLayer embedding([&](const ParallelLayout& layout) { return spec->make_layer(0, layout); }, "",
                      {}, nullptr);
  Batch batch = rows(1, 4);
  batch.tokens = at::tensor({0, 3, 0, 5}, at::kLong).unsqueeze(0);
  const auto r = embedding.run({}, batch, normal_values({1, 4, 8}, 2));
  const Tensor rows_used =
      r.gradients.at("word_embeddings.weight").abs().sum(1).gt(0).to(at::kLong);
  EXPECT_TRUE(rows_used.equal(at::tensor({0, 0, 0, 1, 0, 1, 0, 0, 0}, at::kLong)));
  Batch others = batch;
  others.tokens = at::tensor({1, 3, 1, 5}, at::kLong).unsqueeze(0);
  EXPECT_FALSE(embedding.forward({}, batch).equal(embedding.forward({}, others)))
      << "the padding id has an embedding";
}

}  // namespace hydra_test_detail
}  // namespace strata::testing
