#pragma once
// Filling the hidden places of a text with a bidirectional model: what `strata sample` does for
// families that see both sides.
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"
#include "launch/sampler.h"
#include "parallel/engine/manager.h"

namespace strata {

// Token ids of `text`, each occurrence of `marker` being one hidden token `mask_id`.
std::vector<int32_t> encode_hidden(const Tokenizer& tokenizer, std::string_view text,
                                   std::string_view marker, int64_t mask_id);

// The place among `hidden` where the model is most certain (the first on ties), from logits [T, V];
// mask_id itself is no candidate. A pure function of its arguments.
int64_t most_certain(const Tensor& logits_TV, const std::vector<int64_t>& hidden, int64_t mask_id);

// Replaces every mask_id of `ids`, one at a time: the model is asked about the whole text, the most
// certain place is filled by choose_token, and the next is asked about with that token there.
// Collective: every rank passes the same arguments and gets the same result. each(place, id) is
// called as soon as a token is known. ConfigError for a causal family, and where nothing is hidden.
std::vector<int32_t> fill_hidden(ParallelManager& model, std::vector<int32_t> ids, int64_t mask_id,
                                 const SamplingOptions& options, int64_t sample,
                                 const std::function<void(int64_t, int32_t)>& each = {});

}  // namespace strata
