#pragma once
// What an evaluation says of hidden states and of residual streams, beside the loss.
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "launch/metrics.h"
#include "parallel/engine/manager.h"
#include "parallel/nn/probe.h"

namespace strata {

// The Matrix Nuclear-Norm of a text's hidden states X [T, D] (Li et al. 2024, arXiv 2410.10672):
//
//   x_t <- x_t - mean over t;  x_t <- x_t / |x_t|;  sum of the min(T, D) largest column norms
//
// which approximates the nuclear norm by an L_{1,2} norm without a decomposition. x holds this
// rank's part of the tokens; sums over tokens run over the group `tokens` (nullptr: it has all).
Tensor matrix_nuclear_norms(const Tensor& x_BTD, Communicator* tokens);  // [B] fp64

class HiddenStates final : public Probe {
 public:
  // norms: the nuclear norms of all layers too; streams are always looked at.
  HiddenStates(ParallelManager& model, bool norms);

  void layer_output(int layer, const Tensor& y, const Batch& batch,
                    const ParallelLayout& layout) override;
  void shown(const std::string& module, const std::string& what, const Tensor& value) override;

  // Collective over the job; once, after the evaluation.
  std::vector<LayerNuclearNorm> norms();
  std::optional<StreamReport> streams();  // nothing: the model has one stream

 private:
  ParallelManager& model_;
  bool norms_;
  int64_t tokens_ = 0;                    // of a row
  std::vector<double> sums_, rows_;       // by layer
  std::vector<std::string> connections_;  // modules with a mixing matrix, in model order
  std::map<std::string, size_t> number_;
  struct Mixing {
    Tensor sum;  // [n, n] over tokens
    double tokens = 0, gap = 0;
  };
  std::vector<Mixing> mixing_;
  int64_t streams_ = 0;
};

}  // namespace strata
