// A journal whose disk is full: it opens, reads and goes on by itself once there is space.
#include <gtest/gtest.h>

#include "journal/journal_test_support.h"

namespace squall::testing {
namespace {

class FullJournalTest : public ::testing::Test {
 protected:
  FullJournalTest() : disk_(1) {}

  void fill() {
    JournalHost probe(1, disk_, model_);
    const auto space = *probe.reactor().files().space("/journal");
    disk_.set_faults("/journal", {.capacity_bytes = space.total_bytes - space.available_bytes});
  }
  void make_room() { disk_.set_faults("/journal", {}); }
  void crash(bool power_cut) {
    if (power_cut)
      disk_.cut_power();
    else
      disk_.kill_process();
  }
  void restart() { disk_.restart(sim::LossPolicy::lose_all()); }

  sim::SimDisk disk_;
  JournalModel model_;
};

TEST_F(FullJournalTest, ItOpensAgainAndAgainAndTakesWritesWhenThereIsSpace) {
  for (const bool power_cut : {false, true}) {
    SCOPED_TRACE(power_cut);
    disk_ = sim::SimDisk(1);
    model_ = {};
    {
      JournalHost host(1, disk_, model_);
      ASSERT_TRUE(host.open());
      for (int i = 0; i < 20; ++i) ASSERT_TRUE(host.append_now(6000));
      ASSERT_TRUE(host.flush_now());
      host.settle();
      crash(power_cut);
    }
    restart();
    fill();
    for (int life = 0; life < 4; ++life) {
      SCOPED_TRACE(life);
      JournalHost host(1, disk_, model_);
      const auto opened = host.open();
      ASSERT_TRUE(opened) << opened.error().message();
      host.check_contents();
      ASSERT_EQ(host.keys().size(), 20);
      if (life >= 2) {  // the reserve went with the first two starts
        const auto refused = host.append_now(60'000 / 4);
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().os_errno(), ENOSPC);
        model_.issued.erase(model_.next_key - 1);
      }
      EXPECT_TRUE(host.flush_now());
      crash(power_cut && life % 2 == 1);
      restart();
    }
    {
      JournalHost host(1, disk_, model_);
      ASSERT_TRUE(host.open());
      EXPECT_FALSE(host.append_now(100));
      model_.issued.erase(model_.next_key - 1);
      make_room();
      for (int i = 0; i < 20; ++i) ASSERT_TRUE(host.append_now(6000, JournalPath::kDirect));
      ASSERT_TRUE(host.flush_now());
      ASSERT_EQ(host.keys().size(), 40);
      host.check_contents();
      crash(power_cut);
    }
    restart();
    check_restart(disk_, model_, power_cut ? Crash::kPowerCut : Crash::kKill);
    ASSERT_EQ(model_.issued.size(), 40);
  }
}

// Committing what it holds makes room in it, with no other space to be had.
TEST_F(FullJournalTest, WhatIsReleasedMakesRoom) {
  {
    JournalHost host(1, disk_, model_);
    ASSERT_TRUE(host.open());
    for (int i = 0; i < 40; ++i) ASSERT_TRUE(host.append_now(6000));
    ASSERT_TRUE(host.flush_now());
    host.settle();
    crash(false);
  }
  for (int life = 0; life < 3; ++life) {
    restart();
    fill();
    JournalHost host(1, disk_, model_);
    ASSERT_TRUE(host.open());
    crash(false);
  }
  restart();
  JournalHost host(1, disk_, model_);
  ASSERT_TRUE(host.open());
  EXPECT_FALSE(host.append_now(100));
  model_.issued.erase(model_.next_key - 1);
  host.release_below(30);
  host.settle();
  ASSERT_TRUE(host.append_now(100));
  host.check_contents();
}

}  // namespace
}  // namespace squall::testing
