#pragma once
// What the program that started this process says about it, from the environment. Used only to
// decide whether MPI is started, and who prints before it is; ranks always come from MPI. The only
// environment reads of Strata are here and in core/prepare_process.cpp.
#include <string>
#include <utility>
#include <vector>

namespace strata {

struct Launcher {
  bool present = false;     // mpirun, srun or the like
  bool batch_only = false;  // nothing but the first or only process of a Slurm job
  int rank = 0;             // as it says; 0 without one
  int slurm_tasks = 1;
};
Launcher find_launcher();

// Variables that change numbers or communication and must be equal on all ranks, with their values,
// sorted.
std::vector<std::pair<std::string, std::string>> relevant_environment();

// Sets what a deterministic run needs before libraries read it.
void prepare_deterministic_environment();

}  // namespace strata
