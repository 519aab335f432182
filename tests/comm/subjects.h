#pragma once
// Backends under test.
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "parallel/comm/mpi_communicator.h"
#include "tests/support/mpi_main.h"

namespace strata::comm_test {

struct Subject {
  std::string name;
  std::function<std::unique_ptr<Communicator>()> make;
};

inline void PrintTo(const Subject& subject, std::ostream* out) { *out << subject.name; }

// Adding a backend here enrols it in every conformance test.
inline std::vector<Subject> subjects() {
  const int world = test::world_size();
  std::vector<Subject> list{{"mpi", [] { return make_mpi_communicator(); }}};
  if (world == 1) {
    list.push_back({"self", [] { return make_self_communicator(); }});
  } else {
    list.push_back({"mpi_small_arena", [] { return make_mpi_communicator({.half_bytes = 4096}); }});
    list.push_back(
        {"mpi_every_rank_a_node", [] { return make_mpi_communicator({.ranks_per_node = 1}); }});
  }
  if (world > 2)
    list.push_back(
        {"mpi_two_ranks_per_node", [] { return make_mpi_communicator({.ranks_per_node = 2}); }});
  return list;
}

}  // namespace strata::comm_test
