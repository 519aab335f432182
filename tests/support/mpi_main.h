#pragma once
// What multi-rank tests may ask of their main(); tests themselves do not include mpi.h.

namespace strata::test {

int world_rank();  // in MPI_COMM_WORLD
int world_size();

}  // namespace strata::test
