#include "cli/interrupt.h"

#include <cerrno>
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

Result<void> poll_interruptibly(std::span<pollfd> fds) {
  // A signal that comes between the check and the call does not interrupt it.
  constexpr int kCheckMs = 250;
  for (;;) {
    TRY(check_interrupt());
    const int ready = ::poll(fds.data(), fds.size(), kCheckMs);
    if (ready > 0) return {};
    if (ready < 0 && errno != EINTR) return fail_errno(errno, "waiting for NBD replies");
  }
}

}  // namespace squall
