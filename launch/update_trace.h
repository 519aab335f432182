#pragma once
// Recorded updates of an optimizer: a safetensors file with p.<name> (start), g.<name> [T, ...]
// (gradients of steps 1..T), w.<name> [T, ...] (weights after each), and in its header JSON
// `hyper`, the settings of the optimizer that made it:
//
//   {"optimizer": "torch.optim.AdamW", "groups": [{"names", "lr", "weight_decay", "betas", "eps"}]}
//   {"optimizer": "torch.optim.Muon", "names", "lr", "weight_decay", "momentum", "nesterov",
//    "ns_coefficients", "ns_steps", "eps", "eps_mode", "adjust_lr_fn"}
//   {"optimizer": "KellerJordan Muon + auxiliary Adam", "muon": {...}, "adam": {...}}
//   {"optimizer": "SOAP", "names", "lr", "betas", "shampoo_beta", "eps", "weight_decay",
//    "precondition_frequency", "max_precond_dim", "normalize_grads", "correct_bias", "merge_dims",
//    "precondition_1d"}
//   {"optimizer": "torch.optim.SGD", "names", "lr", "momentum", "nesterov"}
//   {"optimizer": "GaLore AdamW", "names", "adamw_names", "rank", "update_proj_gap", "scale",
//    "proj_type", "lr", "betas", "eps", "weight_decay", "on_refresh"}
//
// q0.<name>.left, .right: bases to go on with after step 1 (SOAP).
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "optim/rule_set.h"

namespace strata {

// Parameters that one rule updates with one learning rate.
struct TraceGroup {
  std::vector<std::string> names;
  double lr = 0;
  std::shared_ptr<const RuleSet> rules;
};

struct UpdateTrace {
  std::vector<TraceGroup> groups;
  std::map<std::string, Tensor> start, gradients, weights;  // by name, fp64
  std::map<std::string, Tensor> bases;                      // "<name>.left"
  int64_t steps = 0;
};

// Throws DataError with everything that is wrong with the file.
UpdateTrace read_update_trace(const std::string& path);

}  // namespace strata
