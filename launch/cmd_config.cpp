// strata config show|check|schema
#include <iostream>

#include "launch/command_line.h"
#include "launch/commands.h"
#include "launch/run_config.h"
#include "parallel/nn/auto_split_report.h"

namespace strata {
namespace cmd_config_detail {

int show(const Arguments& arguments) {
  CommandLine line("config show", "RUN.ini [--section.key=value]...",
                   "Prints the effective configuration as a run file that reads back equal.");
  line.positional("RUN.ini", 1, 1);
  if (!line.parse(arguments)) return 0;
  std::cout << read_run_config({line.words()[0], line.overrides(), RunInput::Data::ForVocabulary,
                                arguments.families})
                   .ini;
  return 0;
}

int check(const Arguments& arguments) {
  CommandLine line(
      "config check", "RUN.ini [--section.key=value]...",
      "Checks a run file and the data it names; prints every problem at once, and with "
      "plan.tp > 1 how weights are cut. Exit "
      "code 2 (configuration) or "
      "3 (data) when there is one.");
  line.positional("RUN.ini", 1, 1);
  if (!line.parse(arguments)) return 0;
  const RunConfig config = read_run_config(
      {.path = line.words()[0], .overrides = line.overrides(), .families = arguments.families});
  std::cout << line.words()[0] << ": good\n  model  " << config.model_name << ", "
            << config.model->layer_count() - 2 << " blocks, vocabulary "
            << config.model->vocabulary() << "\n  data   " << config.train_data->description()
            << '\n';
  if (config.plan.tp > 1) {
    std::cout << '\n' << auto_split_report(*config.model, static_cast<int>(config.plan.tp));
  }
  return 0;
}

int schema(const Arguments& arguments) {
  CommandLine line("config schema", "[--json | --markdown]", "Prints every key of run files.");
  line.flag("json", "as one JSON object");
  line.flag("markdown", "as the page docs/config.md (default)");
  line.no_overrides();
  if (!line.parse(arguments)) return 0;
  std::cout << (line.has("json") ? config_json(arguments.families)
                                 : config_markdown(arguments.families));
  return 0;
}

}  // namespace cmd_config_detail

int cmd_config(const Arguments& arguments) {
  using namespace cmd_config_detail;
  const std::string verb = take_verb("config", arguments, {"show", "check", "schema"});
  if (verb == "show") return show(after_verb(arguments));
  if (verb == "check") return check(after_verb(arguments));
  if (verb == "schema") return schema(after_verb(arguments));
  return 0;
}

}  // namespace strata
