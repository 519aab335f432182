// strata train RUN.ini
#include "core/io/file.h"
#include "launch/command_line.h"
#include "launch/commands.h"
#include "launch/failure.h"
#include "launch/launcher.h"
#include "launch/trainer.h"

namespace strata {
namespace cmd_train_detail {

// What `strata doctor RUN_DIR` shows of a run that ended badly. The rank that finds out writes it.
void note_failure(Runtime& runtime, const RunConfig& config, int64_t step, const Failure& failure) {
  RunDirectory(config.run.directory())
      .write_status({.state = "failed",
                     .step = step,
                     .steps = config.train.steps,
                     .exit_code = failure.code,
                     .message = failure.message});
  runtime.note_in_log(failure.message);
  runtime.flush_log();
}

}  // namespace cmd_train_detail

int cmd_train(const Arguments& arguments) {
  CommandLine line("train", "RUN.ini [--plan FILE] [--section.key=value]...",
                   "Trains the model that a run file describes, or goes on from its newest "
                   "checkpoint. Under mpirun all\n"
                   "ranks work on one model as [plan] says.\n\n"
                   "SIGUSR1, or a file STOP in the run directory: save and end with code 75. "
                   "SIGUSR2, or a file SAVE: save\n"
                   "and go on. Exit codes: 0 finished, 2 configuration, 3 data, 4 checkpoint, 5 "
                   "memory, 6 numeric,\n"
                   "7 hang, 8 ranks disagree, 9 storage, 75 saved and asked to stop.");
  line.positional("RUN.ini", 1, 1);
  line.short_for("plan", "FILE", "plan.file", "plan file; short for --plan.file=FILE");
  if (!line.parse(arguments)) return 0;
  install_signal_handlers(find_launcher());
  const RunConfig config = read_run_config(
      {.path = line.words()[0], .overrides = line.overrides(), .families = arguments.families});
  io::set_fault_plan(config.fault.inject);
  Runtime runtime({config.runtime, config.comm, config.log, config.run.directory()});
  Trainer trainer(config, runtime);
  return runtime.guard([&] {
    try {
      return trainer.run();
    } catch (const AgreedError& error) {
      if (runtime.first())
        cmd_train_detail::note_failure(runtime, config, trainer.step(),
                                       {error.exit_code(), error.what()});
      throw;
    } catch (...) {
      cmd_train_detail::note_failure(runtime, config, trainer.step(),
                                     describe(std::current_exception()));
      throw;
    }
  });
}

}  // namespace strata
