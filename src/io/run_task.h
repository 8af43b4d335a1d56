// run_task: drives a reactor until one task has ended; for tests, tools and start-up.
#pragma once

#include <optional>
#include <utility>

#include "base/check.h"
#include "base/task.h"
#include "io/reactor.h"

namespace squall {

// Drives the reactor until `done()` is true.
template <class Done>
void run_until(Reactor& reactor, Done done) {
  while (!done()) CHECK(reactor.run_once());
}

template <class T>
T run_task(Reactor& reactor, Task<T> task) {
  if constexpr (std::is_void_v<T>) {
    bool done = false;
    spawn(std::move(task), [&] { done = true; });
    while (!done) CHECK(reactor.run_once());
  } else {
    std::optional<T> result;
    spawn(std::move(task), [&](T value) { result.emplace(std::move(value)); });
    while (!result) CHECK(reactor.run_once());
    return std::move(*result);
  }
}

}  // namespace squall
