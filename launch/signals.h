#pragma once
// Signals of a training run. The state is process-wide, as signals are. Handlers are installed
// before MPI starts.
//
//   SIGUSR1              save, end with 75          SIGUSR2   save, go on
//   SIGTERM              end at once with 143, no collective (ignored while a save asked for by
//   SIGUSR1 is under way) SIGINT               without mpirun: like SIGUSR1; a second one ends at
//   once with 130
namespace strata {

struct Launcher;

// What the outside asks of the training loop, in increasing order of importance.
enum class Request { None = 0, Save = 1, Stop = 2 };

void install_signal_handlers(const Launcher& launcher);
// The most important request that arrived. Save is forgotten once asked for; Stop stays.
Request pending_request() noexcept;
void save_done() noexcept;
// Descriptor on which the SIGTERM handler leaves a last line (the rank's log file); -1: standard
// error only.
void set_last_words_descriptor(int descriptor) noexcept;

}  // namespace strata
