#include "launch/memory_report.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "core/log.h"
#include "core/memory_meter.h"
#include "core/text.h"
#include "parallel/engine/memory_forecast.h"

namespace strata {
namespace memory_report_detail {

std::string size(int64_t bytes) { return bytes_text(static_cast<double>(bytes)); }

// One plain value from every rank, in rank order, on all.
template <class T>
std::vector<T> from_all(Communicator& job, const T& mine) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &mine, sizeof(T));
  std::vector<T> out;
  for (const std::string& text : job.all_gather_bytes(bytes)) {
    T one;
    std::memcpy(&one, text.data(), sizeof(T));
    out.push_back(one);
  }
  return out;
}

struct Use {
  MemoryForecast forecast;
  int64_t optimizer = 0;
  int64_t total() const { return forecast.total() + optimizer; }
};

}  // namespace memory_report_detail

using namespace memory_report_detail;

void MemoryReport::forecast(ParallelManager& model, const DistributedOptimizer& optimizer,
                            const Batch& like) {
  const Use mine{model.forecast_memory(like), optimizer.state_bytes()};
  const std::vector<Use> all = from_all(model.pool().job(), mine);
  const auto fullest = std::max_element(
      all.begin(), all.end(), [](const Use& a, const Use& b) { return a.total() < b.total(); });
  const MemoryForecast& f = fullest->forecast;
  const int64_t passing = f.buffers.gathered + f.buffers.scratch;
  log::info("memory",
            all.size() > 1 ? cat(" of the fullest rank, ", fullest - all.begin()) : std::string(),
            ": weights ", size(f.buffers.values), ", gradients ", size(f.buffers.gradients),
            ", optimizer ", size(fullest->optimizer),
            passing > 0 ? cat(", weights and gradients on their way ", size(passing)) : "",
            ", activations ", size(f.activations), " (", f.in_flight,
            f.in_flight == 1 ? " micro-batch" : " micro-batches", " in flight), layers at work ",
            size(f.transient), "; in all ", size(fullest->total()));
  forecast_ = mine.total();
  told_ = false;
  memory_meter::reset_peak();
  before_ = memory_meter::live_bytes() - mine.forecast.buffers.values -
            mine.forecast.buffers.gathered - mine.forecast.buffers.gradients -
            mine.forecast.buffers.scratch - mine.optimizer;
}

void MemoryReport::measured(Communicator& job) {
  if (told_) return;
  told_ = true;
  struct Pair {
    int64_t measured, forecast;
  };
  const auto all = from_all(job, Pair{memory_meter::peak_bytes() - before_, forecast_});
  const auto fullest = std::max_element(
      all.begin(), all.end(), [](const Pair& a, const Pair& b) { return a.measured < b.measured; });
  const double off =
      100 * (static_cast<double>(fullest->measured) / static_cast<double>(fullest->forecast) - 1);
  log::info("memory: measured peak ", size(fullest->measured),
            all.size() > 1 ? cat(" on rank ", fullest - all.begin()) : std::string(), ", forecast ",
            size(fullest->forecast), " (", off < 0 ? "" : "+",
            number_text(std::round(off * 10) / 10), " %)");
}

}  // namespace strata
