#include "cli/interrupt.h"

#include <csignal>

namespace squall {

namespace {
volatile std::sig_atomic_t interrupted = 0;
}  // namespace

void catch_interrupts() {
  struct sigaction action{};
  action.sa_handler = [](int) { interrupted = 1; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
}

Result<void> check_interrupt() {
  if (interrupted != 0) return fail(ErrorKind::kCancelled, "interrupted; nothing is left behind");
  return {};
}

}  // namespace squall
