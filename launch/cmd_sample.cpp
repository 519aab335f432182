// strata sample RUN.ini
#include <iostream>

#include "core/config/reader.h"
#include "core/error.h"
#include "core/text.h"
#include "data/tokenizer.h"
#include "launch/command_line.h"
#include "launch/commands.h"
#include "launch/failure.h"
#include "launch/infill.h"
#include "launch/model_session.h"
#include "launch/sampler.h"

namespace strata {
namespace cmd_sample_detail {

// Bytes that can be shown already: text ends before an unfinished UTF-8 character.
size_t complete_length(const std::string& text) {
  size_t begin = text.size();
  for (int back = 0; back < 4 && begin > 0; ++back) {
    const auto byte = static_cast<unsigned char>(text[--begin]);
    if ((byte & 0xC0) == 0x80) continue;
    const size_t need = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1;
    return begin + need <= text.size() ? text.size() : begin;
  }
  return text.size();
}

// Prints tokens as they come. Decoding everything so far and printing what is new is right for
// every tokenizer.
class Printer {
 public:
  Printer(const Tokenizer& tokenizer, std::vector<int32_t> prompt)
      : tokenizer_(tokenizer), ids_(std::move(prompt)) {
    shown_ = tokenizer_.decode(ids_).size();
  }
  void add(int32_t id) {
    ids_.push_back(id);
    const std::string text = tokenizer_.decode(ids_);
    show(text, complete_length(text));
  }
  void end() {
    const std::string text = tokenizer_.decode(ids_);
    show(text, text.size());
    std::cout << std::endl;
  }

 private:
  void show(const std::string& text, size_t end) {
    if (end <= shown_) return;
    std::cout << text.substr(shown_, end - shown_) << std::flush;
    shown_ = end;
  }
  const Tokenizer& tokenizer_;
  std::vector<int32_t> ids_;
  size_t shown_ = 0;
};

// The id that hides a token in the data.
int64_t hidden_id(const RunConfig& config) {
  if (config.data.mask_token >= 0) return config.data.mask_token;
  return (config.data.vocab_size > 0 ? config.data.vocab_size : config.model->vocabulary()) - 1;
}

}  // namespace cmd_sample_detail

int cmd_sample(const Arguments& arguments) {
  using namespace cmd_sample_detail;
  CommandLine line(
      "sample", "RUN [--checkpoint DIR] [--plan FILE] [--count N] [--sample.prompt=TEXT] ...",
      "Prints text from a model: the newest checkpoint of RUN (a run file or a run's folder), the "
      "one "
      "given, or\n"
      "the weights of ckpt.init. [sample] says how; the same seed gives the same text on any "
      "number of ranks.\n"
      "Bidirectional families fill the places of sample.prompt that sample.mask marks.");
  line.positional("RUN", 1, 1);
  line.short_for("plan", "FILE", "plan.file", "plan file; short for --plan.file=FILE");
  line.short_for("checkpoint", "DIR", "ckpt.resume", "folder of one checkpoint");
  line.option("count", "N", "number of texts, default 1");
  if (!line.parse(arguments)) return 0;
  int64_t count = 1;
  if (const auto text = line.value("count")) {
    if (!parse_integer(*text, count) || count < 1)
      throw ConfigError("--count", cat('"', *text, '"'), "integer >= 1");
  }
  const RunConfig config = read_session_config(line, arguments.families);
  Runtime runtime({config.runtime, config.comm, config.log, {}});
  ModelSession session(config, runtime);
  return runtime.guard([&] {
    session.load(config.model->generates_from_cache());
    const Tokenizer& tokenizer = session.tokenizer();
    const SampleSection& s = config.sample;
    const SamplingOptions options{s.temperature, s.top_k, s.top_p, static_cast<uint64_t>(s.seed)};
    if (!config.model->causal()) {
      const int64_t mask = hidden_id(config);
      const std::vector<int32_t> ids = encode_hidden(tokenizer, s.prompt, s.mask, mask);
      for (int64_t n = 0; n < count; ++n) {
        const std::vector<int32_t> filled = fill_hidden(session.model(), ids, mask, options, n);
        if (runtime.first()) std::cout << tokenizer.decode(filled) << std::endl;
      }
      return 0;
    }
    const std::vector<int32_t> prompt = tokenizer.encode(s.prompt);
    for (int64_t n = 0; n < count; ++n) {
      if (runtime.first()) std::cout << s.prompt << std::flush;
      Printer printer(tokenizer, prompt);
      generate(session.model(), prompt, s.tokens, session.context(), options, n, [&](int32_t id) {
        if (runtime.first()) printer.add(id);
        return id != tokenizer.document_end();
      });
      if (runtime.first()) printer.end();
    }
    return 0;
  });
}

}  // namespace strata
