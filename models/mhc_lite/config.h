#pragma once
// GPTConfig of the mHC-lite repository (nanoGPT with hyper-connections): same keys. model_type is
// "mhc_lite_gpt".
#include "models/gpt2/config.h"

namespace strata {

class ConfigVisitor;

struct MhcLiteConfig {
  int64_t block_size = 1024;  // longest context
  int64_t vocab_size = 50304;
  int64_t n_layer = 12;
  int64_t n_head = 12;
  int64_t n_embd = 768;
  double dropout = 0.0;
  bool bias = true;
  std::string hyper_conn_type = "none";  // none | hc | mhc | mhc_lite
  int64_t hyper_conn_n = 1;

  void visit(ConfigVisitor& v);
  // The same model in the terms of the gpt2 family.
  Gpt2Config gpt2() const;
};

}  // namespace strata
