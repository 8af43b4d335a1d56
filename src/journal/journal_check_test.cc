// check_journal against journals that were damaged byte by byte, and against one that is being
// written: no fault missed, none invented.
#include "journal/journal_check.h"

#include "journal/journal_scan.h"
#include "journal/journal_test_support.h"

namespace squall {
namespace {

using journal_format::kBlock;
using journal_format::kFirstRecord;
using journal_format::kRecordHeaderBytes;
using testing::JournalHost;
using testing::JournalModel;
using testing::small_journal;

struct Checked {
  std::vector<JournalProblem> problems;
  JournalCheckTotals totals;
};

Checked check(sim::SimReactor& reactor) {
  Checked checked;
  auto done = run_task(reactor, check_journal(reactor, reactor.files(), "/journal",
                                              [&](const JournalProblem& problem) {
                                                checked.problems.push_back(problem);
                                              }));
  EXPECT_TRUE(done) << done.error().message();
  if (done) checked.totals = *done;
  EXPECT_EQ(checked.totals.problems, checked.problems.size());
  return checked;
}

Checked check(sim::SimDisk& disk) {
  sim::SimReactor reactor(1, disk);
  return check(reactor);
}

// Three files full of flushed records (the first two with an index), part of a fourth.
class JournalCheck : public ::testing::Test {
 protected:
  void SetUp() override {
    JournalHost host(1, disk_, model_);
    ASSERT_TRUE(host.open());
    while (host.journal().stats().files < 4) {
      ASSERT_TRUE(host.append_now(6000));
      ASSERT_TRUE(host.flush_now());
    }
    for (int i = 0; i < 3; ++i) {
      ASSERT_TRUE(host.append_now(3000));
      ASSERT_TRUE(host.flush_now());
    }
    host.settle();
    first_ = host.file_of(1)->path;
    last_ = host.file_of(model_.next_key - 1)->path;
    disk_.kill_process();
  }
  void restart() { disk_.restart(); }

  sim::SimDisk disk_{1};
  JournalModel model_;
  std::string first_, last_;
};

TEST_F(JournalCheck, AHealthyJournalHasNoProblem) {
  restart();
  const Checked checked = check(disk_);
  for (const auto& p : checked.problems) ADD_FAILURE() << p.file << " " << p.offset << p.what;
  EXPECT_EQ(checked.totals.files, 4);
  EXPECT_EQ(checked.totals.records, model_.issued.size());
}

TEST_F(JournalCheck, NoDirectoryIsAnEmptyJournal) {
  sim::SimDisk empty(2);
  EXPECT_EQ(check(empty).totals.files, 0);
}

// A record that an index names, wherever it is hit; and one in a file without an index, which would
// otherwise look like the torn end of the log.
TEST_F(JournalCheck, EveryDamagedByteOfARecordIsFoundWithItsPlace) {
  restart();
  const uint64_t size = journal_format::record_bytes(6000);
  for (const uint64_t at :
       {uint64_t{0}, uint64_t{17}, uint64_t{63}, uint64_t{64}, uint64_t{6063}}) {
    for (const uint64_t record : {0, 1, 4}) {
      sim::SimDisk disk = disk_.clone();
      const uint64_t begin = kFirstRecord + record * size;
      ASSERT_TRUE(disk.flip_bits(first_, begin + at));
      const Checked checked = check(disk);
      ASSERT_EQ(checked.problems.size(), 1) << at;
      EXPECT_EQ(checked.problems[0].file, first_);
      EXPECT_EQ(checked.problems[0].offset, begin);
    }
    sim::SimDisk disk = disk_.clone();
    ASSERT_TRUE(disk.flip_bits(last_, kFirstRecord + at));
    const Checked checked = check(disk);
    ASSERT_EQ(checked.problems.size(), 1) << at;
    EXPECT_EQ(checked.problems[0].file, last_);
    EXPECT_EQ(checked.problems[0].offset, kFirstRecord);
  }
}

TEST_F(JournalCheck, DamagedHeadersStartsAndLengthsAreFound) {
  restart();
  const uint64_t file_bytes = small_journal().file_bytes;
  for (const uint64_t at :
       {uint64_t{0}, uint64_t{30}, kBlock - 1, kBlock, kBlock + 9, 2 * kBlock - 1}) {
    sim::SimDisk disk = disk_.clone();
    ASSERT_TRUE(disk.flip_bits(first_, at, 0x40));
    const Checked checked = check(disk);
    ASSERT_GE(checked.problems.size(), 1) << at;
    EXPECT_EQ(checked.problems[0].file, first_);
    EXPECT_EQ(checked.problems[0].offset, at / kBlock * kBlock) << checked.problems[0].what;
  }
  sim::SimDisk disk = disk_.clone();
  {
    sim::SimReactor reactor(1, disk);
    auto handle = reactor.files().open(first_, {.write = true});
    ASSERT_TRUE(handle);
    ASSERT_TRUE(reactor.files().truncate(*handle, file_bytes - kBlock));
    reactor.files().close(*handle);
  }
  const Checked checked = check(disk);
  ASSERT_EQ(checked.problems.size(), 1);
  EXPECT_EQ(checked.problems[0].file, first_);
}

// An index is derived: without it every record is still there, and checked.
TEST_F(JournalCheck, ADamagedIndexHidesNoDamagedRecord) {
  restart();
  for (const uint64_t from_end : {kBlock + 4000, kBlock / 2}) {
    sim::SimDisk disk = disk_.clone();
    ASSERT_TRUE(disk.flip_bits(first_, small_journal().file_bytes - from_end - 1));
    EXPECT_EQ(check(disk).totals.records, model_.issued.size());
    ASSERT_TRUE(disk.flip_bits(first_, kFirstRecord + 5));
    const Checked checked = check(disk);
    ASSERT_EQ(checked.problems.size(), 1);
    EXPECT_EQ(checked.problems[0].offset, kFirstRecord);
  }
}

TEST_F(JournalCheck, WhatTheDeviceCannotReadIsAProblem) {
  restart();
  disk_.set_faults(first_, {.read = sim::FaultCount::always()});
  const Checked checked = check(disk_);
  ASSERT_EQ(checked.problems.size(), 1);
  EXPECT_EQ(checked.problems[0].file, first_);
}

// The last records of a log that a power cut tore are no fault.
TEST_F(JournalCheck, ATornEndIsNoProblem) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    sim::SimDisk disk(seed);
    JournalModel model;
    Random random(seed);
    {
      JournalHost host(seed, disk, model);
      ASSERT_TRUE(host.open());
      disk.cut_power_after(random.between(20, 200));
      for (int i = 0; i < 60 && disk.is_running(); ++i) {
        (void)host.append_now(random.between(1, 9000),
                              random.chance(0.3) ? JournalPath::kDirect : JournalPath::kCached);
        if (random.chance(0.3)) (void)host.flush_now();
        if (random.chance(0.1)) host.release_below(model.next_key > 5 ? model.next_key - 5 : 0);
      }
      disk.cut_power();
    }
    disk.restart(sim::LossPolicy::random(seed).torn(sim::Tear::kSubset, seed));
    for (const auto& p : check(disk).problems) ADD_FAILURE() << p.file << " " << p.offset << p.what;
  }
}

// Checks that run beside appends, flushes, rolls and recycling.
TEST_F(JournalCheck, OnlineItInventsNothing) {
  sim::SimDisk disk(5);
  JournalModel model;
  JournalHost host(5, disk, model);
  JournalConfig config = small_journal();
  config.max_files = 6;
  ASSERT_TRUE(host.open(config));
  disk.set_faults("/journal", {.latency_ns = 20'000});
  int pending = 0, checks = 0;
  for (int round = 0; round < 12; ++round) {
    ++pending;
    spawn(check_journal(host.reactor(), host.reactor().files(), "/journal",
                        [](const JournalProblem& p) {
                          ADD_FAILURE() << p.file << " at " << p.offset << ": " << p.what;
                        }),
          [&](const Result<JournalCheckTotals>& done) {
            EXPECT_TRUE(done);
            --pending;
            ++checks;
          });
    for (int i = 0; i < 25; ++i) {
      ++pending;
      auto done = [&pending](const Result<void>&) { --pending; };
      spawn(host.append(5000, i % 3 == 0 ? JournalPath::kDirect : JournalPath::kCached), done);
      if (i % 4 != 0) continue;
      ++pending;
      spawn(host.flush(), done);
      host.release_below(model.next_key > 10 ? model.next_key - 10 : 0);
      host.settle(100'000);
    }
    run_until(host.reactor(), [&] {
      host.release_below(model.next_key);
      return pending == 0;
    });
  }
  EXPECT_EQ(checks, 12);
}

}  // namespace
}  // namespace squall
