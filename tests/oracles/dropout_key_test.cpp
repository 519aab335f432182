// Each kind of dropout alone draws another mask at another step and the same mask at the same step.
// With all kinds at once one of them could stand still unnoticed.
#include <gtest/gtest.h>

#include "core/text.h"
#include "tests/support/run_model.h"

namespace strata::testing {

TEST(DropoutKey, EveryKindDependsOnTheStep) {
  for (const std::string kind : {"embd_pdrop", "resid_pdrop", "attn_pdrop"}) {
    std::string off;
    for (const std::string other : {"embd_pdrop", "resid_pdrop", "attn_pdrop"}) {
      if (other != kind) off += cat(", \"", other, "\": 0");
    }
    const TinyModel model{
        "gpt2 with " + kind,
        cat(R"({"model_type": "gpt2", "vocab_size": 40, "n_positions": 32, "n_embd": 32, "n_layer": 1,
                                  "n_head": 4, "initializer_range": 0.2, ")",
            kind, "\": 0.2", off, "}"),
        {}};
    RunSetup setup;
    setup.microbatches = 1;
    ModelRun run(model, setup, make_self_communicator());
    Batch batch = tiny_rows(40, 0, setup.global_batch, 20, 0, false);
    auto loss_at = [&](int64_t step) {
      batch.step = step;
      return run.manager().forward_backward({&batch, 1}).loss_sum;
    };
    const double first = loss_at(0);
    EXPECT_EQ(first, loss_at(0)) << kind;
    EXPECT_NE(first, loss_at(1)) << kind;
    batch.step = 0;
    const double evaluated = run.manager().forward_only({&batch, 1}).loss_sum;
    EXPECT_NE(first, evaluated) << kind << " drops nothing in training";
    batch.step = 1;
    EXPECT_EQ(evaluated, run.manager().forward_only({&batch, 1}).loss_sum) << kind;
  }
}

}  // namespace strata::testing
