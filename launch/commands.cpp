#include "launch/commands.h"

#include <iostream>

#include "core/error.h"
#include "core/text.h"
#include "launch/version.h"

namespace strata {
namespace commands_detail {

// Names that decisions reserve and this version does not have.
const std::vector<std::string> kLater = {"profile", "simulate", "convert"};

}  // namespace commands_detail

const std::vector<Command>& commands() {
  static const std::vector<Command> all = {
      {"train", "train the model of a run file, or go on where it stopped", cmd_train},
      {"eval", "loss of a checkpoint on validation data", cmd_eval},
      {"sweep", "a grid of runs of one run file, compared at the end", cmd_sweep},
      {"sample", "text from a checkpoint", cmd_sample},
      {"verify", "compare with a folder of reference results", cmd_verify},
      {"plan", "check | show: how ranks share a model", cmd_plan},
      {"data", "prepare | inspect: token files", cmd_data},
      {"config", "show | check | schema: run files", cmd_config},
      {"ckpt", "list | inspect | verify | diff | convert | compress: checkpoints", cmd_ckpt},
      {"doctor", "what this machine offers, or how a run is doing", cmd_doctor},
  };
  return all;
}

std::string overview() {
  std::string out = cat(version_text(),
                        "\n\nExamples:\n"
                        "  strata train run.ini                                   train on this "
                        "machine's CPUs or GPU\n"
                        "  mpirun -n 4 strata train run.ini --plan.tp=2           two replicas, "
                        "each cut over two ranks\n"
                        "  strata sample run.ini --sample.prompt=\"Once upon\"      text from the "
                        "newest checkpoint\n\nCommands:\n");
  for (const Command& command : commands()) {
    std::string name = command.name;
    name.resize(10, ' ');
    out += cat("  ", name, command.summary, '\n');
  }
  return out + "\nstrata COMMAND --help explains one.\n";
}

std::string version_text() {
  return cat("Strata ", kVersion,
             ": large transformers in hybrid data, tensor and pipeline parallelism");
}

int run_command(const Arguments& arguments) {
  if (arguments.empty() || arguments[0] == "--help" || arguments[0] == "-h" ||
      arguments[0] == "help") {
    std::cout << overview();
    return 0;
  }
  const std::string& name = arguments[0];
  if (name == "--version") {
    std::cout << version_text() << '\n';
    return 0;
  }
  std::vector<std::string> names;
  for (const Command& command : commands()) {
    if (name == command.name) return command.run(after_verb(arguments));
    names.push_back(command.name);
  }
  for (const std::string& later : commands_detail::kLater) {
    if (name == later)
      throw ConfigError(
          {cat("strata ", name, ": not part of this version. There are: ", join(names))});
  }
  throw ConfigError("command", cat('"', name, '"'), join(names), did_you_mean(name, names));
}

Arguments after_verb(const Arguments& arguments) {
  Arguments rest = arguments;
  if (!rest.empty()) rest.erase(rest.begin());
  return rest;
}

std::string take_verb(const std::string& command, const Arguments& arguments,
                      const std::vector<std::string>& verbs) {
  const std::string usage = cat("strata ", command, " ", join(verbs, "|"));
  if (arguments.empty()) throw ConfigError(cat("strata ", command), "nothing", join(verbs));
  if (arguments[0] == "--help") {
    std::cout << usage << " ...\n\nstrata " << command << " VERB --help explains one.\n";
    return "";
  }
  for (const std::string& verb : verbs) {
    if (arguments[0] == verb) return verb;
  }
  throw ConfigError(cat("strata ", command), cat('"', arguments[0], '"'), join(verbs),
                    did_you_mean(arguments[0], verbs));
}

}  // namespace strata
