#include "parallel/plan/plan.h"

#include <gtest/gtest.h>

#include <set>

#include "core/error.h"
#include "parallel/engine/flat_layout.h"
#include "parallel/plan/mesh.h"

namespace strata {
namespace {

TEST(Mesh, TensorIndexIsFastestAndStageSlowest) {
  const Mesh mesh(16, 2, {.dp = 4, .tp = 2});
  EXPECT_EQ(mesh.coordinates(13), (Coordinates{1, 2, 1}));
  EXPECT_EQ(mesh.group(MeshAxis::Tensor, 13), (std::vector<int>{12, 13}));
  EXPECT_EQ(mesh.group(MeshAxis::Data, 13), (std::vector<int>{9, 11, 13, 15}));
  EXPECT_EQ(mesh.group(MeshAxis::Pipeline, 13), (std::vector<int>{5, 13}));
}

TEST(Mesh, GroupsPartitionTheRanks) {
  for (int dp : {1, 2, 4}) {
    const Mesh mesh(8, 1, {.dp = dp, .tp = 8 / dp});
    for (MeshAxis axis : {MeshAxis::Pipeline, MeshAxis::Data, MeshAxis::Tensor}) {
      std::multiset<int> all;
      for (const auto& group : mesh.all_groups(axis)) all.insert(group.begin(), group.end());
      EXPECT_EQ(all.size(), 8u);
      EXPECT_EQ(std::set<int>(all.begin(), all.end()).size(), 8u);
    }
    for (int rank = 0; rank < 8; ++rank) EXPECT_EQ(mesh.rank_of(mesh.coordinates(rank)), rank);
  }
}

TEST(UniformPlan, CutsBlocksAsEvenlyAsPossibleLongerPartsFirst) {
  UniformPlan request;
  request.world_size = 3;
  request.pp = 3;
  const Plan plan = make_uniform_plan(request, 9);
  EXPECT_EQ(plan.virtual_stage, (std::vector<int>{0, 0, 0, 0, 1, 1, 2, 2, 2}));
  EXPECT_EQ(plan.layers[0].dp, 1);
  EXPECT_EQ(even_stages(8, 3), (std::vector<int>{0, 0, 0, 1, 1, 2, 2, 2}));
  EXPECT_EQ(even_stages(4, 4), (std::vector<int>{0, 1, 2, 3})) << "more parts than blocks";
  EXPECT_EQ(even_stages(5, 4), (std::vector<int>{0, 0, 1, 2, 3}));
}

TEST(UniformPlan, NamesTheNearestWorldSizes) {
  UniformPlan request;
  request.world_size = 6;
  request.strategy.tp = 4;
  try {
    make_uniform_plan(request, 4);
    FAIL();
  } catch (const ConfigError& e) {
    EXPECT_NE(std::string(e.what()).find("nearest: 4, 8"), std::string::npos) << e.what();
  }
}

TEST(FlatLayout, AlignsParametersAndParts) {
  const FlatLayout flat = make_flat_layout({33, 512, 7, 300}, 4);
  EXPECT_EQ(flat.slots[0].begin, 0);
  EXPECT_EQ(flat.slots[1].begin, 64);
  EXPECT_EQ(flat.slots[2].begin, 576);
  EXPECT_EQ(flat.slots[3].begin, 640);
  EXPECT_EQ(flat.size, 1024);
  EXPECT_EQ(flat.part(3, 4), (Range{768, 1024}));
}

TEST(FlatLayout, PartsCountEachElementOnce) {
  const std::vector<int64_t> sizes{33, 512, 7, 0, 300, 1};
  for (int dp : {1, 2, 3, 8}) {
    const FlatLayout flat = make_flat_layout(sizes, dp);
    for (size_t s = 0; s < sizes.size(); ++s) {
      int64_t counted = 0;
      for (int k = 0; k < dp; ++k) counted += overlap(flat.slots[s], flat.part(k, dp)).size();
      EXPECT_EQ(counted, sizes[s]);
    }
  }
}

}  // namespace
}  // namespace strata
