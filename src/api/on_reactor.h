// on_reactor: how control threads call what belongs to a reactor's thread.
#pragma once

#include <future>
#include <type_traits>
#include <utility>

#include "base/task.h"
#include "io/reactor.h"

namespace squall {

namespace internal {
template <class T>
struct TaskValue;
template <class T>
struct TaskValue<Task<T>> {
  using Type = T;
};
}  // namespace internal

// Posts `start` (which returns a Task) to the reactor, waits until that task has ended and returns
// its result. From any thread but the reactor's own; the reactor must run until it returns. `start`
// is destroyed once the task has been made, so it passes values, not references to its captures.
template <class Start>
auto on_reactor(Reactor& reactor, Start start) {
  using T = internal::TaskValue<std::invoke_result_t<Start&>>::Type;
  std::promise<T> promise;
  std::future<T> future = promise.get_future();
  reactor.post([start = std::move(start), promise = std::move(promise)]() mutable {
    if constexpr (std::is_void_v<T>) {
      spawn(start(), [promise = std::move(promise)]() mutable { promise.set_value(); });
    } else {
      spawn(start(), [promise = std::move(promise)](T value) mutable {
        promise.set_value(std::move(value));
      });
    }
  });
  return future.get();
}

}  // namespace squall
