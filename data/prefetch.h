#pragma once
// Reads rows ahead on a thread of its own; touches no communicator. next() returns exactly what
// source.rows() would.
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "data/source.h"

namespace strata {

class Prefetcher {
 public:
  struct Request {
    int64_t begin = 0, end = 0;
  };
  // requests(step): the sample ranges wanted at that step, in order; called on the reading thread.
  // depth: steps read ahead. `source` must outlive this object.
  Prefetcher(const DataSource& source, std::function<std::vector<Request>(int64_t step)> requests,
             int64_t first_step, int depth = 2);
  ~Prefetcher();
  // Batches of `step`; steps must be asked for in order. An error of the source is thrown here, and
  // again by later calls.
  std::vector<Batch> next(int64_t step);
  double waited_s() const;  // time next() had to wait since the start

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata
