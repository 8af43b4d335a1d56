// For tests: a real reactor, or an end of the program that says why there is none.
#pragma once

#include <cstdio>
#include <memory>

#include "base/check.h"
#include "io/uring_reactor.h"

namespace squall {

inline std::unique_ptr<UringReactor> make_test_reactor() {
  auto reactor = UringReactor::create();
  if (!reactor) std::fprintf(stderr, "%s\n", reactor.error().message().c_str());
  CHECK(reactor);
  return std::move(*reactor);
}

}  // namespace squall
