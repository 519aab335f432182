#include "launch/update_trace.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/io/safetensors.h"
#include "core/text.h"
#include "optim/rules/adamw.h"
#include "optim/rules/galore.h"
#include "optim/rules/muon.h"
#include "optim/rules/sgd.h"
#include "optim/rules/soap.h"

namespace strata {
namespace update_trace_detail {

using Json = nlohmann::json;

std::string lower_case(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

std::pair<double, double> betas_of(const Json& hyper, double beta1, double beta2) {
  if (!hyper.contains("betas")) return {beta1, beta2};
  return {hyper.at("betas").at(0).get<double>(), hyper.at("betas").at(1).get<double>()};
}

bool decays_after(const Json& hyper, bool otherwise) {
  const std::string mode = hyper.value("weight_decay_mode", "");
  if (mode.empty()) return otherwise;
  if (mode != "decoupled" && mode != "decoupled_after") {
    throw DataError(
        cat("hyper: weight_decay_mode is \"", mode, "\", allowed: decoupled, decoupled_after."));
  }
  return mode == "decoupled_after";
}

AdamWConfig adamw_of(const Json& hyper, const char* eps_mode, bool after) {
  AdamWConfig c;
  std::tie(c.beta1, c.beta2) = betas_of(hyper, 0.9, 0.999);
  c.eps = hyper.value("eps", 1e-8);
  c.weight_decay = hyper.value("weight_decay", 0.0);
  c.eps_mode = hyper.value("eps_mode", eps_mode);
  c.decay_order = decays_after(hyper, after) ? DecayOrder::After : DecayOrder::Before;
  return c;
}

NewtonSchulz newton_schulz_of(const Json& hyper) {
  NewtonSchulz out = newton_schulz_set("keller5", static_cast<int>(hyper.value("ns_steps", 5)));
  if (hyper.contains("ns_coefficients")) {
    const Json& given = hyper.at("ns_coefficients");
    std::vector<std::array<double, 3>> steps;
    if (given.at(0).is_array()) {
      for (const Json& step : given) steps.push_back(step.get<std::array<double, 3>>());
    } else {
      steps.push_back(given.get<std::array<double, 3>>());
    }
    const size_t count = hyper.contains("ns_steps") ? hyper.at("ns_steps").get<size_t>()
                                                    : std::max<size_t>(steps.size(), 5);
    steps.resize(count, steps.back());
    out.steps = std::move(steps);
  }
  out.eps = hyper.value("eps", 1e-7);
  out.clamp = hyper.value("eps_mode", "add") == "clamp";
  return out;
}

MuonConfig muon_of(const Json& hyper) {
  MuonConfig c;
  c.momentum = hyper.value("momentum", 0.95);
  c.nesterov = hyper.value("nesterov", true);
  c.weight_decay = hyper.value("weight_decay", 0.0);
  c.scale = "original";
  if (hyper.contains("adjust_lr_fn") && hyper.at("adjust_lr_fn") == "match_rms_adamw")
    c.scale = "match_rms";
  if (hyper.contains("scale")) {
    const std::string scale = hyper.at("scale").is_string() ? hyper.at("scale").get<std::string>()
                                                            : hyper.at("scale").dump();
    if (scale == "sqrt(max(1,rows/cols))" || scale == "original") {
      c.scale = "original";
    } else if (scale == "match_rms" || scale == "match_rms_adamw" ||
               scale == "0.2*sqrt(max(rows,cols))") {
      c.scale = "match_rms";
    } else if (scale == "1" || scale == "1.0" || scale == "none") {
      c.scale = "none";
    } else {
      throw DataError(cat("hyper: scale is \"", scale,
                          "\", allowed: sqrt(max(1,rows/cols)), 0.2*sqrt(max(rows,cols)), 1."));
    }
  }
  return c;
}

SoapConfig soap_of(const Json& hyper) {
  SoapConfig c;
  std::tie(c.beta1, c.beta2) = betas_of(hyper, 0.95, 0.95);
  c.shampoo_beta = hyper.value("shampoo_beta", -1.0);
  c.eps = hyper.value("eps", 1e-8);
  c.weight_decay = hyper.value("weight_decay", 0.01);
  c.precondition_frequency = hyper.value("precondition_frequency", int64_t{10});
  c.max_precond_dim = hyper.value("max_precond_dim", int64_t{10000});
  c.normalize_grads = hyper.value("normalize_grads", false);
  c.correct_bias = hyper.value("correct_bias", true);
  c.merge_dims = hyper.value("merge_dims", false);
  c.precondition_1d = hyper.value("precondition_1d", false);
  return c;
}

GaloreConfig galore_of(const Json& hyper) {
  GaloreConfig c;
  std::tie(c.beta1, c.beta2) = betas_of(hyper, 0.9, 0.999);
  c.rank = hyper.value("rank", int64_t{128});
  c.update_proj_gap = hyper.value("update_proj_gap", int64_t{200});
  c.scale = hyper.value("scale", 0.25);
  c.proj_type = hyper.value("proj_type", "std");
  c.on_refresh = hyper.value("on_refresh", "keep");
  c.eps = hyper.value("eps", 1e-6);
  c.weight_decay = hyper.value("weight_decay", 0.0);
  return c;
}

// torch's form; its own decay is a part of the gradient, which no rule here does.
SgdConfig sgd_of(const Json& hyper) {
  SgdConfig c;
  c.momentum = hyper.value("momentum", 0.0);
  c.nesterov = hyper.value("nesterov", false);
  c.weight_decay = hyper.value("weight_decay", 0.0);
  const bool coupled = c.weight_decay != 0 && hyper.value("weight_decay_mode", "") != "decoupled";
  if (coupled || hyper.value("dampening", 0.0) != 0)
    throw DataError(
        "hyper: of SGD, dampening and a weight decay that is not decoupled are not offered.");
  return c;
}

// Everything to `rule`, vectors to the companion.
std::shared_ptr<const RuleSet> rules_of(std::unique_ptr<UpdateRule> rule, AdamWConfig companion) {
  return std::make_shared<const RuleSet>(std::move(rule), make_adamw(companion),
                                         RuleSetConfig{.min_matrix_dim = 1}, 1);
}

std::vector<std::string> names_of(const Json& hyper, const char* key = "names") {
  return hyper.value(key, std::vector<std::string>{});
}

std::vector<TraceGroup> groups_of(const Json& hyper) {
  std::vector<TraceGroup> out;
  const auto add = [&](std::vector<std::string> names, const Json& of,
                       std::shared_ptr<const RuleSet> rules) {
    if (!names.empty()) out.push_back({std::move(names), of.at("lr").get<double>(), rules});
  };
  const std::string optimizer = hyper.at("optimizer").get<std::string>();
  const auto is = [&](const char* word) {
    return lower_case(optimizer).find(word) != std::string::npos;
  };
  const auto add_adamw = [&](const Json& group) {
    add(names_of(group), group,
        std::make_shared<const RuleSet>(make_adamw(adamw_of(group, "post_bc", false))));
  };
  if (is("muon")) {
    const Json& muon = hyper.contains("muon") ? hyper.at("muon") : hyper;
    add(names_of(muon), muon,
        rules_of(make_muon(muon_of(muon), newton_schulz_of(muon)), AdamWConfig{}));
    for (const char* key : {"adam", "adamw"}) {
      if (hyper.contains(key)) add_adamw(hyper.at(key));
    }
  } else if (is("soap")) {
    AdamWConfig vectors = adamw_of(hyper, "pre_bc", true);
    std::tie(vectors.beta1, vectors.beta2) = betas_of(hyper, 0.95, 0.95);
    vectors.skip_first = true;
    add(names_of(hyper), hyper, rules_of(make_soap(soap_of(hyper)), vectors));
  } else if (is("galore")) {
    const AdamWConfig vectors = adamw_of(hyper, "pre_bc", true);
    add(names_of(hyper), hyper, rules_of(make_galore(galore_of(hyper)), vectors));
    add(names_of(hyper, "adamw_names"), hyper,
        std::make_shared<const RuleSet>(make_adamw(vectors)));
  } else if (is("adam")) {
    if (hyper.contains("groups")) {
      for (const Json& group : hyper.at("groups")) add_adamw(group);
    } else {
      add_adamw(hyper);
    }
  } else if (is("sgd")) {
    add(names_of(hyper), hyper, std::make_shared<const RuleSet>(make_sgd(sgd_of(hyper))));
  } else {
    throw DataError(cat("hyper: optimizer is \"", optimizer,
                        "\", allowed: AdamW, Muon, SOAP, GaLore, SGD (see docs/optimizers.md)."));
  }
  return out;
}

}  // namespace update_trace_detail

UpdateTrace read_update_trace(const std::string& path) {
  using namespace update_trace_detail;
  const io::SafetensorsReader reader(path);
  const auto header = reader.metadata().find("hyper");
  if (header == reader.metadata().end()) {
    throw DataError(cat(path,
                        ": its header has no \"hyper\"; a file of recorded updates says there ",
                        "with which settings they were made (docs/optimizers.md)."));
  }
  UpdateTrace out;
  try {
    out.groups = groups_of(Json::parse(header->second));
  } catch (const Json::exception& error) {
    throw DataError(cat(path, ": hyper: ", error.what(), "."));
  } catch (const DataError& error) {
    throw DataError(cat(path, ": ", error.what()));
  }
  std::vector<std::string> wrong;
  std::set<std::string> seen;
  for (const TraceGroup& group : out.groups) {
    for (const std::string& name : group.names) {
      if (!seen.insert(name).second) wrong.push_back(cat(name, " is in two groups"));
      bool complete = true;
      for (const char* kind : {"p.", "g.", "w."}) {
        if (reader.contains(kind + name)) continue;
        wrong.push_back(cat("tensor ", kind, name, " is missing"));
        complete = false;
      }
      if (!complete) continue;
      const Shape start = reader.entry("p." + name).shape;
      for (const char* kind : {"g.", "w."}) {
        const Shape shape = reader.entry(kind + name).shape;
        const bool fits = shape.size() == start.size() + 1 && shape[0] > 0 &&
                          std::equal(start.begin(), start.end(), shape.begin() + 1) &&
                          (out.steps == 0 || shape[0] == out.steps);
        if (fits) {
          out.steps = shape[0];
        } else {
          wrong.push_back(cat(kind, name, " has shape ", shape_text(shape), ", p.", name, " ",
                              shape_text(start)));
          complete = false;
        }
      }
      if (!complete) continue;
      out.start[name] = reader.read("p." + name).to(at::kDouble);
      out.gradients[name] = reader.read("g." + name).to(at::kDouble);
      out.weights[name] = reader.read("w." + name).to(at::kDouble);
      for (const char* side : {"left", "right"}) {
        const std::string base = cat("q0.", name, ".", side);
        if (reader.contains(base))
          out.bases[cat(name, ".", side)] = reader.read(base).to(at::kDouble);
      }
    }
  }
  for (const std::string& name : reader.names()) {
    if (name.rfind("p.", 0) == 0 && seen.count(name.substr(2)) == 0)
      wrong.push_back(cat(name, " is in no group of hyper"));
  }
  if (seen.empty()) wrong.push_back("hyper names no parameters");
  if (!wrong.empty()) throw DataError(cat(path, ": ", join(wrong, "; "), "."));
  return out;
}

}  // namespace strata
