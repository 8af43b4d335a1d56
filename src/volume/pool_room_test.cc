#include "volume/pool_room.h"

#include <gtest/gtest.h>

#include "testing/memory_engine.h"
#include "testing/post_reactor.h"

namespace squall {
namespace {

class ClockReactor : public PostReactor {
 public:
  uint64_t now_ns() const override { return time_ns; }
  uint64_t time_ns = 0;
};

// Stores whose free space a test sets.
class RoomStores : public testing::MemorySegmentStore {
 public:
  explicit RoomStores(Reactor& reactor) : MemorySegmentStore(reactor, {"main", "other"}) {}
  Result<std::vector<StoreInfo>> stores() override {
    return std::vector<StoreInfo>{
        {"main", "/main", 1000 * kMiB, main_bytes, true, ""},
        {"other", "/other", 1000 * kMiB, other_bytes, other_problem == "", other_problem}};
  }
  uint64_t main_bytes = 100 * kMiB;
  uint64_t other_bytes = 100 * kMiB;
  std::string other_problem;
};

class PoolRoomTest : public ::testing::Test {
 protected:
  ClockReactor reactor_;
  RoomStores stores_{reactor_};
  PoolRoom room_{reactor_, stores_, 20 * kMiB};
};

TEST_F(PoolRoomTest, EveryStoreHasItsOwnRoom) {
  stores_.main_bytes = 20 * kMiB + 8 * kMiB;
  PoolRoom::Store& main = room_.store("");
  PoolRoom::Store& other = room_.store("other");
  EXPECT_EQ(&main, &room_.store("main"));
  EXPECT_FALSE(room_.take(main, 8 * kMiB)) << "no room for the overhead";
  EXPECT_TRUE(room_.take(main, 7 * kMiB));
  EXPECT_EQ(room_.take(main, 1 * kMiB).error().os_errno(), ENOSPC);
  EXPECT_TRUE(room_.take(main, 0)) << "zeroing and trimming need no room";
  EXPECT_TRUE(room_.take(other, 60 * kMiB));
}

TEST_F(PoolRoomTest, WhatIsDirtyCountsAsUsed) {
  stores_.main_bytes = 20 * kMiB + 90 * kMiB;
  stores_.other_bytes = 300 * kMiB;
  PoolRoom::Store& main = room_.store("main");
  room_.store("other").dirty_bytes = 500 * kMiB;
  EXPECT_TRUE(room_.take(main, 79 * kMiB)) << "nothing is dirty there";
  main.dirty_bytes = 72 * kMiB;  // 81 with its overhead
  EXPECT_FALSE(room_.take(main, 9 * kMiB));
  reactor_.time_ns += 1'000'000'000;  // asked anew: 9 MiB are left
  EXPECT_FALSE(room_.take(main, 9 * kMiB));
  EXPECT_TRUE(room_.take(main, 7 * kMiB));
  EXPECT_EQ(room_.dirty_bytes(), 572 * kMiB);
}

TEST_F(PoolRoomTest, StoresOnOneDiskShareItsRoom) {
  room_.store("other").dirty_bytes = 72 * kMiB;  // of the 80 that both see
  reactor_.time_ns += 1'000'000'000;
  EXPECT_FALSE(room_.take(room_.store("main"), 10 * kMiB));
}

TEST_F(PoolRoomTest, AStoreThatIsAwayIsNamed) {
  stores_.other_problem = "store other: no disk";
  PoolRoom::Store& other = room_.store("other");
  const auto taken = room_.take(other, 1);
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().os_errno(), EIO);
  EXPECT_NE(taken.error().message().find("no disk"), std::string::npos);
  EXPECT_FALSE(room_.take(room_.store("unheard-of"), 1));
  EXPECT_TRUE(room_.take(room_.store("main"), 1));
}

}  // namespace
}  // namespace squall
