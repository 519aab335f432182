#pragma once
// A trained model of a run, ready to be asked: what `strata eval` and `strata sample` share.
#include <memory>

#include "data/source.h"
#include "launch/command_line.h"
#include "launch/run_config.h"
#include "launch/runtime.h"
#include "parallel/engine/manager.h"

namespace strata {

class Tokenizer;

// Reads the run file of the command line's first word.
RunConfig read_session_config(const CommandLine& line, const ExtraFamilies& families);

class ModelSession {
 public:
  ModelSession(const RunConfig& config, Runtime& runtime);
  ~ModelSession();

  // Collective. Builds the model and loads the checkpoint. Throws AgreedError when there is none.
  // token_by_token: without sequence parallelism, which cannot cut single tokens.
  void load(bool token_by_token = false);

  ParallelManager& model() { return *model_; }
  int64_t step() const { return step_; }  // of the checkpoint; 0 for ckpt.init
  int64_t context() const;                // tokens that the model is asked with at most
  const DataSource& valid_data();         // opened at the first call; Collective then
  const Tokenizer& tokenizer();           // the same; AgreedError when it is not known
  double bytes_per_token();               // 0 when not known

 private:
  const RunConfig& config_;
  Runtime& runtime_;
  std::unique_ptr<ParallelManager> model_;
  std::unique_ptr<DataSource> valid_data_;
  std::unique_ptr<Tokenizer> tokenizer_;
  bool tokenizer_read_ = false;
  int64_t step_ = 0;
};

}  // namespace strata
