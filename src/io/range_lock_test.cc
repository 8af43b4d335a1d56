#include "io/range_lock.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <list>
#include <string>
#include <vector>

#include "base/random.h"
#include "io/run_task.h"
#include "io/test_reactor.h"

namespace squall {
namespace {

struct Holder {
  uint64_t begin, end;
  bool exclusive;
};

struct State {
  Reactor& reactor;
  RangeLock lock{reactor};
  std::list<Holder> holders;
  std::vector<int> granted;
  int finished = 0;
  int conflicts = 0;
};

bool conflicting(const Holder& a, const Holder& b) {
  return a.begin < b.end && b.begin < a.end && (a.exclusive || b.exclusive);
}

Task<void> hold(State& state, int id, Holder wanted, int turns) {
  {
    const auto guard =
        co_await state.lock.lock(wanted.begin, wanted.end - wanted.begin, wanted.exclusive);
    for (const Holder& other : state.holders)
      if (conflicting(wanted, other)) ++state.conflicts;
    state.granted.push_back(id);
    const auto self = state.holders.insert(state.holders.end(), wanted);
    for (int i = 0; i < turns; ++i) co_await yield_to(state.reactor);
    state.holders.erase(self);
  }
  ++state.finished;
}

void run_until_finished(State& state, int count) {
  run_until(state.reactor, [&] { return state.finished == count; });
}

TEST(RangeLock, DisjointAndSharedRangesAreHeldTogether) {
  auto reactor = make_test_reactor();
  State state{*reactor};
  spawn(hold(state, 0, {0, 10, true}, 3));
  spawn(hold(state, 1, {10, 20, true}, 3));
  spawn(hold(state, 2, {30, 50, false}, 3));
  spawn(hold(state, 3, {40, 60, false}, 3));
  EXPECT_EQ(state.holders.size(), 4U);
  run_until_finished(state, 4);
  EXPECT_EQ(state.conflicts, 0);
}

TEST(RangeLock, OverlappingWaitersComeInOrderEvenSharedOnes) {
  auto reactor = make_test_reactor();
  State state{*reactor};
  spawn(hold(state, 0, {0, 10, false}, 3));
  spawn(hold(state, 1, {5, 15, true}, 3));
  spawn(hold(state, 2, {0, 10, false}, 3));  // could share with 0, but must not overtake 1
  spawn(hold(state, 3, {20, 30, true}, 3));
  EXPECT_EQ(state.granted, (std::vector<int>{0, 3}));
  run_until_finished(state, 4);
  EXPECT_EQ(state.granted, (std::vector<int>{0, 3, 1, 2}));
  EXPECT_EQ(state.conflicts, 0);
}

TEST(RangeLock, ALengthBeyondTheEndMeansEverythingFromThere) {
  auto reactor = make_test_reactor();
  RangeLock lock(*reactor);
  int order = 0, late = 0;
  auto whole = [](Reactor& r, RangeLock& l, int& counter) -> Task<void> {
    const auto guard = co_await l.lock(4096, ~0ULL, true);
    co_await yield_to(r);
    ++counter;
  };
  auto far = [](RangeLock& l, int& counter, int& seen) -> Task<void> {
    const auto guard = co_await l.lock(1ULL << 60, 1, false);
    seen = ++counter;
  };
  spawn(whole(*reactor, lock, order));
  spawn(far(lock, order, late));
  EXPECT_EQ(late, 0);
  run_until(*reactor, [&] { return late != 0; });
  EXPECT_EQ(late, 2);
}

// Many random requests in flight at once: no two conflicting holders ever, everybody gets his turn,
// and of two conflicting requests the earlier is granted first. SQUALL_SEEDS sets how many seeds.
TEST(RangeLock, RandomRequestsNeverConflictAndKeepTheirOrder) {
  const char* knob = std::getenv("SQUALL_SEEDS");
  const uint64_t seeds = knob != nullptr ? std::strtoull(knob, nullptr, 10) : 20;
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    auto reactor = make_test_reactor();
    State state{*reactor};
    Random random(seed);
    constexpr int kRequests = 300;
    std::vector<Holder> requests;
    for (int id = 0; id < kRequests; ++id) {
      const uint64_t begin = random.below(100);
      requests.push_back({begin, begin + random.between(1, 30), random.chance(0.5)});
      spawn(hold(state, id, requests.back(), static_cast<int>(random.below(6))));
      if (random.chance(0.3)) {
        reactor->post([] {});
        reactor->run_once();
      }
    }
    run_until_finished(state, kRequests);
    ASSERT_EQ(state.conflicts, 0);
    ASSERT_EQ(state.granted.size(), static_cast<size_t>(kRequests));
    for (size_t i = 0; i < state.granted.size(); ++i)
      for (size_t j = i + 1; j < state.granted.size(); ++j) {
        const auto first = static_cast<size_t>(state.granted[i]);
        const auto second = static_cast<size_t>(state.granted[j]);
        ASSERT_TRUE(first < second || !conflicting(requests[first], requests[second]))
            << second << " was overtaken by " << first;
      }
  }
}

}  // namespace
}  // namespace squall
