// strata ckpt list|inspect|verify|diff|convert|compress
#include <algorithm>
#include <iostream>

#include "core/config/reader.h"
#include "core/error.h"
#include "core/text.h"
#include "launch/cmd_ckpt.h"
#include "launch/command_line.h"
#include "parallel/checkpoint/inspect.h"

namespace strata {
namespace cmd_ckpt_detail {

constexpr int kDifferent = 10, kUnreadable = 4;

// The folder of checkpoints: that of a run directory, or the folder itself.
std::filesystem::path root_of(const std::filesystem::path& path) {
  if (!std::filesystem::is_directory(path))
    throw CheckpointError(cat(path.string(), " is not a folder."));
  return std::filesystem::is_directory(path / "checkpoints") ? path / "checkpoints" : path;
}

CommandLine command(const char* verb, const char* synopsis, const char* summary, size_t words) {
  CommandLine line(cat("ckpt ", verb), synopsis, summary);
  line.positional("folder", words, words);
  line.flag("json", "print JSON");
  line.no_overrides();
  return line;
}

int list(const Arguments& arguments) {
  CommandLine line =
      command("list", "RUN_DIR [--json]", "Lists the checkpoints of a run, newest first.", 1);
  if (!line.parse(arguments)) return 0;
  const auto rows = list_checkpoints(root_of(line.words()[0]));
  std::cout << (line.has("json") ? list_json(rows) : list_text(rows));
  return 0;
}

int inspect(const Arguments& arguments) {
  CommandLine line = command("inspect", "DIR [--tensor GLOB] [--stats] [--json]",
                             "Says what a checkpoint, or the newest one of a run, holds. Exit code "
                             "4 when it cannot be read.",
                             1);
  line.option("tensor", "GLOB", "only tensors whose path or name matches, for example /model/*");
  line.flag(
      "stats",
      "read every tensor: minimum, maximum, mean, root mean square, values that are not finite");
  if (!line.parse(arguments)) return 0;
  const InspectOptions options{line.value("tensor").value_or("*"), line.has("stats")};
  const CheckpointSummary summary = inspect_checkpoint(checkpoint_of(line.words()[0]), options);
  std::cout << (line.has("json") ? inspect_json(summary) : inspect_text(summary));
  return 0;
}

int verify(const Arguments& arguments) {
  CommandLine line = command("verify", "DIR [--quick] [--json]",
                             "Checks a checkpoint, or the newest one of a run: manifest, files, "
                             "sizes, and every data block\n"
                             "against its checksum. Exit code 4 when anything is wrong.",
                             1);
  line.flag("quick", "without reading the data blocks");
  if (!line.parse(arguments)) return 0;
  const VerifyReport report = verify_checkpoint(
      checkpoint_of(line.words()[0]), line.has("quick") ? VerifyDepth::Quick : VerifyDepth::Full);
  std::cout << (line.has("json") ? verify_json(report) : verify_text(report));
  return report.problems.empty() ? 0 : kUnreadable;
}

int diff(const Arguments& arguments) {
  CommandLine line = command("diff", "A B [--tol X] [--optim] [--json]",
                             "Compares the weights of two checkpoints, or of the newest ones of "
                             "two runs, whatever layouts wrote\n"
                             "them. Exit code 0: equal; 10: different; 4: one cannot be read.",
                             2);
  line.option("tol", "X", "absolute differences up to this count as equal; default 0");
  line.flag("optim", "compare optimizer state too");
  if (!line.parse(arguments)) return 0;
  DiffOptions options{0, line.has("optim")};
  if (const auto text = line.value("tol")) {
    if (!parse_number(*text, options.tolerance) || !(options.tolerance >= 0)) {
      throw ConfigError("--tol", cat('"', *text, '"'), "number >= 0");
    }
  }
  const DiffReport report =
      diff_checkpoints(checkpoint_of(line.words()[0]), checkpoint_of(line.words()[1]), options);
  std::cout << (line.has("json") ? diff_json(report) : diff_text(report));
  return report.same() ? 0 : kDifferent;
}

}  // namespace cmd_ckpt_detail

std::filesystem::path checkpoint_of(const std::filesystem::path& path) {
  const bool one = starts_with(path.filename().string(), "step-") ||
                   std::filesystem::exists(path / "manifest.json");
  if (one) return path;
  const auto latest = find_latest(cmd_ckpt_detail::root_of(path),
                                  [](const std::string& text) { std::cerr << text << '\n'; });
  if (!latest)
    throw CheckpointError(cat(path.string(), " is neither a checkpoint nor a run with one."));
  return *latest;
}

int cmd_ckpt(const Arguments& arguments) {
  using namespace cmd_ckpt_detail;
  const std::vector<std::string> later = {"prune", "reindex", "consolidate"};
  if (!arguments.empty() && std::count(later.begin(), later.end(), arguments[0]) > 0) {
    throw ConfigError({cat(
        "strata ckpt ", arguments[0],
        ": not part of this version. There are: list, inspect, verify, diff, convert, compress")});
  }
  const std::string verb =
      take_verb("ckpt", arguments, {"list", "inspect", "verify", "diff", "convert", "compress"});
  if (verb == "list") return list(after_verb(arguments));
  if (verb == "inspect") return inspect(after_verb(arguments));
  if (verb == "verify") return verify(after_verb(arguments));
  if (verb == "diff") return diff(after_verb(arguments));
  if (verb == "convert") return ckpt_convert(after_verb(arguments));
  if (verb == "compress") return ckpt_compress(after_verb(arguments));
  return 0;
}

}  // namespace strata
