#pragma once
#include <memory>

#include "models/gpt2/config.h"
#include "models/parts/decoder_spec.h"

namespace strata {

// Families whose blocks are GPT-2's derive from it and rename.
class Gpt2Spec : public DecoderSpec {
 public:
  Gpt2Spec(const Gpt2Config& config, const ModelOptions& options);
  bool generates_from_cache() const override { return true; }
  ForeignTensor foreign(const std::string& parameter) const override;
  bool foreign_ignored(const std::string& name) const override;
  std::string foreign_config() const override;

 protected:
  std::shared_ptr<Layer> make_block(int block, const ParallelLayout& layout) const override;
  double block_flops_per_token(int block, int64_t time) const override;

 private:
  Gpt2Config c_;
};

std::unique_ptr<ModelSpec> make_gpt2_spec(const Gpt2Config& config, const ModelOptions& options);

}  // namespace strata
