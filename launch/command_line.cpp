#include "launch/command_line.h"

#include <boost/program_options.hpp>
#include <iostream>

#include "core/error.h"
#include "core/text.h"

namespace strata {

struct CommandLine::Impl {
  boost::program_options::options_description options{"Options"};
  boost::program_options::variables_map values;
};

CommandLine::CommandLine(std::string command, std::string synopsis, std::string summary)
    : command_(std::move(command)),
      synopsis_(std::move(synopsis)),
      summary_(std::move(summary)),
      impl_(std::make_unique<Impl>()) {
  flag("help", "print this text");
}
CommandLine::~CommandLine() = default;
CommandLine::CommandLine(CommandLine&&) noexcept = default;

void CommandLine::flag(const std::string& name, const std::string& help) {
  names_.push_back(name);
  impl_->options.add_options()(name.c_str(), help.c_str());
}

void CommandLine::option(const std::string& name, const std::string& value_name,
                         const std::string& help) {
  namespace po = boost::program_options;
  names_.push_back(name);
  impl_->options.add_options()(name.c_str(), po::value<std::string>()->value_name(value_name),
                               help.c_str());
}

void CommandLine::list_option(const std::string& name, const std::string& value_name,
                              const std::string& help) {
  namespace po = boost::program_options;
  names_.push_back(name);
  impl_->options.add_options()(
      name.c_str(), po::value<std::vector<std::string>>()->composing()->value_name(value_name),
      help.c_str());
}

void CommandLine::short_for(const std::string& name, const std::string& value_name,
                            const std::string& key, const std::string& help) {
  option(name, value_name, help);
  short_for_.emplace_back(name, key);
}

void CommandLine::positional(const std::string& what, size_t least, size_t most) {
  what_ = what;
  least_ = least;
  most_ = most;
}
void CommandLine::no_overrides() { overrides_allowed_ = false; }
void CommandLine::more_help(std::string text) { more_help_ = std::move(text); }

std::string CommandLine::help() const {
  std::ostringstream out;
  out << "strata " << command_ << ' ' << synopsis_ << "\n\n"
      << summary_ << "\n\n"
      << impl_->options;
  if (overrides_allowed_) {
    out << "  --section.key=value   any key of the run file (strata config schema lists them)\n";
  }
  if (!more_help_.empty()) out << '\n' << more_help_;
  return out.str();
}

// Removes the overrides from the arguments and keeps them in the order given.
std::vector<std::string> CommandLine::take_overrides(const std::vector<std::string>& arguments) {
  std::vector<std::string> rest;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& word = arguments[i];
    const size_t equals = word.find('='), dot = word.find('.');
    if (word == "--") {
      rest.insert(rest.end(), arguments.begin() + static_cast<ptrdiff_t>(i), arguments.end());
      break;
    }
    if (!starts_with(word, "--") || dot == std::string::npos || dot > equals) {
      rest.push_back(word);
    } else if (equals != std::string::npos) {
      overrides_.emplace_back(word.substr(2, equals - 2), word.substr(equals + 1));
    } else if (i + 1 < arguments.size() && !starts_with(arguments[i + 1], "--")) {
      overrides_.emplace_back(word.substr(2), arguments[++i]);
    } else {
      throw ConfigError(word, "no value", "--section.key=value");
    }
  }
  return rest;
}

bool CommandLine::parse(const std::vector<std::string>& arguments) {
  namespace po = boost::program_options;
  const std::vector<std::string> rest = take_overrides(arguments);
  po::options_description all;
  all.add(impl_->options).add_options()("words", po::value<std::vector<std::string>>());
  po::positional_options_description positional;
  positional.add("words", -1);
  const auto style = po::command_line_style::unix_style & ~po::command_line_style::allow_guessing;
  try {
    po::store(po::command_line_parser(rest).options(all).positional(positional).style(style).run(),
              impl_->values);
  } catch (const po::unknown_option& error) {
    std::string name = error.get_option_name();
    name.erase(0, name.find_first_not_of('-'));
    std::vector<std::string> known;
    for (const std::string& option : names_) known.push_back("--" + option);
    throw ConfigError(cat("strata ", command_), "--" + name, join(known),
                      did_you_mean("--" + name, known));
  } catch (const po::error& error) {
    throw ConfigError(
        {cat("strata ", command_, ": ", error.what(), ". strata ", command_, " --help explains")});
  }
  if (has("help")) {
    std::cout << help();
    return false;
  }
  for (const auto& [name, key] : short_for_) {
    if (has(name)) overrides_.emplace_back(key, impl_->values[name].as<std::string>());
  }
  if (impl_->values.count("words") != 0)
    words_ = impl_->values["words"].as<std::vector<std::string>>();
  const std::string usage = cat(" Usage: strata ", command_, ' ', synopsis_);
  if (words_.size() < least_)
    throw ConfigError(cat("strata ", command_), "no " + what_, synopsis_, usage);
  if (words_.size() > most_) {
    throw ConfigError(cat("strata ", command_), cat('"', words_[most_], '"'),
                      cat("nothing more after ", most_, " words"), usage);
  }
  if (!overrides_allowed_ && !overrides_.empty()) {
    throw ConfigError(cat("strata ", command_), cat("--", overrides_[0].first),
                      "no --section.key options here", usage);
  }
  return true;
}

bool CommandLine::has(const std::string& name) const { return impl_->values.count(name) != 0; }

std::vector<std::string> CommandLine::values(const std::string& name) const {
  return has(name) ? impl_->values[name].as<std::vector<std::string>>()
                   : std::vector<std::string>();
}

std::optional<std::string> CommandLine::value(const std::string& name) const {
  if (!has(name)) return std::nullopt;
  return impl_->values[name].as<std::string>();
}

}  // namespace strata
