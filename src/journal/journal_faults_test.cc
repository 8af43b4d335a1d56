// The journal on a failing disk: writes, syncs and space that are not there.
#include "journal/journal_test_support.h"

namespace squall {
namespace {

using sim::DiskFaults;
using sim::FaultCount;
using testing::check_restart;
using testing::Crash;
using testing::JournalHost;
using testing::JournalModel;
using testing::small_journal;

class JournalFaults : public ::testing::Test {
 protected:
  JournalFaults() : host_(std::make_unique<JournalHost>(1, disk_, model_)) {}
  void set_faults(DiskFaults faults) { disk_.set_faults("/journal", faults); }
  void crash(Crash how, sim::LossPolicy policy = sim::LossPolicy::lose_all()) {
    set_faults({});
    how == Crash::kKill ? disk_.kill_process() : disk_.cut_power();
    host_.reset();
    disk_.restart(policy);
  }

  sim::SimDisk disk_{1};
  JournalModel model_;
  std::unique_ptr<JournalHost> host_;
};

TEST_F(JournalFaults, AFailedWriteAbandonsTheFileAndLaterAppendsWork) {
  ASSERT_TRUE(host_->open());
  for (const JournalPath path : {JournalPath::kCached, JournalPath::kDirect}) {
    ASSERT_TRUE(host_->append_now(3000, path));
    const JournalFile* before = host_->file_of(model_.next_key - 1);
    set_faults({.write = FaultCount::once()});
    EXPECT_FALSE(host_->append_now(3000, path));
    set_faults({});
    ASSERT_TRUE(host_->append_now(3000, path));
    EXPECT_NE(host_->file_of(model_.next_key - 1), before);
  }
  ASSERT_TRUE(host_->flush_now());
  ASSERT_TRUE(host_->append_now(500));
  host_->check_contents();
  const sim::SimDisk disk = disk_.clone();
  crash(Crash::kKill);
  check_restart(disk_, model_, Crash::kKill);
}

TEST_F(JournalFaults, AFailedWriteAmongManyLosesNothingAcknowledged) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    sim::SimDisk disk(seed);
    JournalModel model;
    const bool kill = random.chance(0.5);
    {
      JournalHost host(seed, disk, model);
      ASSERT_TRUE(host.open());
      disk.set_faults("/journal",
                      {.write = {.after = random.below(40), .times = random.between(1, 3)}});
      int pending = 0;
      for (int i = 0; i < 80; ++i) {
        ++pending;
        auto done = [&pending](const Result<void>&) { --pending; };
        const auto path = random.chance(0.5) ? JournalPath::kDirect : JournalPath::kCached;
        random.chance(0.2) ? spawn(host.flush(), done)
                           : spawn(host.append(random.between(1, 4000), path), done);
        if (random.chance(0.4)) run_until(host.reactor(), [&] { return pending == 0; });
      }
      run_until(host.reactor(), [&] { return pending == 0; });
      disk.set_faults("/journal", {});
      host.check_contents();
      kill ? disk.kill_process() : disk.cut_power();
    }
    disk.restart(sim::LossPolicy::random(seed));
    check_restart(disk, model, kill ? Crash::kKill : Crash::kPowerCut);
    if (HasFatalFailure()) return;
  }
}

TEST_F(JournalFaults, AfterAFailedSyncTheCopiesMakeTheFlushTrue) {
  ASSERT_TRUE(host_->open());
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(host_->append_now(2000));
  ASSERT_TRUE(host_->flush_now());
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(host_->append_now(2000));
  host_->settle();
  set_faults({.sync = FaultCount::once()});
  const auto flushed = host_->flush_now();
  ASSERT_TRUE(flushed) << flushed.error().message();
  EXPECT_EQ(host_->lost_count(), 0);
  EXPECT_EQ(host_->relocated_count(), 5);
  ASSERT_TRUE(host_->append_now(700));
  host_->check_contents();
  crash(Crash::kPowerCut);
  check_restart(disk_, model_, Crash::kPowerCut);
}

// What was not durable fills more than one new file.
TEST_F(JournalFaults, CopiesMaySpanFiles) {
  ASSERT_TRUE(host_->open());
  ASSERT_TRUE(host_->append_now(100));
  ASSERT_TRUE(host_->flush_now());
  host_->settle();
  // No time passes between these appends, so no sync comes in between.
  int pending = 0;
  set_faults({.sync = FaultCount::once(2), .latency_ns = 1'000'000});
  for (int i = 0; i < 24; ++i) {
    ++pending;
    spawn(host_->append(5000, JournalPath::kCached), [&](const Result<void>& done) {
      EXPECT_TRUE(done);
      --pending;
    });
  }
  run_until(host_->reactor(), [&] { return pending == 0; });
  const auto flushed = host_->flush_now();
  ASSERT_TRUE(flushed) << flushed.error().message();
  EXPECT_EQ(host_->lost_count(), 0);
  host_->check_contents();
  crash(Crash::kPowerCut);
  check_restart(disk_, model_, Crash::kPowerCut);
}

// Wherever the failing sync falls, and whatever happens then.
TEST_F(JournalFaults, AFailedSyncAnywhereThenACrashAnywhere) {
  for (const bool evicts : {false, true}) {
    for (const Crash how : {Crash::kKill, Crash::kPowerCut}) {
      for (uint64_t after = 0; after < 6; ++after) {
        for (uint64_t seed = 0; seed < 12; ++seed) {
          SCOPED_TRACE("evicts " + std::to_string(evicts) + " how " +
                       std::to_string(static_cast<int>(how)) + " after " + std::to_string(after) +
                       " seed " + std::to_string(seed));
          Random random(seed * 100 + after);
          sim::SimDisk disk(seed);
          JournalModel model;
          {
            JournalHost first(seed, disk, model);
            ASSERT_TRUE(first.open());
            for (int i = 0; i < 20; ++i) ASSERT_TRUE(first.append_now(random.between(1, 8000)));
            if (random.chance(0.5)) ASSERT_TRUE(first.flush_now());
            first.settle();
            disk.kill_process();
          }
          disk.restart();
          for (auto& [key, issued] : model.issued) issued.acknowledged = true;
          {
            JournalHost host(seed, disk, model);
            ASSERT_TRUE(host.open());
            host.settle();
            disk.set_faults("/journal",
                            {.sync = FaultCount::once(after), .failed_sync_evicts = evicts});
            const uint64_t crash_after = random.below(60);
            if (random.chance(0.7))
              how == Crash::kKill ? disk.kill_process_after(crash_after)
                                  : disk.cut_power_after(crash_after);
            int pending = 0;
            for (int i = 0; i < 40; ++i) {
              ++pending;
              auto done = [&pending](const Result<void>&) { --pending; };
              random.chance(0.2)
                  ? spawn(host.flush(), done)
                  : spawn(host.append(random.between(1, 8000), JournalPath::kCached), done);
              if (random.chance(0.3)) run_until(host.reactor(), [&] { return pending == 0; });
            }
            run_until(host.reactor(), [&] { return pending == 0; });
            disk.set_faults("/journal", {});
            if (disk.is_running()) {
              if (!evicts) EXPECT_EQ(host.lost_count(), 0);
              how == Crash::kKill ? disk.kill_process() : disk.cut_power();
            }
          }
          disk.restart(sim::LossPolicy::random(seed));
          // Pages that a failed sync evicted before their loss could be told are a power cut.
          check_restart(disk, model, evicts ? Crash::kPowerCut : how);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_F(JournalFaults, EvictedPagesAreReportedAsLost) {
  ASSERT_TRUE(host_->open());
  ASSERT_TRUE(host_->append_now(2000));
  ASSERT_TRUE(host_->flush_now());
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(host_->append_now(2000));
  host_->settle();
  set_faults({.sync = FaultCount::once(), .failed_sync_evicts = true});
  const auto flushed = host_->flush_now();
  EXPECT_GT(host_->lost_count() + host_->relocated_count(), 0);
  EXPECT_EQ(host_->lost_count() + host_->relocated_count(), 10);
  host_->check_contents();  // what was not reported is right
  EXPECT_TRUE(flushed);     // the journal goes on; the volume that lost records fails
  EXPECT_EQ(host_->recorded_losses(), host_->lost_count() > 0);
  ASSERT_TRUE(host_->append_now(100));
}

// A loss that cannot be put on record must not be hidden either.
TEST_F(JournalFaults, ALossThatCannotBeRecordedStopsTheJournal) {
  ASSERT_TRUE(host_->open());
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(host_->append_now(2000));
  host_->settle();
  host_->fail_to_record_losses();
  set_faults({.sync = FaultCount::once(), .failed_sync_evicts = true});
  EXPECT_FALSE(host_->flush_now());
  ASSERT_GT(host_->lost_count(), 0);
  EXPECT_FALSE(host_->append_now(100));
  crash(Crash::kKill);
  JournalHost next(3, disk_, model_);
  ASSERT_TRUE(next.open());
  // The log ends before the gap: nothing that came after it is there.
  const auto keys = next.keys();
  for (const uint64_t key : keys) EXPECT_FALSE(model_.issued[key].lost);
  for (size_t i = 1; i < keys.size(); ++i) EXPECT_EQ(keys[i], keys[i - 1] + 1);
}

// Every file is in use, an append waits for one that only a sync could free, and that sync fails.
TEST_F(JournalFaults, ARescueDoesNotWaitForAnAppendThatWaitsForSpace) {
  JournalConfig config = small_journal();
  config.max_files = 4;
  ASSERT_TRUE(host_->open(config));
  int pending = 0, appended = 0;
  auto append = [&] {
    ++pending;
    spawn(host_->append_reserved(9000), [&](const Result<void>& done) {
      --pending;
      appended += done.has_value();
    });
  };
  while (host_->journal().stats().files <= config.max_files) {
    append();
    host_->settle(1'000'000);
  }
  for (int i = 0; i < 8; ++i) append();
  host_->settle(1'000'000);
  ASSERT_GT(pending, 0) << "nobody waits for a file";
  set_faults({.sync = FaultCount::once()});
  bool flushed = false;
  spawn(host_->flush(), [&](const Result<void>& done) {
    EXPECT_TRUE(done) << done.error().message();
    flushed = true;
  });
  host_->settle();
  EXPECT_TRUE(flushed);
  host_->release_below(model_.next_key - static_cast<uint64_t>(pending));
  run_until(host_->reactor(), [&] { return pending == 0; });
  host_->check_contents();
  crash(Crash::kKill);
  check_restart(disk_, model_, Crash::kKill);
}

TEST_F(JournalFaults, WhoWaitsForSpaceThatNeverComesGetsAnErrorInTheEnd) {
  JournalConfig config = small_journal();
  config.max_files = 4;
  config.stall_ms = 5000;
  ASSERT_TRUE(host_->open(config));
  int pending = 0, full = 0, appended = 0;
  for (int i = 0; i < 60; ++i) {
    ++pending;
    spawn(host_->append(8000, JournalPath::kCached), [&](const Result<void>& done) {
      --pending;
      appended += done.has_value();
      full += !done && done.error().os_errno() == ENOSPC;
    });
  }
  auto settle_ms = [&](int ms) {
    for (int at = 0; at < ms; at += 1000) {
      host_->settle(1'000'000'000);
      host_->journal().recheck_admissions();
    }
  };
  settle_ms(4000);
  EXPECT_EQ(full, 0);
  EXPECT_GT(pending, 0);
  // Space that comes starts the wait anew.
  host_->release_below(5);
  host_->journal().reclaim();
  settle_ms(8000);
  host_->settle();
  EXPECT_EQ(pending, 0);
  EXPECT_GT(full, 0);
  EXPECT_EQ(full + appended, 60);
}

TEST_F(JournalFaults, WhenSyncsFailForGoodSoDoesTheJournal) {
  ASSERT_TRUE(host_->open());
  ASSERT_TRUE(host_->append_now(2000));
  host_->settle();
  set_faults({.sync = FaultCount::always()});
  EXPECT_FALSE(host_->flush_now());
  EXPECT_FALSE(host_->flush_now());
  EXPECT_FALSE(host_->append_now(100));
  set_faults({});
  EXPECT_FALSE(host_->flush_now()) << "a retried sync proves nothing";
  EXPECT_FALSE(host_->append_now(100));
  host_->check_contents();
  crash(Crash::kKill);
  check_restart(disk_, model_, Crash::kKill);
}

TEST_F(JournalFaults, NoSpaceForAnotherFileFailsTheAppendOnly) {
  disk_.set_faults("/journal", {.capacity_bytes = 200 * kKiB});
  ASSERT_TRUE(host_->open());
  std::optional<Error> error;
  for (int i = 0; i < 60 && !error; ++i)
    if (auto done = host_->append_now(8000); !done) error = done.error();
  ASSERT_TRUE(error);
  EXPECT_EQ(error->os_errno(), ENOSPC) << error->message();
  ASSERT_TRUE(host_->flush_now());
  host_->check_contents();
  set_faults({});
  ASSERT_TRUE(host_->append_now(8000));
  ASSERT_TRUE(host_->flush_now());
  crash(Crash::kPowerCut);
  check_restart(disk_, model_, Crash::kPowerCut);
}

}  // namespace
}  // namespace squall
