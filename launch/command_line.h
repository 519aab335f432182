#pragma once
// The arguments of one command. Words with a dot before any '=' are configuration overrides
// ("--optim.lr=1e-3", or
// "--optim.lr 1e-3"); everything else is the command's own and is parsed by Boost.Program_options
// without guessing prefixes.
//
//   CommandLine line("train", "RUN.ini [--section.key=value]...", "Trains the model that a run file
//   describes."); line.positional("RUN.ini", 1, 1); if (!line.parse(arguments)) return 0;      //
//   --help was printed RunConfig config = read_run_config({line.words()[0], line.overrides()});
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace strata {

class CommandLine {
 public:
  CommandLine(std::string command, std::string synopsis, std::string summary);
  ~CommandLine();
  CommandLine(CommandLine&&) noexcept;

  void flag(const std::string& name, const std::string& help);
  void option(const std::string& name, const std::string& value_name, const std::string& help);
  // An option that may be given several times.
  void list_option(const std::string& name, const std::string& value_name, const std::string& help);
  // An option that is short for a configuration key: --plan FILE for --plan.file=FILE.
  void short_for(const std::string& name, const std::string& value_name, const std::string& key,
                 const std::string& help);
  void positional(const std::string& what, size_t least, size_t most);
  void no_overrides();               // this command has no configuration
  void more_help(std::string text);  // printed after the options

  // false: --help was asked for and printed on standard output. Throws ConfigError naming what was
  // not understood.
  bool parse(const std::vector<std::string>& arguments);

  const std::vector<std::string>& words() const noexcept { return words_; }
  const std::vector<std::pair<std::string, std::string>>& overrides() const noexcept {
    return overrides_;
  }
  bool has(const std::string& name) const;
  std::optional<std::string> value(const std::string& name) const;
  std::vector<std::string> values(const std::string& name) const;  // of a list option

 private:
  struct Impl;
  std::string help() const;
  std::vector<std::string> take_overrides(const std::vector<std::string>& arguments);

  std::string command_, synopsis_, summary_, more_help_, what_ = "argument";
  size_t least_ = 0, most_ = 0;
  bool overrides_allowed_ = true;
  std::vector<std::string> names_;
  std::vector<std::pair<std::string, std::string>> short_for_;  // option, key
  std::vector<std::string> words_;
  std::vector<std::pair<std::string, std::string>> overrides_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace strata
