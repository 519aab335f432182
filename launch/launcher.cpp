#include "launch/launcher.h"

#include <algorithm>
#include <cstdlib>

#include <unistd.h>  // environ

#include "core/text.h"

namespace strata {

Launcher find_launcher() {
  Launcher out;
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"}) {
    if (const char* value = std::getenv(name)) {
      out.present = true;
      out.rank = std::atoi(value);
      out.batch_only = std::string_view(name) == "SLURM_PROCID" && out.rank == 0;
      break;
    }
  }
  if (const char* tasks = std::getenv("SLURM_NTASKS"))
    out.slurm_tasks = std::max(1, std::atoi(tasks));
  return out;
}

std::vector<std::pair<std::string, std::string>> relevant_environment() {
  // Devices and bindings differ between ranks on purpose.
  const std::vector<std::string> patterns = {"NCCL_*",
                                             "OMP_*",
                                             "MKL_*",
                                             "CUBLAS_WORKSPACE_CONFIG",
                                             "CUDA_DEVICE_MAX_CONNECTIONS",
                                             "CUDA_LAUNCH_BLOCKING"};
  std::vector<std::pair<std::string, std::string>> out;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const size_t equals = text.find('=');
    const std::string name = text.substr(0, equals);
    const bool relevant =
        std::any_of(patterns.begin(), patterns.end(),
                    [&](const std::string& pattern) { return glob_match(pattern, name); });
    if (relevant && equals != std::string::npos) out.emplace_back(name, text.substr(equals + 1));
  }
  std::sort(out.begin(), out.end());
  return out;
}

void prepare_deterministic_environment() {
  ::setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", 0);
  ::setenv("NCCL_ALGO", "Ring", 0);
  ::setenv("NCCL_PROTO", "Simple", 0);
}

}  // namespace strata
