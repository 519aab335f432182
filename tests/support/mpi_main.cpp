// main() of multi-rank tests: mpirun -n N <test> --ranks=N [--hang-rank=R] [GoogleTest options].
// Every rank runs the same tests in the same order. Rank 0 prints as usual, the others print
// failures only. A fatal failure (ASSERT, exception) ends all ranks at once, because the others may
// wait for this one; the exit code is the largest of all.
#include "tests/support/mpi_main.h"

#include <gtest/gtest.h>
#include <mpi.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace strata::test {

int world_rank() {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}

int world_size() {
  int size = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return size;
}

}  // namespace strata::test

namespace mpi_main_detail {

class RankListener : public testing::EmptyTestEventListener {
 public:
  explicit RankListener(int rank) : rank_(rank) {}

  void OnTestStart(const testing::TestInfo& info) override {
    test_ = std::string(info.test_suite_name()) + "." + info.name();
  }

  // GoogleTest holds its lock here, so it cannot be asked anything.
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    if (rank_ != 0) {
      std::fprintf(stderr, "[rank %d] %s\n%s:%d: %s\n", rank_, test_.c_str(),
                   result.file_name() ? result.file_name() : "?", result.line_number(),
                   result.message());
    }
    fatal_ = fatal_ || result.fatally_failed();
  }

  void OnTestEnd(const testing::TestInfo& info) override {
    if (fatal_) {
      std::fflush(stdout);
      std::fprintf(stderr, "[rank %d] %s failed fatally; all ranks stop\n", rank_, test_.c_str());
      MPI_Abort(MPI_COMM_WORLD, 1);
    }
    int failed = info.result()->Failed() ? 1 : 0, any = 0;
    MPI_Allreduce(&failed, &any, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    if (rank_ == 0 && any && !failed)
      std::fprintf(stderr, "%s failed on another rank\n", test_.c_str());
  }

 private:
  int rank_;
  std::string test_;
  bool fatal_ = false;
};

void wait_for_debugger(int rank) {
  std::fprintf(stderr, "rank %d is process %d; attach a debugger and set `go` to 1\n", rank,
               getpid());
  volatile int go = 0;
  while (go == 0) sleep(1);
}

bool read_option(const char* argument, const char* name, int& value) {
  const size_t length = std::strlen(name);
  if (std::strncmp(argument, name, length) != 0 || argument[length] != '=') return false;
  value = std::atoi(argument + length + 1);
  return true;
}

int fail(int rank, const std::string& message) {
  if (rank == 0) std::fprintf(stderr, "%s\n", message.c_str());
  MPI_Finalize();
  return 1;
}

}  // namespace mpi_main_detail

int main(int argc, char** argv) {
  int provided = MPI_THREAD_SINGLE, rank = 0, world = 1;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &world);
  if (provided < MPI_THREAD_SERIALIZED)
    return mpi_main_detail::fail(rank, "MPI offers no thread support");
  testing::InitGoogleTest(&argc, argv);

  int ranks = 0, hang_rank = -1;
  for (int i = 1; i < argc; ++i) {
    if (mpi_main_detail::read_option(argv[i], "--ranks", ranks)) continue;
    if (mpi_main_detail::read_option(argv[i], "--hang-rank", hang_rank)) continue;
    return mpi_main_detail::fail(rank, std::string("unknown option ") + argv[i]);
  }
  if (ranks != world) {
    return mpi_main_detail::fail(rank, "--ranks=" + std::to_string(ranks) + ", but this runs on " +
                                           std::to_string(world) + " ranks");
  }
  if (GTEST_FLAG_GET(shuffle))
    return mpi_main_detail::fail(rank, "ranks must run tests in the same order: no shuffling");
  if (hang_rank == rank) mpi_main_detail::wait_for_debugger(rank);

  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  if (rank != 0) delete listeners.Release(listeners.default_result_printer());
  listeners.Append(new mpi_main_detail::RankListener(rank));
  int code = RUN_ALL_TESTS(), largest = 0;
  MPI_Allreduce(&code, &largest, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  MPI_Finalize();
  return largest;
}
