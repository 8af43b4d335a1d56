// CHECK stays on in release: a broken invariant stops the daemon (which is crash-only: it restarts
// and replays) rather than writing what it no longer understands.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace squall::internal {
[[noreturn]] inline void check_failed(const char* file, int line, const char* what) {
  std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", file, line, what);
  std::fflush(stderr);
  std::abort();
}
}  // namespace squall::internal

#define CHECK(condition)                                                \
  do {                                                                  \
    if (!(condition)) [[unlikely]]                                      \
      ::squall::internal::check_failed(__FILE__, __LINE__, #condition); \
  } while (0)
