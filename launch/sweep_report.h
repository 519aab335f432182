#pragma once
// What `strata sweep` shows of its results. Pure functions of a Sweep; `key` is that of --best-by
// ("": the best of all points).
#include <string>

#include "launch/sweep_grid.h"

namespace strata {

// The table, the best of each value of the key, what to extend, and what failed and why.
std::string sweep_text(const Sweep& sweep, const std::string& key);
std::string sweep_markdown(const Sweep& sweep, const std::string& key);
// {"by": KEY, "axes": {KEY: [VALUES]}, "points": [{"name", "values", "state", "exit_code",
//  "message", "steps", "train_loss", "eval_loss", "tokens_per_s", "step_time_s"}],
//  "best": [{"value", "point", "advice"}]}; points in the order of the table, what is missing left
// out.
std::string sweep_json(const Sweep& sweep, const std::string& key);
// Two charts: the training of the best point of each value of the key (of the six best points
// without one), and the loss against the swept number with the most values, other keys at their
// best; one line for each value of the key. The second is left out where no key is a number.
std::string sweep_svg(const Sweep& sweep, const std::string& key);

}  // namespace strata
