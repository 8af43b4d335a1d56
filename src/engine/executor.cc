#include "engine/executor.h"

#include <pthread.h>

namespace squall {

ThreadExecutor::ThreadExecutor(const char* name) : thread_([this] { loop(); }) {
  pthread_setname_np(thread_.native_handle(), name);
}

ThreadExecutor::~ThreadExecutor() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void ThreadExecutor::run(std::move_only_function<void()> work) {
  {
    std::lock_guard lock(mutex_);
    queue_.push_back(std::move(work));
  }
  wake_.notify_one();
}

void ThreadExecutor::loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (queue_.empty()) return;
    auto work = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    work();
    work = nullptr;  // what it holds is freed here, not under the lock
    lock.lock();
  }
}

std::unique_ptr<Executor> make_thread_executor(Reactor&, const char* name) {
  return std::make_unique<ThreadExecutor>(name);
}

std::unique_ptr<Executor> make_inline_executor(Reactor& reactor, const char*) {
  return std::make_unique<InlineExecutor>(reactor);
}

}  // namespace squall
