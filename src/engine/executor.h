// Executor: where synchronous work runs that must not stall a reactor: SQLite calls, directory
// syncs, deleting large files. Work runs in the order it was given, one piece at a time.
//
// ThreadExecutor has a thread of its own. InlineExecutor runs the work on a reactor's thread, from
// its event loop, for the simulation: same order, same suspension points, no second thread.
//
// run() may be called from any thread. An executor outlives what was given to it: destruction runs
// what is queued, then joins. The owner of pending work makes sure (with a Gate) that nothing waits
// for a result any more.
#pragma once

#include <condition_variable>
#include <coroutine>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <type_traits>
#include <utility>

#include "io/reactor.h"

namespace squall {

class Executor {
 public:
  virtual ~Executor() = default;
  virtual void run(std::move_only_function<void()> work) = 0;
};

class ThreadExecutor final : public Executor {
 public:
  // `name` shows in ps and in debuggers (15 bytes).
  explicit ThreadExecutor(const char* name);
  ~ThreadExecutor() override;
  void run(std::move_only_function<void()> work) override;

 private:
  void loop();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::move_only_function<void()>> queue_;
  bool stopping_ = false;
  std::thread thread_;
};

class InlineExecutor final : public Executor {
 public:
  explicit InlineExecutor(Reactor& reactor) : reactor_(reactor) {}
  void run(std::move_only_function<void()> work) override { reactor_.post(std::move(work)); }

 private:
  Reactor& reactor_;
};

// Makes an executor of the kind an engine is to use; `name` names its thread where it has one.
using ExecutorFactory = std::function<std::unique_ptr<Executor>(Reactor&, const char* name)>;
std::unique_ptr<Executor> make_thread_executor(Reactor& reactor, const char* name);
std::unique_ptr<Executor> make_inline_executor(Reactor& reactor, const char* name);

// co_await run_on(executor, reactor, work): runs `work` on the executor and continues on the
// reactor with what it returned. What `work` refers to must stay until then.
template <class Work>
class RunOnAwaiter {
 public:
  using Value = std::invoke_result_t<Work&>;
  RunOnAwaiter(Executor& executor, Reactor& reactor, Work work)
      : executor_(executor), reactor_(reactor), work_(std::move(work)) {}
  bool await_ready() noexcept { return false; }
  void await_suspend(std::coroutine_handle<> awaiter) {
    executor_.run([this, awaiter] {
      value_.emplace(work_());
      reactor_.post([awaiter] { awaiter.resume(); });
    });
  }
  Value await_resume() { return std::move(*value_); }

 private:
  Executor& executor_;
  Reactor& reactor_;
  Work work_;
  std::optional<Value> value_;
};
template <class Work>
RunOnAwaiter<Work> run_on(Executor& executor, Reactor& reactor, Work work) {
  return RunOnAwaiter<Work>(executor, reactor, std::move(work));
}

}  // namespace squall
