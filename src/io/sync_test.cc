#include "io/sync.h"

#include <gtest/gtest.h>

#include <vector>

#include "io/run_task.h"
#include "io/test_reactor.h"

namespace squall {
namespace {

using Log = std::vector<int>;

// Runs everything that is ready; more turns than any test here needs.
void settle(Reactor& reactor) {
  for (int turn = 0; turn < 20; ++turn) {
    reactor.post([] {});
    reactor.run_once();
  }
}

Task<void> wait_and_log(WaitQueue& queue, Log& log, int id) {
  co_await queue.wait();
  log.push_back(id);
}

Task<void> hold_unit(Reactor& reactor, Semaphore& semaphore, Log& log, int id, int& inside,
                     int& inside_max) {
  co_await semaphore.acquire();
  SemaphoreGuard guard(semaphore);
  log.push_back(id);
  inside_max = std::max(inside_max, ++inside);
  co_await yield_to(reactor);
  co_await sleep_ns(reactor, 1000);
  --inside;
}

TEST(WaitQueue, WakesInOrderAndNeverInsideTheWaker) {
  auto reactor = make_test_reactor();
  WaitQueue queue(*reactor);
  Log log;
  for (int id = 0; id < 4; ++id) spawn(wait_and_log(queue, log, id));
  EXPECT_EQ(queue.size(), 4U);
  queue.wake_one();
  EXPECT_TRUE(log.empty()) << "the waiter runs from the reactor, not from wake_one()";
  settle(*reactor);
  EXPECT_EQ(log, Log({0}));
  queue.wake_all();
  EXPECT_TRUE(queue.empty());
  settle(*reactor);
  EXPECT_EQ(log, Log({0, 1, 2, 3}));
  queue.wake_one();  // nobody is there: nothing happens, nothing is remembered
  spawn(wait_and_log(queue, log, 9));
  settle(*reactor);
  EXPECT_EQ(queue.size(), 1U);
  queue.wake_all();
  settle(*reactor);
}

TEST(Semaphore, LetsInAsManyAsItHasUnitsInOrder) {
  auto reactor = make_test_reactor();
  Semaphore semaphore(*reactor, 3);
  Log log;
  int inside = 0, inside_max = 0;
  for (int id = 0; id < 50; ++id)
    spawn(hold_unit(*reactor, semaphore, log, id, inside, inside_max));
  run_until(*reactor, [&] { return log.size() == 50 && inside == 0; });
  settle(*reactor);
  EXPECT_EQ(inside_max, 3);
  EXPECT_EQ(semaphore.available(), 3U);
  for (int id = 0; id < 50; ++id) EXPECT_EQ(log[static_cast<size_t>(id)], id);
}

TEST(Semaphore, AReleasedUnitGoesToTheWaiterNotToALatecomer) {
  auto reactor = make_test_reactor();
  Mutex mutex(*reactor);
  Log log;
  int inside = 0, inside_max = 0;
  run_task(*reactor, [](Mutex& m) -> Task<void> { co_await m.acquire(); }(mutex));
  spawn(hold_unit(*reactor, mutex, log, 1, inside, inside_max));
  mutex.release();
  EXPECT_EQ(mutex.available(), 0U) << "handed over, not freed";
  spawn(hold_unit(*reactor, mutex, log, 2, inside, inside_max));
  run_until(*reactor, [&] { return log.size() == 2 && inside == 0; });
  settle(*reactor);
  EXPECT_EQ(log, Log({1, 2}));
  EXPECT_EQ(inside_max, 1);
}

TEST(SemaphoreGuard, ReleasesOnceHoweverItEnds) {
  auto reactor = make_test_reactor();
  Semaphore semaphore(*reactor, 1);
  run_task(*reactor, [](Semaphore& s) -> Task<void> {
    co_await s.acquire();
    SemaphoreGuard guard(s);
    SemaphoreGuard moved(std::move(guard));
    moved.release();
    moved.release();
  }(semaphore));
  EXPECT_EQ(semaphore.available(), 1U);
}

}  // namespace
}  // namespace squall
