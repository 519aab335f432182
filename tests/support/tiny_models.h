#pragma once
// Small models that contain the hazards of sharding, used by every suite that compares layouts. A
// new family is enrolled by adding its config here.
#include <memory>
#include <string>
#include <vector>

#include "core/batch.h"
#include "models/register.h"

namespace strata::testing {

struct TinyModel {
  std::string name;
  std::string config_json;
  ModelOptions options;
  // false: gradients are by intention not derivatives of the loss (values are rounded inside, a
  // padding token's look-up has no gradient), so finite differences mean nothing.
  bool smooth = true;
};
const std::vector<TinyModel>& tiny_models();
std::shared_ptr<const ModelSpec> make_tiny(const TinyModel& model);

// Rows [begin, end) of a fixed pseudo-random batch: labels ignored unevenly over rows, some rows
// packed of two documents.
Batch tiny_rows(int64_t vocabulary, int64_t begin, int64_t end, int64_t length, int64_t step,
                bool packed);

}  // namespace strata::testing
