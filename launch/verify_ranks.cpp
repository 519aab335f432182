#include "launch/verify_ranks.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "core/config/reader.h"
#include "core/error.h"
#include "core/io/safetensors.h"
#include "core/text.h"
#include "launch/welore.h"

namespace strata {
namespace verify_ranks_detail {

using Json = nlohmann::json;

Json header_of(const io::SafetensorsReader& reader, const char* key) {
  const auto found = reader.metadata().find(key);
  return found == reader.metadata().end() ? Json::object() : Json::parse(found->second);
}

double threshold_of(const std::string& path, const std::string& text) {
  double out = 0;
  if (!parse_number(text, out))
    throw DataError(cat(path, ": \"", text, "\" is no threshold of singular values."));
  return out;
}

std::vector<Spectrum> spectra_of(const io::SafetensorsReader& reader) {
  std::vector<Spectrum> out;
  for (const std::string& name : reader.names()) {
    if (name.rfind("s.", 0) != 0) continue;
    const Tensor s = reader.read(name).to(at::kDouble).contiguous();
    const double* values = s.const_data_ptr<double>();
    // Shapes are not recorded; which linears count as of low rank depends on them only without a
    // min_ratio.
    out.push_back({name.substr(2), s.numel(), s.numel(), {values, values + s.numel()}});
  }
  return out;
}

double worst_count(const std::vector<Spectrum>& spectra, double tau, const Json& counts,
                   std::vector<std::string>& wrong) {
  double worst = 0;
  for (const auto& [linear, count] : counts.items()) {
    const auto spectrum = std::find_if(spectra.begin(), spectra.end(),
                                       [&](const Spectrum& s) { return s.name == linear; });
    if (spectrum == spectra.end()) {
      wrong.push_back(cat("tensor s.", linear, " is missing"));
      continue;
    }
    const auto found = pruned_count(spectrum->values, tau);
    worst = std::max(worst, std::abs(static_cast<double>(found - count.get<int64_t>())));
  }
  return worst;
}

double pruned_part(const std::vector<Spectrum>& spectra, double tau) {
  int64_t pruned = 0, all = 0;
  for (const Spectrum& s : spectra) {
    pruned += pruned_count(s.values, tau);
    all += std::ssize(s.values);
  }
  return static_cast<double>(pruned) / static_cast<double>(std::max<int64_t>(all, 1));
}

double other_class(const std::vector<Spectrum>& spectra, double tau, double min_ratio,
                   const std::set<std::string>& expected) {
  std::set<std::string> found;
  for (const WeloreRank& rank : select_ranks(spectra, tau, min_ratio)) {
    if (rank.low_rank) found.insert(rank.name);
  }
  std::vector<std::string> different;
  std::set_symmetric_difference(found.begin(), found.end(), expected.begin(), expected.end(),
                                std::back_inserter(different));
  return static_cast<double>(different.size());
}

}  // namespace verify_ranks_detail

bool has_spectra(const std::string& path) {
  const io::SafetensorsReader reader(path);
  const std::vector<std::string> names = reader.names();
  return reader.metadata().count("expected") > 0 &&
         std::any_of(names.begin(), names.end(),
                     [](const std::string& name) { return name.rfind("s.", 0) == 0; });
}

void verify_welore_ranks(const std::string& path, ParityReport& report) {
  using namespace verify_ranks_detail;
  const io::SafetensorsReader reader(path);
  const std::vector<Spectrum> spectra = spectra_of(reader);
  std::vector<std::string> wrong;
  try {
    const Json notes = header_of(reader, "notes"), expected = header_of(reader, "expected"),
               parts = notes.value("overall reduction", Json::object()),
               classes = notes.value("LRC for min_ratio", Json::object());
    for (const auto& [text, counts] : expected.items()) {
      const double tau = threshold_of(path, text);
      report.add(cat("pruned.", text), worst_count(spectra, tau, counts, wrong));
    }
    for (const auto& [text, part] : parts.items()) {
      const double off = pruned_part(spectra, threshold_of(path, text)) - part.get<double>();
      report.add(cat("part pruned.", text), std::abs(off));
    }
    for (const auto& [ratio, by_tau] : classes.items()) {
      for (const auto& [text, names] : by_tau.items()) {
        report.add(cat("low rank.", text, ".min_ratio ", ratio),
                   other_class(spectra, threshold_of(path, text), threshold_of(path, ratio),
                               names.get<std::set<std::string>>()));
      }
    }
  } catch (const Json::exception& error) {
    throw DataError(cat(path, ": header: ", error.what(), "."));
  }
  if (!wrong.empty()) throw DataError(cat(path, ": ", join(wrong, "; "), "."));
}

}  // namespace strata
