#include "launch/signals.h"

#include <csignal>
#include <cstring>

#include <unistd.h>
#include <atomic>

#include "launch/launcher.h"

namespace strata {
namespace signals_detail {

std::atomic<bool> save_wanted{false}, stop_wanted{false};
std::atomic<int> interrupts{0}, log_descriptor{-1};
static_assert(std::atomic<bool>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

// Everything below runs in handlers: lock-free atomics, write(2), fdatasync(2) and _exit(2) only.
void last_words(const char* text) {
  const size_t length = std::strlen(text);
  for (const int descriptor : {log_descriptor.load(), STDERR_FILENO}) {
    if (descriptor < 0) continue;
    [[maybe_unused]] const ssize_t ignored = ::write(descriptor, text, length);
  }
  if (log_descriptor.load() >= 0) ::fdatasync(log_descriptor.load());
}

void on_user1(int) { stop_wanted = true; }
void on_user2(int) { save_wanted = true; }

void on_terminate(int) {
  if (stop_wanted) return;  // the save under way is worth more than leaving early
  last_words("SIGTERM: ended without saving (SIGUSR1 saves first)\n");
  ::_exit(128 + SIGTERM);
}

void on_interrupt(int) {
  if (interrupts.fetch_add(1) > 0) {
    last_words("\nSIGINT again: ended without saving\n");
    ::_exit(128 + SIGINT);
  }
  last_words("\nSIGINT: saving after this step; once more ends at once\n");
  stop_wanted = true;
}

void install(int number, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  ::sigaction(number, &action, nullptr);
}

}  // namespace signals_detail

void install_signal_handlers(const Launcher& launcher) {
  using namespace signals_detail;
  install(SIGUSR1, on_user1);
  install(SIGUSR2, on_user2);
  install(SIGTERM, on_terminate);
  if (!launcher.present) install(SIGINT, on_interrupt);  // under mpirun it ends the job itself
}

Request pending_request() noexcept {
  using namespace signals_detail;
  if (stop_wanted) return Request::Stop;
  return save_wanted ? Request::Save : Request::None;
}

void save_done() noexcept { signals_detail::save_wanted = false; }

void set_last_words_descriptor(int descriptor) noexcept {
  signals_detail::log_descriptor = descriptor;
}

}  // namespace strata
