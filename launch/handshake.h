#pragma once
// Before anything is allocated, all ranks compare what they were started with. A difference ends
// the job with exit code 8 and names the first thing that differs and who has what.
#include <string>
#include <utility>
#include <vector>

namespace strata {

class Communicator;

using Facts =
    std::vector<std::pair<std::string, std::string>>;  // what -> value, in order of importance

Facts config_facts(const std::string& ini);  // "optim.lr" -> "0.001" of an effective configuration
Facts binary_facts();                        // program and Strata libraries, LibTorch, byte order
Facts environment_facts();

// "" when all are equal, else a sentence about the first difference with rank lists. Pure.
std::string first_difference(const std::vector<Facts>& by_rank);

// Collective. Throws AgreedError(8).
void check_same_everywhere(Communicator& job, const Facts& facts);

}  // namespace strata
