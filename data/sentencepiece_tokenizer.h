#pragma once
#include <memory>
#include <string>

#include "data/tokenizer.h"

namespace strata::datasets {

// Throws DataError when the file cannot be read or is no SentencePiece model.
std::unique_ptr<Tokenizer> load_sentencepiece(const std::string& model_file);

}  // namespace strata::datasets
