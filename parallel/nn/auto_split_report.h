#pragma once
// What tensor parallelism does to a model, as a table for people: each linear with its cut and the
// reason, each region with its collectives and what fell back.
#include <cstdint>
#include <string>
#include <vector>

namespace strata {

class ModelSpec;
struct Plan;

// Runs of layers of equal cost class are shown once. Bytes are those of one token's forward and
// backward pass, with values of `value_bytes`; an all_reduce of n values counts n. Under sequence
// parallelism the all_reduces at entries and exits become all_gathers and reduce_scatters of the
// same sizes. Builds layers without storage; needs no processes.
std::string auto_split_report(const ModelSpec& spec, int tp, int64_t value_bytes = 2);

// What fell back under a plan, one sentence each, naming the region; equal ones of later layers are
// counted. Empty when every cut is the preferred one.
std::vector<std::string> auto_split_notes(const ModelSpec& spec, const Plan& plan);

}  // namespace strata
