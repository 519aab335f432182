// The list of ops that OpSuite checks.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/tensor.h>

#include <cmath>

#include "core/batch.h"
#include "core/ops/activation.h"
#include "core/ops/attention.h"
#include "core/ops/delta_product.h"
#include "core/ops/depthwise_conv.h"
#include "core/ops/dropout.h"
#include "core/ops/gated_norm.h"
#include "core/ops/gla.h"
#include "core/ops/l2_norm.h"
#include "core/ops/linear.h"
#include "core/ops/norm.h"
#include "core/ops/quasiseparable.h"
#include "core/ops/rope.h"
#include "core/ops/ssd.h"
#include "core/ops/streams.h"
#include "core/text.h"
#include "tests/ops/op_suite.h"

namespace strata::testing {

namespace op_subjects_detail {

void add_norms(std::vector<Subject>& subjects) {
  for (const int64_t D : {1, 37, 64, 768}) {
    const int64_t rows = D == 768 ? 67 : 9;
    subjects.push_back(
        {.name = cat("RmsNorm", D),
         .inputs = {{{rows, 3, D}}, {{D}, false, true}},
         .fast = [](const Inputs& in) { return ops::rms_norm(in[0], in[1], 1e-5); },
         .composite = [](const Inputs& in) { return ops::rms_norm_composite(in[0], in[1], 1e-5); },
         // One feature: the gradient is what eps leaves of two equal numbers.
         .fp32_bound = D == 1 ? 1e-4 : 2e-6});
    if (D > 1) {  // of one feature nothing but the bias is left
      subjects.push_back(
          {.name = cat("LayerNorm", D),
           .inputs = {{{rows, 3, D}}, {{D}, false, true}, {{D}, false, true}},
           .fast = [](const Inputs& in) { return ops::layer_norm(in[0], in[1], in[2], 1e-5); },
           .composite =
               [](const Inputs& in) {
                 return ops::layer_norm_composite(in[0], in[1], in[2], 1e-5);
               }});
    }
  }
  subjects.push_back(
      {.name = "LayerNormWithoutBias",
       .inputs = {{{9, 40}}, {{40}, false, true}},
       .fast = [](const Inputs& in) { return ops::layer_norm(in[0], in[1], Tensor(), 1e-5); },
       .composite =
           [](const Inputs& in) {
             return ops::layer_norm_composite(in[0], in[1], Tensor(), 1e-5);
           }});
}

void add_gated_norms(std::vector<Subject>& subjects) {
  for (const int64_t V : {5, 32, 200}) {
    subjects.push_back(
        {.name = cat("RmsNormGated", V),
         .inputs = {{{37, 3, V}}, {{37, 3, V}}, {{V}, false, true}},
         .fast = [](const Inputs& in) { return ops::rms_norm_gated(in[0], in[1], in[2], 1e-5); },
         .composite =
             [](const Inputs& in) {
               return ops::rms_norm_gated_composite(in[0], in[1], in[2], 1e-5);
             }});
  }
  subjects.push_back(
      {.name = "RmsNormGatedWithoutWeight",
       .inputs = {{{700, 40}}, {{700, 40}}},
       .fast = [](const Inputs& in) { return ops::rms_norm_gated(in[0], in[1], {}, 1e-5); },
       .composite =
           [](const Inputs& in) { return ops::rms_norm_gated_composite(in[0], in[1], {}, 1e-5); }});
}

void add_activations(std::vector<Subject>& subjects) {
  for (const int64_t F : {5, 64, 1000}) {
    subjects.push_back(
        {.name = cat("Swiglu", F),
         .inputs = {{{29, 2, F}}, {{29, 2, F}}},
         .fast = [](const Inputs& in) { return ops::swiglu(in[0], in[1]); },
         .composite = [](const Inputs& in) { return ops::swiglu_composite(in[0], in[1]); }});
  }
  const auto add = [&](const std::string& name, Op composite) {
    subjects.push_back(
        {.name = cat("Activation_", name),
         .inputs = {{{41, 513}}},
         .fast = [name](const Inputs& in) { return ops::activation(in[0] * 2.0, name); },
         .composite = std::move(composite)});
  };
  const auto tanh = [](const Inputs& in) { return at::gelu(in[0] * 2.0, "tanh"); };
  const auto silu = [](const Inputs& in) { return at::silu(in[0] * 2.0); };
  add("gelu", [](const Inputs& in) { return at::gelu(in[0] * 2.0, "none"); });
  add("gelu_new", tanh);
  add("gelu_pytorch_tanh", tanh);
  add("silu", silu);
  add("swish", silu);
  add("relu", [](const Inputs& in) { return at::relu(in[0] * 2.0); });
}

void add_rope(std::vector<Subject>& subjects) {
  const auto add = [&](const std::string& name, int64_t K, const ops::RopeTable& table,
                       const Tensor& positions) {
    subjects.push_back(
        {.name = name,
         .inputs = {{{3, positions.size(1), 5, K}}},
         .fast = [=](const Inputs& in) { return ops::rope(in[0], positions, table); },
         .composite =
             [=](const Inputs& in) { return ops::rope_composite(in[0], positions, table); },
         .slice_rows =
             [=](const Inputs& in, int64_t begin, int64_t end) {
               return ops::rope(in[0], positions.slice(0, begin, end), table);
             }});
  };
  const Tensor start = at::tensor({0, 100, 3}, at::kLong).unsqueeze(1);
  add("Rope", 64, ops::rope_table(1e4, 64, 256, {}), default_positions(3, 130));
  add("RopeOfPartOfTheHead", 23, ops::rope_table(1e4, 14, 256, {}),
      default_positions(3, 7) + start);
  add("RopeWithYarn", 32,
      ops::rope_table(1e4, 32, 4096,
                      {.rope_type = "yarn", .factor = 4, .original_max_position_embeddings = 1024}),
      default_positions(3, 17) + start);
  // Positions far above the number of tokens, and below zero as no document has them but arithmetic
  // may.
  add("RopeAtScatteredPositions", 16, ops::rope_table(1e4, 16, 256, {}),
      default_positions(3, 9) * 411 + start * 7 - 500);
}

void add_dropout(std::vector<Subject>& subjects) {
  const auto add = [&](const std::string& name, int64_t F, ops::DropoutKey key) {
    subjects.push_back({.name = name,
                        .inputs = {{{5, 3, F}}},
                        .fast = [key](const Inputs& in) { return ops::dropout(in[0], 0.3, key); },
                        .composite =
                            [key](const Inputs& in) {
                              // The definition, element by element, is in dropout_test.cpp: here
                              // the mask of ones.
                              const Tensor ones = at::ones_like(in[0].detach());
                              return in[0] * ops::dropout(ones, 0.3, key);
                            },
                        .slice_rows =
                            [key](const Inputs& in, int64_t begin, int64_t) {
                              ops::DropoutKey moved = key;
                              moved.first_row += begin;
                              return ops::dropout(in[0], 0.3, moved);
                            }});
  };
  add("Dropout", 2100, {.seed = 5, .name = "model.layers.1.mlp", .step = 7});
  add("DropoutOfSomeFeatures", 37,
      {.seed = 5,
       .name = "model.layers.1.mlp",
       .step = 7,
       .first_row = 3,
       .first_feature = 11,
       .width = 61});
  add("DropoutOfSomeTokens", 130,
      {.seed = 5,
       .name = "model.layers.1.mlp",
       .step = 7,
       .first_row = 3,
       .first_token = 6,
       .length = 12});
}

void add_attention(std::vector<Subject>& subjects) {
  const auto add = [&](const std::string& name, int64_t T, int64_t H, int64_t G, int64_t K,
                       const Tensor& segments, ops::AttentionDropout dropout = {}) {
    const double scale = 1 / std::sqrt(static_cast<double>(K));
    subjects.push_back(
        {.name = name,
         .inputs = {{{3, T, H, K}}, {{3, T, G, K}}, {{3, T, G, K}}},
         .fast =
             [=](const Inputs& in) {
               return ops::causal_attention(in[0], in[1], in[2], segments, scale, dropout);
             },
         .composite =
             [=](const Inputs& in) {
               return ops::causal_attention_composite(in[0], in[1], in[2], segments, scale,
                                                      dropout);
             },
         .slice_rows =
             [=](const Inputs& in, int64_t begin, int64_t end) {
               ops::AttentionDropout moved = dropout;
               moved.first_row += begin;
               return ops::causal_attention(
                   in[0], in[1], in[2],
                   segments.defined() ? segments.slice(0, begin, end) : segments, scale, moved);
             },
         .exact_rows = false,
         .fp32_bound = 4e-6});
  };
  add("Attention", 40, 4, 4, 16, {});
  add("AttentionOfOneToken", 1, 2, 1, 8, {});
  add("AttentionWithGroups", 33, 6, 2, 20, {});
  Tensor segments = at::arange(3 * 35, at::kLong).view({3, 35}).floor_divide(12).to(at::kInt);
  segments.slice(1, 30, 35).fill_(-1);
  add("AttentionWithSegments", 35, 4, 2, 16, segments);
  add("AttentionWithDropout", 21, 4, 2, 8, {},
      {.prob = 0.2,
       .seed = 3,
       .name = "model.layers.0.attn",
       .step = 2,
       .first_row = 1,
       .first_head = 0,
       .total_heads = 4});
}

void add_gla(std::vector<Subject>& subjects) {
  const auto add = [&](const std::string& name, int64_t T, int64_t H, int64_t G, int64_t K,
                       int64_t V, const Tensor& segments) {
    const auto call = [=](auto form, const Inputs& in, int64_t begin, int64_t end) {
      const Tensor rows = segments.defined() ? segments.slice(0, begin, end) : segments;
      return form(in[0], in[1], in[2], in[3].square() * -0.1, rows, in[4],
                  1 / std::sqrt(static_cast<double>(K)))
          .o_BTHV;
    };
    subjects.push_back(
        {.name = name,
         .inputs = {{{3, T, H, K}},
                    {{3, T, G, K}},
                    {{3, T, G, V}},
                    {{3, T, G, K}, true, true},
                    {{3, H, K, V}, true, true}},
         .fast = [=](const Inputs& in) { return call(ops::gla, in, 0, 3); },
         .composite = [=](const Inputs& in) { return call(ops::gla_composite, in, 0, 3); },
         .slice_rows = [=](const Inputs& in, int64_t begin,
                           int64_t end) { return call(ops::gla, in, begin, end); },
         .fp32_bound = 5e-6});
  };
  add("Gla", 70, 2, 2, 20, 24, {});
  add("GlaWithGroups", 33, 4, 2, 16, 40, {});
  add("GlaOfFewTokens", 5, 2, 1, 9, 7, {});
  Tensor segments = at::arange(3 * 85, at::kLong).view({3, 85}).floor_divide(12).to(at::kInt);
  segments.slice(1, 80, 85).fill_(-1);
  add("GlaWithSegments", 85, 2, 2, 16, 16, segments);
}

void add_linear(std::vector<Subject>& subjects) {
  subjects.push_back(
      {.name = "Linear",
       .inputs = {{{7, 5, 24}}, {{40, 24}, false, true}, {{40}, false, true}},
       .fast = [](const Inputs& in) { return ops::linear(in[0], in[1], in[2]); },
       .composite = [](const Inputs& in) { return at::matmul(in[0], in[1].t()) + in[2]; },
       .exact_rows = false});
  subjects.push_back({.name = "LinearWithoutBias",
                      .inputs = {{{7, 24}}, {{40, 24}, false}},
                      .fast = [](const Inputs& in) { return ops::linear(in[0], in[1], Tensor()); },
                      .composite = [](const Inputs& in) { return at::matmul(in[0], in[1].t()); },
                      .exact_rows = false});
  subjects.push_back(
      {.name = "SplitAndMergeHeads",
       .inputs = {{{7, 3, 24}}},
       .fast = [](const Inputs& in) { return ops::merge_heads(ops::split_heads(in[0], 6) * 2.0); },
       .composite = [](const Inputs& in) { return in[0] * 2.0; }});
}

void add_delta_product(std::vector<Subject>& subjects) {
  for (const int64_t K : {3, 12, 64}) {
    subjects.push_back(
        {.name = cat("L2Normalise", K),
         .inputs = {{{11, 3, K}}},
         .fast = [](const Inputs& in) { return ops::l2_normalise(in[0], 0.3); },
         .composite = [](const Inputs& in) { return ops::l2_normalise_composite(in[0], 0.3); }});
  }
  const auto add = [&](const std::string& name, int64_t T, int64_t n, bool gated,
                       const Tensor& segments) {
    // Raw inputs become unit keys, gates <= 0 and betas in (0, 2).
    const auto with = [=](ops::DeltaProductResult (*form)(const ops::DeltaProductInputs&),
                          const Inputs& in, const Tensor& rows) {
      ops::DeltaProductInputs x;
      x.q_BTHK = in[0];
      x.k_BMHK = ops::l2_normalise_composite(in[1]);
      x.v_BMHV = in[2];
      x.beta_BMH = in[3].sigmoid() * 2.0;
      if (gated) x.gate_BTH = in[4].sigmoid() * -1.0;
      x.segments_BT = rows;
      return form(x).o_BTHV;
    };
    std::vector<InputSpec> inputs = {{{3, T, 2, 12}},
                                     {{3, T * n, 2, 12}},
                                     {{3, T * n, 2, 10}},
                                     {.shape = {3, T * n, 2}, .accumulate = true}};
    if (gated) inputs.push_back({.shape = {3, T, 2}, .accumulate = true});
    subjects.push_back(
        {.name = name,
         .inputs = inputs,
         .fast = [=](const Inputs& in) { return with(ops::delta_product, in, segments); },
         .composite =
             [=](const Inputs& in) { return with(ops::delta_product_composite, in, segments); },
         .slice_rows =
             [=](const Inputs& in, int64_t begin, int64_t end) {
               return with(ops::delta_product, in,
                           segments.defined() ? segments.slice(0, begin, end) : segments);
             },
         .exact_rows = false,  // the library's sigmoid depends on the layout
         .fp32_bound = 4e-6});
  };
  add("DeltaProduct", 40, 2, true, {});
  add("DeltaProductOfOneToken", 1, 3, false, {});
  add("DeltaProductWithoutGates", 75, 1, false, {});
  Tensor segments = at::arange(3 * 35, at::kLong).view({3, 35}).floor_divide(12).to(at::kInt);
  segments.slice(1, 30, 35).fill_(-1);
  add("DeltaProductWithSegments", 35, 3, true, segments);
}

void add_depthwise_conv(std::vector<Subject>& subjects) {
  using ops::Padding;
  struct Case {
    std::string name;
    int64_t T, C, W;
    Padding padding;
    bool silu, bias;
    Tensor segments;
    bool tail = false;
  };
  Tensor packed = at::arange(3 * 150, at::kLong).view({3, 150}).floor_divide(37).to(at::kInt);
  packed.slice(1, 130, 150).fill_(-1);
  for (const Case& c : std::initializer_list<Case>{
           {"DepthwiseConvCausal", 150, 37, 4, Padding::Causal, true, true, {}},
           {"DepthwiseConvCausalPlain", 66, 64, 3, Padding::Causal, false, false, {}},
           {"DepthwiseConvCausalOfOneTap", 5, 16, 1, Padding::Causal, true, true, {}},
           {"DepthwiseConvSame", 150, 70, 7, Padding::Same, true, true, {}},
           {"DepthwiseConvSameWide", 70, 33, 11, Padding::Same, false, true, {}},
           {"DepthwiseConvShorterThanItsTaps", 2, 19, 7, Padding::Same, true, false, {}},
           {"DepthwiseConvCausalPacked", 150, 20, 4, Padding::Causal, true, true, packed},
           {"DepthwiseConvSamePacked", 150, 35, 7, Padding::Same, true, true, packed},
           {"DepthwiseConvWithTail", 9, 24, 4, Padding::Causal, true, true, {}, true}}) {
    std::vector<InputSpec> inputs = {{{3, c.T, c.C}}, {{c.C, 1, c.W}, false, true}};
    if (c.bias) {
      inputs.push_back({{c.C}, false, true});
    }
    if (c.tail) {
      inputs.push_back({{3, c.W - 1, c.C}});
    }
    const auto call = [c](const auto& conv, const Inputs& in, const Tensor& segments) {
      return conv(in[0], in[1], c.bias ? in[2] : Tensor(), c.padding, c.silu, segments,
                  c.tail ? in.back() : Tensor())
          .y;
    };
    subjects.push_back(
        {.name = c.name,
         .inputs = inputs,
         .fast = [=](const Inputs& in) { return call(ops::depthwise_conv, in, c.segments); },
         .composite =
             [=](const Inputs& in) { return call(ops::depthwise_conv_composite, in, c.segments); },
         .slice_rows =
             [=](const Inputs& in, int64_t begin, int64_t end) {
               return call(ops::depthwise_conv, in,
                           c.segments.defined() ? c.segments.slice(0, begin, end) : Tensor());
             }});
  }
}

void add_streams(std::vector<Subject>& subjects) {
  for (const int64_t C : {5, 64, 100}) {
    const int64_t n = C == 5 ? 2 : 4;
    subjects.push_back(
        {.name = cat("ReadStreams", C),
         .inputs = {{{7, 3, n * C}}, {{7, 3, n}, true, true}},
         .fast = [](const Inputs& in) { return ops::read_streams(in[0], in[1]); },
         .composite = [](const Inputs& in) { return ops::read_streams_composite(in[0], in[1]); }});
    subjects.push_back(
        {.name = cat("WriteStreams", C),
         .inputs =
             {{{7, 3, n * C}}, {{7, 3, C}}, {{7, 3, n, n}, true, true}, {{7, 3, n}, true, true}},
         .fast = [](const Inputs& in) { return ops::write_streams(in[0], in[1], in[2], in[3]); },
         .composite =
             [](const Inputs& in) {
               return ops::write_streams_composite(in[0], in[1], in[2], in[3]);
             }});
  }
  subjects.push_back({.name = "NormalisedProduct",
                      .inputs = {{{11, 3, 48}}, {{48, 12}, false, true}},
                      .fast =
                          [](const Inputs& in) {
                            return ops::normalised_product(in[0], in[1]).to(in[0].scalar_type());
                          },
                      .composite =
                          [](const Inputs& in) {
                            const Tensor wide = in[0].to(in[1].scalar_type());
                            return at::matmul(wide * (std::sqrt(48.0) / wide.norm(2, -1, true)),
                                              in[1])
                                .to(in[0].scalar_type());
                          },
                      .exact_rows = false});
}

void add_ssd(std::vector<Subject>& subjects) {
  Tensor packed = at::arange(3 * 150, at::kLong).view({3, 150}).floor_divide(37).to(at::kInt);
  packed.slice(1, 130, 150).fill_(-1);
  struct Case {
    std::string name;
    int64_t T, H, P, N, G, chunk;
    bool reverse = false;
    Tensor segments = {};
  };
  const auto rows_of = [](const Tensor& segments, int64_t begin, int64_t end) {
    return segments.defined() ? segments.slice(0, begin, end) : segments;
  };
  for (const Case& c :
       std::initializer_list<Case>{{"Ssd", 150, 4, 16, 8, 1, 64},
                                   {"SsdReverse", 150, 4, 16, 8, 2, 64, true},
                                   {"SsdOddWidths", 37, 3, 5, 7, 3, 16},
                                   {"SsdOfOneToken", 1, 2, 8, 4, 1, 64},
                                   {"SsdPacked", 150, 2, 8, 4, 1, 32, false, packed},
                                   {"SsdPackedReverse", 150, 2, 8, 4, 1, 32, true, packed}}) {
    // y and the last state side by side: both are differentiable.
    const auto call = [c](const auto& op, const Inputs& in, const Tensor& segments) {
      const auto r = op(in[0], in[1] * in[1], -(in[2] * in[2]), in[3], in[4], segments, in[5],
                        ops::SsdOptions{.reverse = c.reverse, .chunk = c.chunk});
      return at::cat({r.y.flatten(1), r.state.flatten(1).to(r.y.scalar_type())}, 1);
    };
    subjects.push_back(
        {.name = c.name,
         .inputs = {{{3, c.T, c.H, c.P}},
                    {{3, c.T, c.H}, true, true},
                    {{c.H}, false, true},
                    {{3, c.T, c.G, c.N}},
                    {{3, c.T, c.G, c.N}},
                    {{3, c.H, c.P, c.N}, true, true}},
         .fast = [=](const Inputs& in) { return call(ops::ssd, in, c.segments); },
         .composite = [=](const Inputs& in) { return call(ops::ssd_composite, in, c.segments); },
         .slice_rows =
             [=](const Inputs& in, int64_t begin, int64_t end) {
               return call(ops::ssd, in, rows_of(c.segments, begin, end));
             },
         .fp32_bound = 1e-5});
  }
  for (const Case& c :
       std::initializer_list<Case>{{"Quasiseparable", 150, 4, 16, 8, 1, 64},
                                   {"QuasiseparableWithGroups", 70, 4, 5, 7, 2, 16},
                                   {"QuasiseparableManyHeads", 20, 12, 64, 8, 1, 64},
                                   {"QuasiseparableOfOneToken", 1, 2, 8, 4, 1, 64},
                                   {"QuasiseparablePacked", 150, 2, 8, 4, 1, 32, false, packed}}) {
    const auto call = [c](const auto& op, const Inputs& in, const Tensor& segments) {
      return op(in[0], -(in[1] * in[1]), ops::ScanInputs{in[2] * in[2], in[3], in[4]},
                ops::ScanInputs{in[5] * in[5], in[6], in[7]}, in[8], segments, in[9], c.chunk);
    };
    const InputSpec x{{3, c.T, c.H, c.P}}, step{{3, c.T, c.H}, true, true}, key{{3, c.T, c.G, c.N}};
    subjects.push_back(
        {.name = c.name,
         .inputs = {x,
                    {{c.H}, false, true},
                    step,
                    key,
                    key,
                    step,
                    key,
                    key,
                    step,
                    {{c.H, c.P, c.N}, false, true}},
         .fast = [=](const Inputs& in) { return call(ops::quasiseparable, in, c.segments); },
         .composite =
             [=](const Inputs& in) { return call(ops::quasiseparable_composite, in, c.segments); },
         .slice_rows =
             [=](const Inputs& in, int64_t begin, int64_t end) {
               return call(ops::quasiseparable, in, rows_of(c.segments, begin, end));
             },
         .fp32_bound = 1e-5});
  }
}

}  // namespace op_subjects_detail

std::vector<Subject> all_subjects() {
  using namespace op_subjects_detail;
  std::vector<Subject> subjects;
  add_norms(subjects);
  add_gated_norms(subjects);
  add_activations(subjects);
  add_rope(subjects);
  add_dropout(subjects);
  add_attention(subjects);
  add_gla(subjects);
  add_linear(subjects);
  add_delta_product(subjects);
  add_depthwise_conv(subjects);
  add_streams(subjects);
  add_ssd(subjects);
  return subjects;
}

}  // namespace strata::testing
