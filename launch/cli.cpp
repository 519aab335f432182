#include "launch/cli.h"

#include <cstdio>
#include <iostream>

#include "core/prepare_process.h"
#include "launch/commands.h"
#include "launch/failure.h"
#include "launch/launcher.h"

namespace strata {

int run_cli(int argc, char** argv, const ExtraFamilies& families) {
  prepare_process();
  try {
    Arguments arguments(argv + 1, argv + argc);
    arguments.families = families;
    return run_command(arguments);
  } catch (...) {
    // All ranks end up here with the same error, or this is the only one: the first speaks for all.
    const Failure failure = describe(std::current_exception());
    std::cout.flush();
    if (find_launcher().rank == 0) std::fprintf(stderr, "strata: %s\n", failure.message.c_str());
    return failure.code;
  }
}

}  // namespace strata
