#include "models/mhc_lite/config.h"

#include "core/config/visitor.h"
#include "core/text.h"

namespace strata {

void MhcLiteConfig::visit(ConfigVisitor& v) {
  v.field("block_size", block_size, at_least(1), "rows of the position table: the longest context");
  v.field("vocab_size", vocab_size, at_least(1), "tokens of the vocabulary");
  v.field("n_layer", n_layer, at_least(0), "number of blocks");
  v.field("n_head", n_head, at_least(1), "attention heads");
  v.field("n_embd", n_embd, at_least(1), "width of a residual stream");
  v.field("dropout", dropout, fraction_below_one(),
          "dropout of embeddings, attention probabilities and branch outputs");
  v.field("bias", bias, "biases in linears and norms");
  v.field("hyper_conn_type", hyper_conn_type, one_of({"none", "hc", "mhc", "mhc_lite"}),
          "how sub-layers join the residual streams");
  v.field("hyper_conn_n", hyper_conn_n, between(1, 16), "number of residual streams");
  for (const char* key : {"architectures", "model_type", "torch_dtype", "dtype", "num_fracs"}) {
    v.ignore(key);
  }
  if (n_embd % n_head != 0) v.problem("n_head", cat(n_head), cat("divisors of n_embd = ", n_embd));
  if (hyper_conn_type == "mhc_lite" && hyper_conn_n > 6)
    v.problem("hyper_conn_n", cat(hyper_conn_n), "integer in [1, 6] with mhc_lite");
}

Gpt2Config MhcLiteConfig::gpt2() const {
  Gpt2Config c;
  c.vocab_size = vocab_size;
  c.n_positions = block_size;
  c.n_embd = n_embd;
  c.n_layer = n_layer;
  c.n_head = n_head;
  c.activation_function = "gelu";
  c.resid_pdrop = c.embd_pdrop = c.attn_pdrop = dropout;
  c.bias = bias;
  // One stream is the plain residual, as in the reference code.
  if (hyper_conn_type != "none" && hyper_conn_n > 1) {
    c.parts.residual.kind = hyper_conn_type;
    c.parts.residual.streams = hyper_conn_n;
    c.parts.residual.sinkhorn_order = "reference";
  }
  return c;
}

}  // namespace strata
