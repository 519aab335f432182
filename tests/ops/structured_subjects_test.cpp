// Subjects of OpSuite: ternary linears, the gated scan, structured matrices.
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>

#include "core/ops/bit_linear.h"
#include "core/ops/gated_scan.h"
#include "core/ops/monarch.h"
#include "core/text.h"
#include "tests/ops/op_suite.h"

namespace strata::testing {

namespace structured_subjects_detail {

void add_bit_linear(std::vector<Subject>& subjects) {
  const auto add = [&](const std::string& name, int64_t in, int64_t out, bool ternary,
                       ops::BitOptions options) {
    const auto codes_of = [ternary](const Tensor& w) {
      return ternary ? ops::ternary_codes(w, ops::absolute_sum(w) / static_cast<double>(w.numel()))
                     : ops::TernaryCodes{};
    };
    subjects.push_back({.name = name,
                        .inputs = {{{7, 3, in}}, {{in}, false, true}, {{out, in}, false}},
                        .fast =
                            [=](const Inputs& in) {
                              return ops::bit_linear(in[0], in[1], in[2], codes_of(in[2]), options);
                            },
                        .composite =
                            [=](const Inputs& in) {
                              return ops::bit_linear_composite(in[0], in[1], in[2], codes_of(in[2]),
                                                               options);
                            },
                        .exact_rows = false,
                        .smooth = !ternary && options.round == ops::ActRound::None,
                        // One code of some hundreds may round the other way.
                        .fp32_bound = ternary ? 2e-3 : 2e-6});
  };
  add("BitLinear", 40, 24, true, {});
  add("BitLinearOfOddWidths", 37, 5, true, {.eps = 1e-3, .round = ops::ActRound::HalfAway});
  add("BitLinearOfFewBits", 24, 16, true, {.bits = 4});
  add("BitLinearUnrounded", 40, 24, false, {.eps = 1e-3, .round = ops::ActRound::None});
}

void add_gated_scan(std::vector<Subject>& subjects) {
  const auto add = [&](const std::string& name, int64_t T, int64_t D, const Tensor& segments) {
    subjects.push_back(
        {.name = name,
         .inputs = {{{3, T, D}}, {{3, T, D}}, {{D}, false, true}, {{3, D}, true, true}},
         .fast =
             [=](const Inputs& in) {
               return ops::gated_scan(in[0], in[1], in[2] * 0.1 + 0.4, segments, in[3]).h_BTD;
             },
         .composite =
             [=](const Inputs& in) {
               return ops::gated_scan_composite(in[0], in[1], in[2] * 0.1 + 0.4, segments, in[3])
                   .h_BTD;
             },
         .slice_rows =
             [=](const Inputs& in, int64_t begin, int64_t end) {
               return ops::gated_scan(in[0], in[1], in[2] * 0.1 + 0.4,
                                      segments.defined() ? segments.slice(0, begin, end) : segments,
                                      in[3])
                   .h_BTD;
             }});
  };
  add("GatedScan", 41, 19, {});
  add("GatedScanOfManyChannels", 5, 700, {});
  Tensor segments = at::arange(3 * 35, at::kLong).view({3, 35}).floor_divide(12).to(at::kInt);
  add("GatedScanWithSegments", 35, 16, segments);
}

void add_monarch(std::vector<Subject>& subjects) {
  const auto add = [&](const std::string& name, int64_t in, int64_t out, int64_t blocks) {
    const auto s = ops::monarch_shape(in, out, blocks);
    subjects.push_back(
        {.name = cat("Monarch", name),
         .inputs = {{{7, 3, in}},
                    {{blocks, s.middle_block, s.in_block}, false},
                    {{blocks, s.out_block, s.middle_block}, false}},
         .fast = [=](const Inputs& i) { return ops::monarch(i[0], i[1], i[2], out); },
         .composite =
             [=](const Inputs& i) { return ops::monarch_composite(i[0], i[1], i[2], out); },
         .exact_rows = false});
    subjects.push_back(
        {.name = cat("BlockDiagonal", name),
         .inputs = {{{7, 3, in}}, {{blocks, s.out_block, s.in_block}, false}},
         .fast = [=](const Inputs& i) { return ops::block_diagonal(i[0], i[1], out); },
         .composite =
             [=](const Inputs& i) { return ops::block_diagonal_composite(i[0], i[1], out); },
         .exact_rows = false});
  };
  add("Square", 16, 16, 4);
  add("Expanding", 24, 80, 4);
  add("Contracting", 80, 24, 2);
  add("Padded", 22, 37, 3);
}

}  // namespace structured_subjects_detail

void add_quantised_and_structured(std::vector<Subject>& subjects) {
  structured_subjects_detail::add_bit_linear(subjects);
  structured_subjects_detail::add_gated_scan(subjects);
  structured_subjects_detail::add_monarch(subjects);
}

}  // namespace strata::testing
