// strata COMMAND ...: parses the command, catches errors, chooses the exit code.
#include <cstdio>
#include <iostream>

#include "launch/commands.h"
#include "launch/failure.h"
#include "launch/launcher.h"

int main(int argc, char** argv) {
  try {
    return strata::run_command(strata::Arguments(argv + 1, argv + argc));
  } catch (...) {
    // All ranks end up here with the same error, or this is the only one: the first speaks for all.
    const strata::Failure failure = strata::describe(std::current_exception());
    std::cout.flush();
    if (strata::find_launcher().rank == 0)
      std::fprintf(stderr, "strata: %s\n", failure.message.c_str());
    return failure.code;
  }
}
