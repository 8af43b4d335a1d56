// Disks that fail, fill up, rot and lose power under a pool.
#include <cerrno>
#include <cstdlib>
#include <set>

#include "pool/pool_promises.h"
#include "pool/pool_test_util.h"
#include "pool/segment_reader.h"

namespace squall::testing {
namespace {

using Call = MemorySegmentStore::Call;

class PoolFailureTest : public PoolTest {};

TEST_F(PoolFailureTest, FailedWriteLosesWhatWasNotDurable) {
  open();
  const auto kept = make_payload(5000, 1);
  const auto durable = append(kept);
  ASSERT_TRUE(durable && run(pool_->sync()));
  const AppendMark before = pool_->mark();
  const auto lost = append(make_payload(5000, 2));
  ASSERT_TRUE(lost);
  segments_.fail_next(Call::kWrite, EIO);
  const auto synced = run(pool_->sync(before));
  ASSERT_FALSE(synced);
  EXPECT_EQ(synced.error().os_errno(), EIO);
  // Somebody else who had appended before the failure hears of it too, whenever they sync.
  EXPECT_FALSE(run(pool_->sync(before)));
  EXPECT_FALSE(run(pool_->sync()));
  // Who begins afterwards is not concerned, and writes elsewhere.
  const AppendMark after = pool_->mark();
  const auto next = append(make_payload(5000, 3));
  ASSERT_TRUE(next);
  EXPECT_NE(next->segment(), lost->segment());
  EXPECT_TRUE(run(pool_->sync(after)));
  expect_reads(*durable, kept);
  expect_corrupt(*lost);
  reopen();
  run(pool_->wait_recovered());
  expect_reads(*durable, kept);
  expect_reads(*next, make_payload(5000, 3));
  const auto stats = run(pool_->stats());
  EXPECT_EQ(stats->stores[0].unsealed_segments, 0);
  EXPECT_EQ(stats->stores[0].records, 2);
}

TEST_F(PoolFailureTest, FailedSyncIsNeverRetriedIntoASuccess) {
  open();
  const auto lost = append(make_payload(5000, 1));
  ASSERT_TRUE(lost);
  segments_.fail_next(Call::kSync, EIO);
  const AppendMark before;
  EXPECT_FALSE(run(pool_->sync(before)));
  EXPECT_FALSE(run(pool_->sync(before)));
  const auto next = append(make_payload(5000, 2));
  ASSERT_TRUE(next);
  EXPECT_NE(next->segment(), lost->segment());
  EXPECT_FALSE(run(pool_->sync(before)));
  EXPECT_TRUE(run(pool_->sync(pool_->mark())));
  expect_reads(*next, make_payload(5000, 2));
  EXPECT_EQ(run(pool_->stats())->losses, 1);
}

TEST_F(PoolFailureTest, AStoreThatFailsConcernsItsOwnWritersOnly) {
  open();
  const Placement elsewhere{"other"};
  const AppendMark main = pool_->mark(Placement{});
  const AppendMark other = pool_->mark(elsewhere);
  ASSERT_TRUE(run(pool_->append(RecordKind::kChunk, make_payload(5000, 1), elsewhere)));
  segments_.fail_next(Call::kWrite, ENOSPC);
  EXPECT_EQ(run(pool_->sync(other)).error().kind(), ErrorKind::kNoSpace);
  segments_.fail_next(Call::kWrite, EIO);
  EXPECT_FALSE(run(pool_->sync(other)));
  ASSERT_TRUE(append(make_payload(5000, 2)));
  EXPECT_TRUE(run(pool_->sync(main)));
  EXPECT_FALSE(run(pool_->sync(other)));
  EXPECT_FALSE(run(pool_->sync())) << "whose writer may have appended anywhere";
  const AppendMark later = pool_->mark(elsewhere);
  ASSERT_TRUE(run(pool_->append(RecordKind::kChunk, make_payload(5000, 3), elsewhere)));
  EXPECT_TRUE(run(pool_->sync(later)));
}

TEST_F(PoolFailureTest, EveryWaiterOfAFailedSyncHearsOfIt) {
  open();
  ASSERT_TRUE(append(make_payload(5000, 1)));
  segments_.fail_next(Call::kSync, EIO);
  int failed = 0;
  for (int i = 0; i < 5; ++i)
    spawn(pool_->sync(), [&](Result<void> synced) { failed += synced ? 0 : 1; });
  for (int i = 0; i < 1000 && failed < 5; ++i) reactor_.run_once();
  EXPECT_EQ(failed, 5);
}

TEST_F(PoolFailureTest, FullDiskLosesNothingAndWorksAgain) {
  open();
  segments_.set_capacity_bytes(600 * kKiB);
  const AppendMark mark = pool_->mark();
  std::vector<std::pair<Address, std::vector<std::byte>>> records;
  std::optional<Error> error;
  for (int i = 0; i < 200 && !error; ++i) {
    auto payload = make_payload(60000, i + 1, false);
    const auto address = append(payload);
    if (address)
      records.emplace_back(*address, std::move(payload));
    else
      error = address.error();
    if (const auto synced = run(pool_->sync(mark)); !synced && !error) error = synced.error();
  }
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind(), ErrorKind::kNoSpace);
  EXPECT_EQ(run(pool_->sync(mark)).error().kind(), ErrorKind::kNoSpace);
  for (const auto& [address, payload] : records) expect_reads(address, payload);
  segments_.set_capacity_bytes(kGiB);
  ASSERT_TRUE(append(make_payload(60000, 999, false)));
  const auto synced = run(pool_->sync(mark));
  ASSERT_TRUE(synced) << synced.error().message();
  for (const auto& [address, payload] : records) expect_reads(address, payload);
  reopen();
  for (const auto& [address, payload] : records) expect_reads(address, payload);
}

TEST_F(PoolFailureTest, FullDiskBoundsMemory) {
  open();
  ASSERT_TRUE(append(make_payload(100, 1)));
  segments_.set_capacity_bytes(0);
  uint64_t accepted = 0;
  for (int i = 0; i < 200; ++i)
    if (append(make_payload(60000, i + 1, false))) ++accepted;
  EXPECT_LE(accepted * 60000, AppendStream::kUnwrittenMaxBytes + kMiB);
  segments_.set_capacity_bytes(kGiB);
  EXPECT_TRUE(run(pool_->sync()));
}

TEST_F(PoolFailureTest, CatalogFailureIsReportedAndPasses) {
  open();
  catalog_.fail_next_commit(EIO);
  const auto failed = append(make_payload(100, 1));
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().os_errno(), EIO);
  EXPECT_TRUE(append(make_payload(100, 1)));
}

TEST_F(PoolFailureTest, NumbersAreNeverReused) {
  std::set<SegmentId> seen;
  for (int round = 0; round < 5; ++round) {
    open();
    const auto address = append(make_payload(100, 1));
    ASSERT_TRUE(address);
    EXPECT_TRUE(seen.insert(address->segment()).second);
    stop();
  }
  // A catalog older than the segments.
  catalog_.clear();
  open();
  const auto address = append(make_payload(100, 1));
  ASSERT_TRUE(address);
  EXPECT_GT(address->segment(), *seen.rbegin());
}

TEST_F(PoolFailureTest, RecoveryGoesOnBehindDamage) {
  open();
  std::vector<std::pair<Address, std::vector<std::byte>>> records;
  for (int i = 0; i < 10; ++i) {
    auto payload = make_payload(3000, i + 1, false);
    records.emplace_back(*append(payload), std::move(payload));
  }
  ASSERT_TRUE(run(pool_->sync()));
  const SegmentId id = records[0].first.segment();
  segments_.cut_after(0);
  stop();  // the segment stays open
  Random random(1);
  segments_.crash(Loss::kAll, random);
  segments_.flip_bit(id, records[4].first.offset_bytes() + 100);
  open();
  run(pool_->wait_recovered());
  for (size_t i = 0; i < records.size(); ++i) {
    if (i == 4)
      expect_corrupt(records[i].first);
    else
      expect_reads(records[i].first, records[i].second);
  }
  const auto trailer =
      run(read_segment_trailer(segments_, config().id, id, segments_.content(id).size()));
  ASSERT_TRUE(trailer);
  EXPECT_EQ(trailer->records, 9);
}

TEST_F(PoolFailureTest, RecoveryLeavesForeignSegmentsAlone) {
  open();
  const auto address = append(make_payload(3000, 1, false));
  ASSERT_TRUE(address);
  stop();
  auto foreign = segments_.content(address->segment());
  foreign.resize(foreign.size() - 4096);  // unsealed, and under another number
  segments_.put(77, "main", foreign);
  const std::vector<std::byte> noise = make_payload(2 * kMiB, 5, false);
  segments_.put(78, "main", noise);
  segments_.put(79, "main", {});  // created ahead, never written
  open();
  run(pool_->wait_recovered());
  EXPECT_EQ(segments_.content(77), foreign);
  EXPECT_EQ(segments_.content(78), noise);
  EXPECT_FALSE(segments_.contains(79));
  EXPECT_EQ(run(pool_->stats())->stores[0].unsealed_segments, 2);
  const auto next = append(make_payload(3000, 1));
  ASSERT_TRUE(next);
  EXPECT_GT(next->segment(), 79);
}

TEST_F(PoolFailureTest, CallsAfterStopAreCancelled) {
  open();
  const auto address = append(make_payload(100, 1));
  ASSERT_TRUE(address);
  run(pool_->stop());
  EXPECT_EQ(append(make_payload(100, 1)).error().kind(), ErrorKind::kCancelled);
  EXPECT_EQ(read(*address).error().kind(), ErrorKind::kCancelled);
  EXPECT_EQ(run(pool_->sync()).error().kind(), ErrorKind::kCancelled);
  pool_.reset();
}

class PoolCrashTest : public PoolTest, public ::testing::WithParamInterface<Loss> {
 protected:
  void crash_once(uint64_t cut, Random& random, Promises& promises) {
    segments_.cut_after(cut);
    run(write_until_power_is_out(*pool_, random, promises, 60));
    stop();
    segments_.crash(GetParam(), random);
    open();
    for (const auto& record : promises.records) promises.segments.insert(record.address.segment());
    promises.check(reactor_, *pool_);
    // What was lost has been seen to be lost: it may not come back, nor matter any more.
    std::erase_if(promises.records, [](const auto& record) { return !record.durable; });
    const auto fresh = append(make_payload(100, 1));
    ASSERT_TRUE(fresh) << fresh.error().message();
    ASSERT_FALSE(promises.segments.contains(fresh->segment()));
    // The power goes out again in the middle of the recovery.
    segments_.cut_after(random.below(4));
    run(pool_->wait_recovered());
    stop();
    segments_.crash(GetParam(), random);
    open();
    run(pool_->wait_recovered());
    promises.check(reactor_, *pool_);
    EXPECT_EQ(run(pool_->stats())->stores[0].unsealed_segments, 0);
  }
};
INSTANTIATE_TEST_SUITE_P(All, PoolCrashTest,
                         ::testing::Values(Loss::kAll, Loss::kNone, Loss::kWrites, Loss::kSectors));

// The power goes out at every single change to the disk in turn; SQUALL_SEEDS asks for more
// sequences than the default.
TEST_P(PoolCrashTest, WhatWasSyncedIsThere) {
  const char* knob = std::getenv("SQUALL_SEEDS");
  const uint64_t seeds = knob != nullptr ? std::strtoull(knob, nullptr, 10) : 1;
  for (uint64_t seed = 0; seed < seeds; ++seed) {
    for (uint64_t cut = 0; cut < 48; ++cut) {
      SCOPED_TRACE(fmt::format("seed {} cut {}", seed, cut));
      Random random(seed * 1000 + cut / 16);
      segments_.clear();
      catalog_.clear();
      Promises promises;
      open();
      crash_once(cut, random, promises);
      crash_once(random.below(30), random, promises);
      stop();
      if (HasFatalFailure()) return;
    }
  }
}

}  // namespace
}  // namespace squall::testing
