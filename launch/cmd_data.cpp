// strata data prepare|inspect
#include <unistd.h>

#include <cstdio>
#include <iostream>

#include "core/config/reader.h"
#include "core/error.h"
#include "core/text.h"
#include "data/prepare.h"
#include "launch/command_line.h"
#include "launch/commands.h"

namespace strata {
namespace cmd_data_detail {

int64_t integer_option(const CommandLine& line, const std::string& name, int64_t least,
                       int64_t otherwise) {
  const auto text = line.value(name);
  if (!text) return otherwise;
  int64_t value = 0;
  if (!parse_integer(*text, value) || value < least) {
    throw ConfigError("--" + name, cat('"', *text, '"'), cat("integer >= ", least));
  }
  return value;
}

// A backslash and an n stand for a line end.
std::string with_line_ends(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool escaped = text[i] == '\\' && i + 1 < text.size() && text[i + 1] == 'n';
    out += escaped ? '\n' : text[i];
    i += escaped ? 1 : 0;
  }
  return out;
}

// One line that is rewritten on a terminal; silent elsewhere.
void show_progress(double fraction) {
  if (::isatty(STDERR_FILENO) == 0) return;
  std::fprintf(stderr, "\rencoding %3.0f%%%s", 100 * fraction, fraction >= 1 ? "\n" : "");
}

int prepare(const Arguments& arguments) {
  CommandLine line("data prepare", "--out FILE TEXT... [--tokenizer bytes|chars|sentencepiece] ...",
                   "Encodes text files into one token file, in parallel; the result does not "
                   "depend on the threads.");
  line.positional("text file", 1, 1 << 20);
  line.option("out", "FILE", "token file to write");
  line.option("tokenizer", "NAME", "bytes (default), chars or sentencepiece");
  line.option("tokenizer-model", "FILE",
              "SentencePiece model: read, or written with --train-vocab");
  line.option("train-vocab", "N", "train a SentencePiece model of N ids on the text first");
  line.option(
      "separator", "TEXT",
      "text that ends a document; \\n stands for a line end. Default: a file is a document");
  line.option("valid-fraction", "X", "also write FILE.valid with this part of the end");
  line.option("threads", "N", "default: all cores");
  line.no_overrides();
  if (!line.parse(arguments)) return 0;
  PrepareOptions options;
  options.inputs = line.words();
  if (!line.value("out")) throw ConfigError("--out", "nothing", "the token file to write");
  options.output = *line.value("out");
  options.tokenizer = line.value("tokenizer").value_or("bytes");
  options.tokenizer_model = line.value("tokenizer-model").value_or("");
  options.train_vocab = integer_option(line, "train-vocab", 1, 0);
  options.threads = static_cast<int>(integer_option(line, "threads", 1, 0));
  options.document_separator = with_line_ends(line.value("separator").value_or(""));
  if (const auto text = line.value("valid-fraction")) {
    if (!parse_number(*text, options.valid_fraction) || options.valid_fraction < 0 ||
        options.valid_fraction >= 1) {
      throw ConfigError("--valid-fraction", cat('"', *text, '"'), "number in [0, 1)");
    }
  }
  const PrepareReport report = prepare_tokens(options, show_progress);
  std::cout << options.output << ": " << report.tokens << " tokens, " << report.documents
            << " documents, vocabulary " << report.vocab_size << ", from "
            << bytes_text(static_cast<double>(report.text_bytes)) << " of text in "
            << duration_text(report.seconds) << '\n';
  if (report.valid_tokens > 0)
    std::cout << options.output << ".valid: " << report.valid_tokens << " tokens\n";
  return 0;
}

int inspect(const Arguments& arguments) {
  CommandLine line(
      "data inspect", "FILE [--tokenizer NAME] [--tokenizer-model FILE]",
      "Says what a data file holds: format, sizes, id range, documents, first tokens.");
  line.positional("FILE", 1, 1);
  line.option("tokenizer", "NAME", "decode the first tokens with this tokenizer");
  line.option("tokenizer-model", "FILE", "its model file");
  line.no_overrides();
  if (!line.parse(arguments)) return 0;
  std::cout << inspect_data(line.words()[0], line.value("tokenizer").value_or(""),
                            line.value("tokenizer-model").value_or(""))
            << '\n';
  return 0;
}

}  // namespace cmd_data_detail

int cmd_data(const Arguments& arguments) {
  using namespace cmd_data_detail;
  const std::string verb = take_verb("data", arguments, {"prepare", "inspect"});
  if (verb == "prepare") return prepare(after_verb(arguments));
  if (verb == "inspect") return inspect(after_verb(arguments));
  return 0;
}

}  // namespace strata
