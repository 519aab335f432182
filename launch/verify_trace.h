#pragma once
// Replays recorded updates (update_trace.h) through the registered rules in a layout and compares
// the weights after every step.
#include <string>

#include "launch/parity_report.h"
#include "launch/run_sections.h"
#include "launch/runtime.h"

namespace strata {

// Collective over the job. Adds a line per parameter to `report`: the largest error of a step
// relative to the distance the parameter has moved until then.
void verify_update_trace(const std::string& path, const PlanSection& plan, at::ScalarType dtype,
                         Runtime& runtime, ParityReport& report);

}  // namespace strata
