#include "io/gate.h"

#include <gtest/gtest.h>

#include "io/run_task.h"
#include "io/test_reactor.h"

namespace squall {
namespace {

Task<void> hold(Reactor& reactor, Gate& gate, int& held, int& refused) {
  auto pass = gate.enter();
  if (!pass) {
    ++refused;
    co_return;
  }
  ++held;
  co_await sleep_ns(reactor, 1'000'000);
  --held;
}

Task<void> close(Gate& gate) {
  co_await gate.close();
}

TEST(Gate, ClosesAtOnceWhenNobodyIsInside) {
  auto reactor = make_test_reactor();
  Gate gate;
  run_task(*reactor, close(gate));
  EXPECT_TRUE(gate.is_closed());
  EXPECT_FALSE(gate.enter());
}

TEST(Gate, CloseWaitsForThoseInsideAndRefusesNewOnes) {
  auto reactor = make_test_reactor();
  Gate gate;
  int held = 0, refused = 0;
  for (int i = 0; i < 5; ++i) spawn(hold(*reactor, gate, held, refused));
  EXPECT_EQ(gate.inside(), 5U);
  reactor->post([&] { spawn(hold(*reactor, gate, held, refused)); });
  run_task(*reactor, close(gate));
  EXPECT_EQ(held, 0);
  EXPECT_EQ(refused, 1);
  EXPECT_EQ(gate.inside(), 0U);
}

TEST(Gate, APassMovesWithItsOwner) {
  Gate gate;
  auto first = gate.enter();
  auto second = std::move(first);
  EXPECT_FALSE(first);  // NOLINT(bugprone-use-after-move): what is left of it is the point
  EXPECT_TRUE(second);
  EXPECT_EQ(gate.inside(), 1U);
  {
    const auto gone = std::move(second);
  }
  EXPECT_EQ(gate.inside(), 0U);
}

}  // namespace
}  // namespace squall
