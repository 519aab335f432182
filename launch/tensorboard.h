#pragma once
// TensorBoard event files: TFRecords of Event messages with simple scalars. Only what is needed is
// encoded, by hand.
#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "core/io/file.h"

namespace strata {

using Scalars = std::vector<std::pair<std::string, double>>;  // tag -> value

class TensorBoardWriter {
 public:
  // A new file in `folder`. first_step: values that earlier files hold for it and later steps are
  // to be forgotten (a run that goes on from a checkpoint). Throws StorageError.
  TensorBoardWriter(const std::filesystem::path& folder, int64_t first_step);
  void add(int64_t step, const Scalars& scalars);

 private:
  io::File file_;
};

// Encodings, for tests: one record, and the Event of some scalars.
std::string tfrecord(const std::string& data);
std::string scalar_event(double wall_time, int64_t step, const Scalars& scalars);

}  // namespace strata
