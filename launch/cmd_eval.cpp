// strata eval RUN.ini
#include <iostream>
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "data/tokenizer.h"
#include "launch/command_line.h"
#include "launch/commands.h"
#include "launch/evaluation.h"
#include "launch/model_session.h"
#include "launch/throughput.h"

namespace strata {
namespace cmd_eval_detail {

void print(const EvalResult& result, int64_t step, bool json) {
  if (!json) {
    std::cout << eval_line(result, step) << '\n';
    for (const LayerNuclearNorm& l : result.hidden) {
      std::cout << cat("  ", l.layer, "  matrix nuclear norm ", l.nuclear_norm, "  per token ",
                       l.per_token, '\n');
    }
    return;
  }
  nlohmann::ordered_json out = {{"step", step},
                                {"loss", result.loss},
                                {"perplexity", result.perplexity()},
                                {"accuracy", result.accuracy},
                                {"labels", result.counted},
                                {"rows", result.rows}};
  if (result.bits_per_byte) out["bits_per_byte"] = *result.bits_per_byte;
  for (const LayerNuclearNorm& l : result.hidden) {
    out["hidden"].push_back(
        {{"layer", l.layer}, {"matrix_nuclear_norm", l.nuclear_norm}, {"per_token", l.per_token}});
  }
  if (const auto& s = result.streams) {
    out["streams"] = {{"sum_gap", s->sum_gap},
                      {"diagonal", s->diagonal},
                      {"forward_gain", s->forward_gain},
                      {"backward_gain", s->backward_gain}};
  }
  std::cout << out.dump() << '\n';
}

}  // namespace cmd_eval_detail

int cmd_eval(const Arguments& arguments) {
  CommandLine line(
      "eval", "RUN [--checkpoint DIR] [--plan FILE] [--json] [--hidden] [--section.key=value]...",
      "Prints loss, perplexity and accuracy on the validation data of a run "
      "([eval] rows), with its newest\n"
      "checkpoint, the one given, or the weights of ckpt.init. RUN is a run file or a run's "
      "folder.");
  line.positional("RUN", 1, 1);
  line.short_for("plan", "FILE", "plan.file", "plan file; short for --plan.file=FILE");
  line.short_for("checkpoint", "DIR", "ckpt.resume", "folder of one checkpoint");
  line.flag("json", "print the result as JSON");
  line.flag("hidden",
            "also the Matrix Nuclear-Norm (arXiv 2410.10672) of every layer's hidden states");
  if (!line.parse(arguments)) return 0;
  const RunConfig config = read_session_config(line, arguments.families);
  Runtime runtime({config.runtime, config.comm, config.log, {}});
  ModelSession session(config, runtime);
  return runtime.guard([&] {
    session.load();
    const EvalResult result = evaluate(session.model(), session.valid_data(), config.eval.rows,
                                       session.bytes_per_token(), {}, line.has("hidden"));
    if (runtime.first()) cmd_eval_detail::print(result, session.step(), line.has("json"));
    return 0;
  });
}

}  // namespace strata
