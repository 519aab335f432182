// The automatic rules on the structures that models are made of, without any process.
#include "parallel/nn/auto_split.h"

#include <gtest/gtest.h>

#include "core/text.h"
#include "parallel/nn/auto_split_report.h"
#include "tests/support/custom_spec.h"

namespace strata {
namespace auto_split_test {

LinearNode node(const std::string& name, int64_t in, int64_t out, int64_t unit = 1) {
  return {.name = name, .in = in, .out = out, .unit = unit};
}
LinearNode entry(const std::string& name, int64_t in, int64_t out) {
  return {.name = name, .in = in, .out = out, .role = LinearRole::Entry};
}

// "column,row | entry<-64 exit->64 | notes"
std::string summary(const std::vector<LinearNode>& nodes, int tp, bool other_parameters = false) {
  const RegionSplit split = split_region(nodes, other_parameters, tp);
  std::vector<std::string> cuts, collectives;
  for (const LinearSplit& linear : split.linears) {
    cuts.push_back(
        cat(linear_cut_name(linear.cut), linear.takes_own ? "*" : "", linear.identical ? "=" : ""));
  }
  for (const RegionCollective& c : split.collectives)
    collectives.push_back(cat(c.where, c.backward ? "<-" : "->", c.features));
  std::string out = join(cuts, ",");
  if (!collectives.empty()) out += " | " + join(collectives, " ");
  return out;
}

std::string notes(const std::vector<LinearNode>& nodes, int tp, bool other_parameters = false) {
  return join(split_region(nodes, other_parameters, tp).notes, "; ");
}

TEST(AutoSplit, MlpIsColumnThenRowWithOnePairOfCollectives) {
  const std::vector<LinearNode> mlp = {node("up", 64, 256), node("down", 256, 64)};
  EXPECT_EQ(summary(mlp, 2), "column,row | entry<-64 exit->64");
  EXPECT_EQ(notes(mlp, 2), "");
  const RegionSplit split = split_region(mlp, false, 4);
  EXPECT_EQ(split.linears[0].shard, split_out());
  EXPECT_EQ(split.linears[1].shard, split_in());
  EXPECT_TRUE(split.cut);
  EXPECT_TRUE(split.partial);
  EXPECT_EQ(split.features_per_token(), 128);
  // As wide inside as outside: in declaration order.
  EXPECT_EQ(summary({node("up", 64, 64), node("down", 64, 64)}, 2),
            "column,row | entry<-64 exit->64");
}

TEST(AutoSplit, GatedMlpHasTwoColumns) {
  const std::vector<LinearNode> mlp = {node("gate", 64, 96), node("up", 64, 96),
                                       node("down", 96, 64)};
  EXPECT_EQ(summary(mlp, 4), "column,column,row | entry<-64 exit->64");
  const std::vector<LinearNode> fused = {
      {.name = "gate_up", .in = 64, .out = 192, .segments = {96, 96}}, node("down", 96, 64)};
  EXPECT_EQ(summary(fused, 4), "column,row | entry<-64 exit->64");
  EXPECT_EQ(split_region(fused, false, 4).linears[0].shard, split_out(1, {96, 96}));
  EXPECT_EQ(split_region(fused, false, 4).linears[1].shard, split_in());
}

TEST(AutoSplit, ThreeLayersLeaveTheThirdWholeAndSaySo) {
  const std::vector<LinearNode> mlp = {node("a", 64, 128), node("b", 128, 96), node("c", 96, 64)};
  EXPECT_EQ(summary(mlp, 2), "column,row,whole= | entry<-64 after b->96");
  EXPECT_EQ(notes(mlp, 2),
            "c is computed on every rank: cutting it by its output would cost an all_reduce of 96 "
            "values per token backward and an all_gather of 64 forward");
  EXPECT_FALSE(split_region(mlp, false, 2).partial);
  // Parameters of unknown place make the tail impossible.
  EXPECT_EQ(summary(mlp, 2, true), "whole=,whole=,whole=");
  EXPECT_NE(notes(mlp, 2, true).find("other parameters"), std::string::npos);
  // Four are two pairs.
  EXPECT_EQ(
      summary({node("a", 64, 128), node("b", 128, 96), node("c", 96, 160), node("d", 160, 64)}, 2),
      "column,row,column,row | entry<-64 after b->96 after b<-96 exit->64");
}

TEST(AutoSplit, AttentionIsCutByHeads) {
  const std::vector<LinearNode> attention = {node("q", 64, 64, 16), node("k", 64, 32, 16),
                                             node("v", 64, 32, 16), node("o", 64, 64)};
  EXPECT_EQ(summary(attention, 2), "column,column,column,row | entry<-64 exit->64");
  const RegionSplit split = split_region(attention, false, 2);
  EXPECT_EQ(split.linears[1].shard, split_out(16));
  EXPECT_EQ(split.linears[3].shard, split_in(16));
  const std::vector<LinearNode> fused = {
      {.name = "qkv", .in = 64, .out = 192, .unit = 16, .segments = {64, 64, 64}},
      node("o", 64, 64)};
  EXPECT_EQ(summary(fused, 4), "column,row | entry<-64 exit->64");
  // Two key/value heads for four ranks: whole, and the sentence names who is in the way.
  EXPECT_EQ(summary(attention, 4), "whole=,whole=,whole=,whole=");
  EXPECT_EQ(notes(attention, 4), "computed on every rank: k has 2 units of 16, not divisible by 4");
}

TEST(AutoSplit, SixHeadsOnFourRanksAreComputedEverywhere) {
  const std::vector<LinearNode> attention = {node("q", 48, 48, 8), node("k", 48, 48, 8),
                                             node("v", 48, 48, 8), node("o", 48, 48)};
  EXPECT_EQ(summary(attention, 2), "column,column,column,row | entry<-48 exit->48");
  EXPECT_EQ(summary(attention, 4), "whole=,whole=,whole=,whole=");
  EXPECT_EQ(notes(attention, 4), "computed on every rank: q has 6 units of 8, not divisible by 4");
  EXPECT_FALSE(split_region(attention, false, 4).cut);
}

// Rule 2 on the recurrent mixers: what makes heads is cut by heads, a low-rank step before it is
// whole, the output projection is a row.
TEST(AutoSplit, RecurrentMixers) {
  const std::vector<LinearNode> gla = {
      node("q", 64, 32, 8), node("k", 64, 32, 8),   node("v", 64, 64, 16), node("g", 64, 64, 16),
      node("gk.0", 64, 4),  node("gk.1", 4, 32, 8), node("o", 64, 64)};
  EXPECT_EQ(summary(gla, 4, true),
            "column,column,column,column,whole,column,row | entry<-64 exit->64");
  EXPECT_EQ(split_region(gla, true, 4).linears[4].why, "gk.1 needs all of its result");
  const std::vector<LinearNode> delta = {
      node("q", 64, 32, 8),
      {.name = "k", .in = 64, .out = 64, .unit = 8, .segments = {32, 32}},
      {.name = "v", .in = 64, .out = 128, .unit = 16, .segments = {64, 64}},
      {.name = "b", .in = 64, .out = 8, .segments = {4, 4}},
      node("g", 64, 64, 16),
      node("o", 64, 64)};
  EXPECT_EQ(summary(delta, 4, true), "column,column,column,column,column,row | entry<-64 exit->64");
  // Parts that all heads share stay whole inside the region; their gradients are partial.
  const std::vector<LinearNode> shared = {node("x", 64, 128, 16),
                                          {.name = "bc", .in = 64, .out = 24, .whole = true},
                                          node("o", 128, 64)};
  EXPECT_EQ(summary(shared, 4), "column,whole,row | entry<-64 exit->64");
  EXPECT_FALSE(split_region(shared, false, 4).linears[1].identical);
}

TEST(AutoSplit, ParallelBranchesShareEntryAndExit) {
  const std::vector<LinearNode> branches = {node("q", 64, 64, 16), node("k", 64, 64, 16),
                                            node("v", 64, 64, 16), node("o", 64, 64),
                                            entry("up", 64, 256),  node("down", 256, 64)};
  EXPECT_EQ(summary(branches, 4), "column,column,column,row,column,row | entry<-64 exit->64");
  std::vector<LinearNode> unsaid = branches;
  unsaid[4].role = LinearRole::Auto;  // after o, or beside it?
  EXPECT_EQ(summary(unsaid, 4), "whole=,whole=,whole=,whole=,whole=,whole=");
  EXPECT_NE(notes(unsaid, 4).find("up may read the region's input or the result of o: declare"),
            std::string::npos)
      << notes(unsaid, 4);
  std::vector<LinearNode> chain = branches;
  chain[4].role = LinearRole::Inner;
  EXPECT_EQ(summary(chain, 4),
            "column,column,column,row,column,row | entry<-64 after o->64 after o<-64 exit->64");
}

TEST(AutoSplit, OtherDimensionWhenTheFirstDoesNotDivide) {
  // 90 does not divide by 4, 64 does: up reads the rank's own features of its input.
  const std::vector<LinearNode> mlp = {node("up", 64, 90), node("down", 90, 64)};
  EXPECT_EQ(summary(mlp, 4), "row*,whole= | entry<-64 after up->90");
  EXPECT_NE(notes(mlp, 4).find("up makes 90 features, not divisible by 4: cut by its input"),
            std::string::npos)
      << notes(mlp, 4);
  EXPECT_EQ(summary({node("up", 66, 90), node("down", 90, 66)}, 4), "whole=,whole=");
  EXPECT_EQ(summary({node("mix", 64, 64)}, 4), "row* | entry<-64 exit->64");
  EXPECT_EQ(summary({node("mix", 66, 64)}, 4), "whole=");
  // A narrow side result is whole beside cut ones.
  EXPECT_EQ(summary({node("up", 64, 128), node("scores", 64, 3), node("down", 128, 64)}, 4),
            "column,whole,row | entry<-64 exit->64");
}

TEST(AutoSplit, UnknownStructureIsComputedEverywhere) {
  EXPECT_NE(notes({node("up", 64, 192), node("down", 96, 64)}, 2).find("down reads 96 features"),
            std::string::npos);
  EXPECT_EQ(summary({node("up", 64, 192), node("down", 96, 64)}, 2), "whole=,whole=");
  EXPECT_EQ(notes({}, 2), "computed on every rank: it has no linears");
  // Gated and square: is the second one gate or way out?
  EXPECT_EQ(summary({node("gate", 64, 64), node("up", 64, 64), node("down", 64, 64)}, 2),
            "whole=,whole=,whole=");
  EXPECT_EQ(summary({node("gate", 64, 64), entry("up", 64, 64), node("down", 64, 64)}, 2),
            "column,column,row | entry<-64 exit->64");
}

TEST(AutoSplit, OneRankCutsNothing) {
  EXPECT_EQ(summary({node("up", 64, 256), node("down", 256, 64)}, 1), "whole,whole");
  EXPECT_EQ(notes({node("up", 64, 255), node("down", 256, 64)}, 1), "");
}

class Mlp final : public Region {
 public:
  Mlp(int64_t width, int64_t inner, const ParallelLayout& layout) : Region(layout) {
    linear("up", width, inner);
    linear("down", inner, width);
  }
  Tensor forward(const Tensor& x, const Batch&) override { return x; }
};
class Block final : public Layer {
 public:
  explicit Block(const ParallelLayout& layout) : Layer(layout) {
    add<Mlp>("even", 32, 96, layout);
    add<Mlp>("odd", 30, 99, layout);
  }
  Tensor forward(const Tensor& x, const Batch&) override { return x; }
};

TEST(AutoSplitReport, ListsLayersCutsReasonsAndBytes) {
  const testing::CustomSpec spec(
      [](const ParallelLayout& layout) { return std::make_shared<Block>(layout); });
  EXPECT_EQ(auto_split_report(spec, 4),
            R"(layer                         weight              size            cut         why
model.embed_tokens
                              weight              32 x 64         vocabulary  rows of the vocabulary
    forward all_reduce of 32 (exit): 64 bytes per token
model.layers.0 and 1 more like it
  even                        up                  32 -> 96        column      reads whole features
                              down                96 -> 32        row         reads what up cut
    backward all_reduce of 32 (entry), forward all_reduce of 32 (exit): 128 bytes per token
  odd                         up                  30 -> 99        whole       the region is computed on every rank
                              down                99 -> 30        whole       the region is computed on every rank
    no collectives
    on every rank in full: 11880 FLOPs per token of the forward pass
    note: up makes 99 features, not divisible by 4: computed on every rank
    note: computed on every rank: no linear of it can be cut
lm_head
                              lm_head.weight      32 x 64         vocabulary  rows of the vocabulary
    backward all_reduce of 32 (entry), forward all_reduces of 4 fp32 values (loss): 80 bytes per token
)");
}

TEST(AutoSplitReport, NotesNameTheRegionAndCountItsLikes) {
  const testing::CustomSpec spec(
      [](const ParallelLayout& layout) { return std::make_shared<Block>(layout); });
  UniformPlan request{.world_size = 4};
  request.strategy.tp = 4;
  const auto notes = auto_split_notes(spec, make_uniform_plan(request, spec.layer_count()));
  ASSERT_EQ(notes.size(), 1u) << join(notes, "\n");
  EXPECT_EQ(notes[0],
            "model.layers.0.odd and 1 like it: up makes 99 features, not divisible by 4: computed "
            "on every rank; computed on every rank: no linear of it can be cut");
  request.strategy.tp = 1;
  EXPECT_EQ(auto_split_notes(spec, make_uniform_plan(request, spec.layer_count())).size(), 0u);
}

// Cuts that authors declare are shown too.
TEST(AutoSplitReport, ShowsDeclaredCuts) {
  const std::string text = auto_split_report(*testing::make_tiny(testing::tiny_models()[1]), 2);
  EXPECT_NE(text.find("q_proj"), std::string::npos) << text;
  EXPECT_NE(text.find("column      declared"), std::string::npos) << text;
  EXPECT_NE(text.find("row         declared"), std::string::npos) << text;
}

}  // namespace auto_split_test
}  // namespace strata
