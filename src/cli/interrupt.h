// Ctrl-C in long verbs: the first SIGINT or SIGTERM sets a flag that the verb's loop looks at, so
// that it can clean up; the second kills. System calls are interrupted (no SA_RESTART).
#pragma once

#include <poll.h>

#include <span>

#include "base/error.h"

namespace squall {

void catch_interrupts();
// kCancelled once a signal has come.
Result<void> check_interrupt();
// Polls until one of `fds` has something to say; kCancelled once a signal has come.
Result<void> poll_interruptibly(std::span<pollfd> fds);

}  // namespace squall
