// all_reduce of fp32 through our MPI backend against MPI_Allreduce in place, in one program:
//   mpirun -n 2 all_reduce_bench [seconds per size and method]
// Prints one JSON line per size: medians in microseconds for a tensor of allocate() (ours_us), for
// an ordinary tensor (ours_bounced_us) and for MPI (mpi_us), and ratio = mpi_us / ours_us. Rank 0's
// clock; the methods take turns in blocks. One launch says little, because both sides depend on
// where the pages lie: bench/all_reduce.py takes several.
#include <ATen/ops/full.h>
#include <mpi.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#include "core/prepare_process.h"
#include "parallel/comm/communicator.h"

namespace all_reduce_bench {

constexpr int kBlocks = 5, kLeastCalls = 5, kMostCalls = 20000;

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

// Times calls for about `seconds`; every rank does the same number.
void time_calls(const std::function<void()>& call, double seconds, std::vector<double>& times) {
  double total = 0;
  for (int calls = 0; calls < kMostCalls / kBlocks; ++calls) {
    MPI_Barrier(MPI_COMM_WORLD);
    const double begin = MPI_Wtime();
    call();
    const double time = MPI_Wtime() - begin;
    times.push_back(time);
    total += time;
    int more = calls < kLeastCalls || total < seconds;
    MPI_Bcast(&more, 1, MPI_INT, 0, MPI_COMM_WORLD);
    if (!more) break;
  }
}

int run(double seconds) {
  int rank = 0, ranks = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  const auto comm = strata::make_mpi_communicator();
  int wrong = 0;
  for (int64_t bytes = 4 << 10; bytes <= 64 << 20; bytes *= 4) {
    const int64_t count = bytes / 4;
    const at::Tensor allocated = comm->allocate(count, at::kFloat);
    const at::Tensor ordinary =
        at::full({count}, rank + 1.0, at::TensorOptions().dtype(at::kFloat));
    const at::Tensor mpi = at::full({count}, rank + 1.0, at::TensorOptions().dtype(at::kFloat));
    allocated.fill_(rank + 1.0);
    const std::vector<std::function<void()>> methods = {
        [&] { comm->all_reduce(allocated).wait(); }, [&] { comm->all_reduce(ordinary).wait(); },
        [&] {
          MPI_Allreduce(MPI_IN_PLACE, mpi.data_ptr(), static_cast<int>(count), MPI_FLOAT, MPI_SUM,
                        MPI_COMM_WORLD);
        }};
    for (const auto& method : methods) method();
    const double expected = ranks * (ranks + 1) / 2.0;
    for (const at::Tensor& tensor : {allocated, ordinary, mpi}) {
      wrong += tensor.eq(expected).all().item<bool>() ? 0 : 1;
      tensor.zero_();  // repeated sums would overflow
    }
    std::vector<std::vector<double>> times(methods.size());
    for (int block = 0; block < kBlocks; ++block) {
      for (size_t m = 0; m < methods.size(); ++m)
        time_calls(methods[m], seconds / kBlocks, times[m]);
    }
    if (rank == 0) {
      const double ours = 1e6 * median(times[0]), bounced = 1e6 * median(times[1]),
                   peer = 1e6 * median(times[2]);
      std::printf(
          "{\"name\": \"all_reduce f32 %lld KiB, %d ranks\", \"kib\": %lld, \"ours_us\": %.2f, "
          "\"ours_bounced_us\": %.2f, \"mpi_us\": %.2f, \"ratio\": %.2f}\n",
          static_cast<long long>(bytes >> 10), ranks, static_cast<long long>(bytes >> 10), ours,
          bounced, peer, peer / ours);
      std::fflush(stdout);
    }
  }
  if (wrong > 0) std::fprintf(stderr, "rank %d: %d sums are wrong\n", rank, wrong);
  return wrong > 0 ? 1 : 0;
}

}  // namespace all_reduce_bench

int main(int argc, char** argv) {
  strata::prepare_process();
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  const int code = all_reduce_bench::run(argc > 1 ? std::atof(argv[1]) : 0.3);
  MPI_Finalize();
  return code;
}
