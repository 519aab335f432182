#pragma once
// The strata command line as a function, for programs that bring model families of their own
// (docs/own-model.md):
//
//   int main(int argc, char** argv) { return strata::run_cli(argc, argv, add_my_families); }
//
// has every command of strata; train, eval, sample and config know the further families by their
// names (model.name = mine) and keys.
#include "models/register.h"

namespace strata {

// Runs "PROGRAM COMMAND ARGS..." and returns the exit code (docs/cli.md). Errors are printed on
// standard error, by one rank where all have the same. Call it once, from main(): it starts and
// ends MPI, installs signal handlers, and ends the process itself after a hang.
int run_cli(int argc, char** argv, const ExtraFamilies& families = {});

}  // namespace strata
