// The mixer of hydra cut over ranks: every gradient equals that of one process. The cases are those
// whose heads, groups and norms meet the borders of ranks in different ways.
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "core/text.h"
#include "models/hydra/block.h"
#include "tests/support/lone_layer.h"
#include "tests/support/mpi_main.h"
#include "tests/support/tiny_models.h"

namespace strata::testing {
namespace hydra_mpi_test_detail {

TEST(HydraMixerMpi, EqualsOneProcess) {
  CommPool pool(make_mpi_communicator());
  const int ranks = pool.job().size();
  struct Case {
    std::string name;
    int64_t hidden, headdim, groups, norm_groups;
    bool learned, bias, mask_pad;
  };
  for (const Case& c : std::initializer_list<Case>{
           {"one group", 16, 8, 1, 1, true, false, true},
           {"groups within ranks", 32, 8, 8, 8, false, true, true},
           {"groups over ranks", 32, 8, 2, 2, true, false, false},
           {"groups across borders", 48, 8, 3, 3, false, true, true}}) {  // 12 heads
    HydraConfig config;
    config.hidden_size = c.hidden;
    config.headdim = c.headdim;
    config.ngroups = c.groups;
    config.norm_groups = c.norm_groups;
    config.learnable_init_states = c.learned;
    config.bias = c.bias;
    config.mask_pad = c.mask_pad;
    config.d_state = 5;
    config.chunk_size = 8;
    config.initializer_range = 0.3;
    const auto make = [&](const ParallelLayout& layout) {
      return std::make_shared<HydraMixer>(config, 0, layout);
    };
    Batch batch = tiny_rows(50, 0, 3, 20, 0, false);
    batch.segments = at::zeros({3, 20}, at::kInt);
    batch.segments.slice(0, 1, 2).slice(1, 15, 20).fill_(-1);
    const Tensor x = normal_values({3, 20, c.hidden}, 1), dy = normal_values({3, 20, c.hidden}, 2);
    LoneLayer alone(make, "mixer.", {}, nullptr);
    const LoneResult serial = alone.run(x, batch, dy);
    for (const bool sequence_parallel : {false, true}) {
      LoneLayer part(make, "mixer.",
                     {.tp = ranks, .sequence_parallel = sequence_parallel && ranks > 1}, &pool);
      const LoneResult parallel = part.run(part.own_tokens(x), batch, part.own_tokens(dy));
      expect_part_of(part, parallel, serial, 1e-12,
                     cat(c.name, " on ", ranks, sequence_parallel ? " with cut tokens" : ""));
    }
  }
}

}  // namespace hydra_mpi_test_detail
}  // namespace strata::testing
