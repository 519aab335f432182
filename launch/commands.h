#pragma once
// The commands of the binary. Each gets the words after its name and returns the exit code; errors
// are thrown (core/error.h) and turned into messages and codes by run_cli().
#include <string>
#include <vector>

#include "models/register.h"

namespace strata {

// Words, and the model families that the program brings itself (launch/cli.h).
struct Arguments : std::vector<std::string> {
  using vector::vector;
  ExtraFamilies families;
};

int cmd_train(const Arguments& arguments);
int cmd_eval(const Arguments& arguments);
int cmd_sweep(const Arguments& arguments);
int cmd_sample(const Arguments& arguments);
int cmd_verify(const Arguments& arguments);
int cmd_plan(const Arguments& arguments);
int cmd_data(const Arguments& arguments);
int cmd_config(const Arguments& arguments);
int cmd_ckpt(const Arguments& arguments);
int cmd_doctor(const Arguments& arguments);

struct Command {
  const char* name;
  const char* summary;
  int (*run)(const Arguments&);
};
const std::vector<Command>& commands();

// Runs "NAME ARGS...": finds the command, or explains what there is. Throws ConfigError for unknown
// names.
int run_command(const Arguments& arguments);

// What `strata` alone prints.
std::string overview();
std::string version_text();

// The rest of "verb ARGS..." of commands with verbs; throws ConfigError naming the verbs.
Arguments after_verb(const Arguments& arguments);
std::string take_verb(const std::string& command, const Arguments& arguments,
                      const std::vector<std::string>& verbs);

}  // namespace strata
