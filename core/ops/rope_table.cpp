#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/config/visitor.h"
#include "core/error.h"
#include "core/ops/rope.h"
#include "core/text.h"

namespace strata::ops {

namespace rope_table_detail {

// Feature pair whose wavelength makes `rotations` turns within `context` positions.
double pair_of_rotations(double rotations, int64_t width, double theta, double context) {
  return static_cast<double>(width) * std::log(context / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(theta));
}

double yarn_magnitude(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

void scale_llama3(std::vector<double>& inv_freq, const RopeScaling& s, double context) {
  const double longest = context / s.low_freq_factor;
  const double shortest = context / s.high_freq_factor;
  for (double& f : inv_freq) {
    const double wavelength = 2 * std::numbers::pi / f;
    if (wavelength < shortest) {
      continue;
    }
    if (wavelength > longest) {
      f /= s.factor;
    } else {
      const double keep =
          (context / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
      f = (1 - keep) * f / s.factor + keep * f;
    }
  }
}

void scale_yarn(std::vector<double>& inv_freq, const RopeScaling& s, int64_t width, double theta,
                double context) {
  const double low =
      std::max(std::floor(pair_of_rotations(s.beta_fast, width, theta, context)), 0.0);
  double high = std::min(std::ceil(pair_of_rotations(s.beta_slow, width, theta, context)),
                         static_cast<double>(width - 1));
  if (low == high) {
    high += 0.001;  // the same small step as in the HF ecosystem keeps the ramp finite
  }
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    const double interpolated = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    inv_freq[i] = inv_freq[i] / s.factor * interpolated + inv_freq[i] * (1 - interpolated);
  }
}

}  // namespace rope_table_detail

void RopeScaling::visit(ConfigVisitor& v) {
  v.field("rope_type", rope_type, one_of({"default", "linear", "dynamic", "llama3", "yarn"}),
          "frequency scaling of rotary position embeddings");
  v.field("factor", factor, positive(), "how many times longer than the trained context");
  v.field("low_freq_factor", low_freq_factor, positive(),
          "llama3: wavelengths above context / this are scaled");
  v.field("high_freq_factor", high_freq_factor, positive(),
          "llama3: wavelengths below context / this are kept");
  v.field("original_max_position_embeddings", original_max_position_embeddings, at_least(1),
          "= max_position_embeddings",
          "llama3, yarn: context the model was trained with before scaling");
  v.field("beta_fast", beta_fast, positive(),
          "yarn: turns within the context from which frequencies are kept");
  v.field("beta_slow", beta_slow, positive(),
          "yarn: turns within the context below which frequencies are scaled");
  v.field("attention_factor", attention_factor, positive(),
          "from factor, mscale and mscale_all_dim", "yarn: factor of cos and sin");
  v.field("mscale", mscale, non_negative(), "1",
          "yarn: numerator weight of the factor of cos and sin");
  v.field("mscale_all_dim", mscale_all_dim, non_negative(), "no denominator",
          "yarn: denominator weight of the factor of cos and sin");
  if (rope_type == "llama3" && high_freq_factor <= low_freq_factor) {
    v.problem("high_freq_factor", number_text(high_freq_factor),
              cat("number above low_freq_factor (", number_text(low_freq_factor), ")"));
  }
}

RopeTable rope_table(double theta, int64_t width, int64_t max_position_embeddings,
                     const RopeScaling& scaling, int64_t length) {
  using namespace rope_table_detail;
  if (width < 2 || width % 2 != 0) {
    throw ConfigError("rotary width", cat(width), "even integer of at least 2",
                      " (head width times partial_rotary_factor)");
  }
  const std::string& type = scaling.rope_type;
  const auto context = static_cast<double>(
      scaling.original_max_position_embeddings.value_or(max_position_embeddings));
  const auto w = static_cast<double>(width);
  double base = theta;
  if (type == "dynamic") {
    if (width == 2) {
      throw ConfigError("rope_scaling.rope_type", "\"dynamic\"",
                        "a type other than dynamic for a rotary width of 2");
    }
    // The base grows with the longest sequence seen, measured against the model's own limit as in
    // the HF ecosystem.
    const auto limit = static_cast<double>(max_position_embeddings);
    const double seen = std::max(static_cast<double>(length), limit);
    base *= std::pow(scaling.factor * seen / limit - (scaling.factor - 1), w / (w - 2));
  }
  RopeTable table;
  table.inv_freq.resize(static_cast<size_t>(width / 2));
  for (size_t i = 0; i < table.inv_freq.size(); ++i) {
    table.inv_freq[i] = 1.0 / std::pow(base, 2 * static_cast<double>(i) / w);
  }
  if (type == "default" || type == "dynamic") {
    return table;
  }
  if (type == "linear") {
    for (double& f : table.inv_freq) {
      f /= scaling.factor;
    }
  } else if (type == "llama3") {
    scale_llama3(table.inv_freq, scaling, context);
  } else if (type == "yarn") {
    scale_yarn(table.inv_freq, scaling, width, theta, context);
    if (scaling.attention_factor) {
      table.magnitude = *scaling.attention_factor;
    } else if (scaling.mscale.value_or(0) != 0 && scaling.mscale_all_dim.value_or(0) != 0) {
      table.magnitude = yarn_magnitude(scaling.factor, *scaling.mscale) /
                        yarn_magnitude(scaling.factor, *scaling.mscale_all_dim);
    } else {
      table.magnitude = yarn_magnitude(scaling.factor, 1.0);
    }
  } else {
    const std::vector<std::string> known = {"default", "linear", "dynamic", "llama3", "yarn"};
    throw ConfigError("rope_scaling.rope_type", cat('"', type, '"'), join(known),
                      did_you_mean(type, known));
  }
  return table;
}

}  // namespace strata::ops
