#include "launch/model_session.h"

#include "core/error.h"
#include "core/text.h"
#include "data/tokenizer.h"
#include "launch/densify.h"
#include "launch/failure.h"
#include "launch/handshake.h"
#include "launch/run_checkpoints.h"
#include "launch/run_plan.h"

namespace strata {

RunConfig read_session_config(const CommandLine& line, const ExtraFamilies& families) {
  RunInput input;
  input.path = line.words()[0];
  input.overrides = line.overrides();
  // The folder of a run stands for what it was trained with.
  const std::filesystem::path folder = input.path;
  if (std::filesystem::exists(folder / "config.ini")) {
    input.path = (folder / "config.ini").string();
    input.overrides.emplace(input.overrides.begin(), "run.dir", folder.string());
  }
  input.families = families;
  input.data = RunInput::Data::ForVocabulary;
  return read_run_config(input);
}

ModelSession::ModelSession(const RunConfig& config, Runtime& runtime)
    : config_(config), runtime_(runtime) {}
ModelSession::~ModelSession() = default;

void ModelSession::load(bool token_by_token) {
  Facts facts = binary_facts();
  for (auto& fact : config_facts(config_.ini)) facts.push_back(std::move(fact));
  for (auto& fact : plan_facts(config_.plan)) facts.push_back(std::move(fact));
  check_same_everywhere(runtime_.job(), facts);
  RunCheckpoints checkpoints(config_, runtime_);
  const std::filesystem::path directory = checkpoints.find();
  std::shared_ptr<const ModelSpec> spec;
  together(runtime_.job(), [&] { spec = model_of(config_, directory); });
  Plan plan = same_everywhere([&] {
    return make_run_plan(config_.plan, *spec, runtime_.world(), config_.train.batch,
                         config_.data.sequence_length);
  });
  for (LayerStrategy& layer : plan.layers) {
    if (token_by_token) layer.sequence_parallel = false;
  }
  if (directory.empty() && config_.ckpt.init.empty()) {
    throw_agreed(CheckpointError(
        cat("There is no checkpoint in ", checkpoints.root().string(),
            ". Train first (strata train), name one with --checkpoint DIR, or set ckpt.init to "
            "a folder of safetensors.")));
  }
  ManagerOptions options;
  options.dtype = parse_train_dtype(config_.train.dtype);
  options.device = runtime_.device();
  options.vocabulary_unit = config_.train.vocabulary_unit;
  model_ = ParallelManager::build(spec, plan, runtime_.pool(), options);
  load_weights_only(config_, runtime_, *model_, directory);
  if (!directory.empty())
    together(runtime_.job(), [&] { step_ = CheckpointReader(directory).step(); });
}

int64_t ModelSession::context() const {
  const int64_t most = config_.model->max_positions();
  return most > 0 ? most : config_.data.sequence_length;
}

const DataSource& ModelSession::valid_data() {
  if (!valid_data_) {
    together(runtime_.job(), [&] {
      valid_data_ = make_data_source(config_.data, Split::Valid, config_.data_seed());
    });
  }
  return *valid_data_;
}

const Tokenizer& ModelSession::tokenizer() {
  bytes_per_token();
  if (!tokenizer_) {
    throw_agreed(
        ConfigError("data.tokenizer",
                    cat("that of data.source = ", config_.data.source, ", which is not known"),
                    "a data source of text, or token files with data.tokenizer_model set"));
  }
  return *tokenizer_;
}

double ModelSession::bytes_per_token() {
  if (!tokenizer_read_)
    together(runtime_.job(), [&] { tokenizer_ = make_data_tokenizer(config_.data); });
  tokenizer_read_ = true;
  return tokenizer_ ? tokenizer_->bytes_per_token() : 0;
}

}  // namespace strata
