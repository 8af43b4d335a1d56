// The journal on a disk that rots: reads give what was written or an error, start-up refuses what
// is damaged and was durable, and nothing else.
#include "journal/journal_test_support.h"

namespace squall {
namespace {

using journal_format::kBlock;
using journal_format::kFirstRecord;
using journal_format::kRecordHeaderBytes;
using sim::DiskFaults;
using sim::FaultCount;
using testing::check_restart;
using testing::Crash;
using testing::JournalHost;
using testing::JournalModel;
using testing::payload_of;
using testing::small_journal;

using Content = std::vector<std::byte>;

class JournalDamage : public ::testing::Test {
 protected:
  JournalDamage() : host_(std::make_unique<JournalHost>(1, disk_, model_)) {}
  void restart() {
    disk_.kill_process();
    host_.reset();
    disk_.restart();
    host_ = std::make_unique<JournalHost>(2, disk_, model_);
  }
  Result<Content> read(uint64_t key, uint64_t skip, uint64_t bytes) {
    JournalPlace place = host_->place_of(key);
    place.position += skip;
    Content got(bytes);
    if (auto done = host_->run(host_->journal().read(place, got)); !done)
      return std::unexpected(done.error());
    return got;
  }
  // Every part of the payload reads as written; with `damaged_piece` those that touch that piece
  // of 4 KiB fail.
  void check_parts(uint64_t key, uint64_t bytes, std::optional<uint64_t> damaged_piece) {
    const Content expected = payload_of(key, bytes);
    for (const uint64_t begin : {uint64_t{0}, uint64_t{1}, uint64_t{4095}, uint64_t{4096},
                                 uint64_t{5000}, uint64_t{8191}, uint64_t{8192}}) {
      for (const uint64_t size : {uint64_t{1}, uint64_t{700}, uint64_t{4096}, uint64_t{6000}}) {
        if (begin + size > bytes) continue;
        const auto got = read(key, begin, size);
        const bool hit = damaged_piece && begin < (*damaged_piece + 1) * 4096 &&
                         begin + size > *damaged_piece * 4096;
        ASSERT_EQ(got.has_value(), !hit) << begin << "+" << size;
        if (got) {
          ASSERT_TRUE(std::equal(got->begin(), got->end(),
                                 expected.begin() + static_cast<ptrdiff_t>(begin)));
        } else {
          EXPECT_EQ(got.error().kind(), ErrorKind::kCorrupt);
          EXPECT_EQ(got.error().os_errno(), EIO);
        }
      }
    }
  }
  // Two full files with indexes, and a third that was flushed after each record.
  void fill() {
    ASSERT_TRUE(host_->open());
    while (host_->journal().stats().files < 3) ASSERT_TRUE(host_->append_now(9000));
    for (int i = 0; i < 3; ++i) {
      ASSERT_TRUE(host_->append_now(9000));
      ASSERT_TRUE(host_->flush_now());
    }
    host_->settle();
    first_ = host_->file_of(1)->path;
    last_ = host_->file_of(model_.next_key - 1)->path;
  }
  static JournalConfig accepting(std::vector<JournalProblem>& told) {
    JournalConfig config = small_journal();
    config.on_damage = [&told](Uuid id, std::vector<JournalProblem> damage) {
      return accept(id, std::move(damage), told);
    };
    return config;
  }
  static Task<Result<void>> accept(Uuid id, std::vector<JournalProblem> damage,
                                   std::vector<JournalProblem>& told) {
    EXPECT_EQ(id, small_journal().id_if_new);
    told = std::move(damage);
    co_return Result<void>{};
  }
  // Start-up refuses, naming file and offset, changes nothing, and does the same again; with an
  // owner that agrees it goes on, and from then on as usual.
  void expect_refused(const std::string& file, uint64_t offset) {
    restart();
    for (int again = 0; again < 2; ++again) {
      const auto opened = host_->open();
      ASSERT_FALSE(opened);
      EXPECT_EQ(opened.error().kind(), ErrorKind::kCorrupt);
      EXPECT_NE(opened.error().message().find(fmt::format("{} at {}", file, offset)),
                std::string::npos)
          << opened.error().message();
      restart();
    }
    std::vector<JournalProblem> told;
    ASSERT_TRUE(host_->open(accepting(told)));
    ASSERT_FALSE(told.empty());
    EXPECT_EQ(told[0].file, file);
    EXPECT_EQ(told[0].offset, offset);
    ASSERT_TRUE(host_->append_now(500));
    ASSERT_TRUE(host_->flush_now());
    restart();
    const auto opened = host_->open();
    EXPECT_TRUE(opened) << opened.error().message();
    EXPECT_EQ(host_->keys().back(), model_.next_key - 1);
  }

  sim::SimDisk disk_{1};
  JournalModel model_;
  std::unique_ptr<JournalHost> host_;
  std::string first_, last_;
};

TEST_F(JournalDamage, ReadsOfAnyPartAreVerified) {
  ASSERT_TRUE(host_->open());
  ASSERT_TRUE(host_->append_now(100));
  ASSERT_TRUE(host_->append_now(12'500));
  ASSERT_TRUE(host_->append_now(12'500, JournalPath::kDirect));
  for (const uint64_t key : {2, 3}) {
    check_parts(key, 12'500, std::nullopt);
    for (const uint64_t piece : {1, 0, 3}) {
      const JournalPlace place = host_->place_of(key);
      const uint64_t at = place.position + piece * 4096 + 77;
      ASSERT_TRUE(disk_.flip_bits(place.file->path, at, 0x10));
      check_parts(key, 12'500, piece);
      ASSERT_TRUE(disk_.flip_bits(place.file->path, at, 0x10));
    }
  }
  EXPECT_GT(host_->journal().stats().damaged_reads, 0);
  host_->check_contents();
}

// After a start, records that only an index told of are verified whole at their first read, those
// that were walked piece by piece.
TEST_F(JournalDamage, ReadsAreVerifiedAfterARestart) {
  fill();
  restart();
  ASSERT_TRUE(host_->open());
  for (const uint64_t key : {uint64_t{1}, model_.next_key - 1}) {
    check_parts(key, 9000, std::nullopt);
    const JournalPlace place = host_->place_of(key);
    ASSERT_TRUE(disk_.flip_bits(place.file->path, place.position + 4096, 1));
    check_parts(key, 9000, 1);
  }
  const JournalPlace second = host_->place_of(2);
  ASSERT_TRUE(disk_.flip_bits(second.file->path, second.position + 8999, 1));
  for (const uint64_t skip : {uint64_t{0}, uint64_t{8192}}) EXPECT_FALSE(read(2, skip, 100));
  EXPECT_TRUE(read(3, 0, 9000));
}

TEST_F(JournalDamage, ADamagedHeaderStopsAStart) {
  fill();
  ASSERT_TRUE(disk_.flip_bits(first_, 40));
  expect_refused(first_, 0);
}

TEST_F(JournalDamage, ADamagedHeaderOfTheNewestFileStopsAStart) {
  fill();
  ASSERT_TRUE(disk_.flip_bits(last_, kBlock - 3));
  expect_refused(last_, 0);
}

TEST_F(JournalDamage, ADamagedStartStopsAStart) {
  fill();
  ASSERT_TRUE(disk_.flip_bits(last_, kBlock + 10));
  expect_refused(last_, kBlock);
}

TEST_F(JournalDamage, ADamagedRecordAmongDurableOnesStopsAStart) {
  fill();
  ASSERT_TRUE(disk_.flip_bits(last_, kFirstRecord + 30));
  expect_refused(last_, kFirstRecord);
}

TEST_F(JournalDamage, ADamagedPayloadAmongDurableOnesStopsAStart) {
  fill();
  ASSERT_TRUE(disk_.flip_bits(last_, kFirstRecord + journal_format::record_bytes(9000) + 5000));
  expect_refused(last_, kFirstRecord + journal_format::record_bytes(9000));
}

TEST_F(JournalDamage, ADamagedRecordOfAFileWhoseIndexIsGoneStopsAStart) {
  fill();
  ASSERT_TRUE(disk_.flip_bits(first_, small_journal().file_bytes - kBlock));
  ASSERT_TRUE(disk_.flip_bits(first_, kFirstRecord));
  expect_refused(first_, kFirstRecord);
}

TEST_F(JournalDamage, ADamagedIndexAloneCostsOnlyAWalk) {
  fill();
  ASSERT_TRUE(disk_.flip_bits(first_, small_journal().file_bytes - 2 * kBlock));
  restart();
  ASSERT_TRUE(host_->open());
  EXPECT_EQ(host_->keys().size(), model_.issued.size());
  host_->check_contents();
}

TEST_F(JournalDamage, WhatTheDeviceCannotReadStopsAStart) {
  fill();
  restart();
  disk_.set_faults(last_, {.read = FaultCount::always()});
  const auto opened = host_->open();
  ASSERT_FALSE(opened);
  EXPECT_NE(opened.error().message().find(last_), std::string::npos);
  disk_.set_faults(last_, {});
  restart();
  EXPECT_TRUE(host_->open());
}

// The last flushed record of all has nothing behind it that speaks for it.
TEST_F(JournalDamage, DamageOfTheVeryLastRecordLooksLikeATornEnd) {
  fill();
  const JournalPlace place = host_->place_of(model_.next_key - 1);
  ASSERT_TRUE(disk_.flip_bits(last_, place.position));
  restart();
  ASSERT_TRUE(host_->open());
  EXPECT_EQ(host_->keys().size(), model_.issued.size() - 1);
}

TEST_F(JournalDamage, FilesThatWereNeverUsedStopNothing) {
  fill();
  {
    auto& files = host_->reactor().files();
    auto handle = files.open("/journal/slot-000077.wal", {.write = true, .create = true});
    ASSERT_TRUE(handle);
    ASSERT_TRUE(files.write(*handle, ConstBytes(Content(100, std::byte{1})), 0));
    files.close(*handle);
  }
  restart();
  ASSERT_TRUE(host_->open());
  EXPECT_FALSE(host_->reactor().files().exists("/journal/slot-000077.wal"));
}

// Recycled, with the header of its next use torn in every way: never taken for a damaged log.
TEST_F(JournalDamage, ATornHeaderOfARecycledFileStopsNothing) {
  for (uint64_t seed = 0; seed < 80; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    sim::SimDisk disk(seed);
    JournalModel model;
    {
      JournalHost host(seed, disk, model);
      JournalConfig config = small_journal();
      config.max_files = 4;
      ASSERT_TRUE(host.open(config));
      disk.cut_power_after(40 + random.below(200));
      for (int i = 0; i < 80 && disk.is_running(); ++i) {
        (void)host.append_now(9000);
        host.release_below(model.next_key - 1);
        (void)host.flush_now();
      }
      disk.cut_power();
    }
    disk.restart(sim::LossPolicy::random(seed).torn(sim::Tear::kSubset, seed));
    check_restart(disk, model, Crash::kPowerCut);
    if (HasFatalFailure()) return;
  }
}

// A recycled file comes back with a power cut (its removal was not durable), below one whose start
// was wiped for its next use: what follows them is the log all the same.
TEST_F(JournalDamage, ARemovedFileThatComesBackEndsNoLog) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    sim::SimDisk disk(seed);
    JournalModel model;
    JournalConfig config = small_journal();
    config.max_files = 8;
    {
      JournalHost host(seed, disk, model);
      ASSERT_TRUE(host.open(config));
      for (int i = 0; i < 60; ++i) {
        if (host.journal().stats().files > 5) {
          host.release_below(model.next_key - 1);
          host.settle();
        }
        if (!host.append_now(9000)) break;
        if (i == 10) disk.set_faults("/journal", {.sync = FaultCount::once(random.below(4))});
        if (random.chance(0.3)) (void)host.flush_now();
        if (random.chance(0.3)) host.settle(random.below(2'000'000));
        if (random.chance(0.2)) host.release_below(model.next_key - random.between(1, 20));
        if (i > 15 && random.chance(0.05)) break;
      }
      disk.cut_power();
    }
    disk.set_faults("/journal", {});
    disk.restart(random.chance(0.5) ? sim::LossPolicy::lose_all() : sim::LossPolicy::random(seed));
    check_restart(disk, model, Crash::kPowerCut, config);
    if (HasFatalFailure()) return;
  }
}

// Unsynced records are lost in the middle, and nobody needs the log: however far the start comes
// that recycles it, the next one counts nothing that this one did not.
TEST_F(JournalDamage, AStartThatDiesLetsTheNextCountNoMore) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    Random random(seed);
    sim::SimDisk disk(seed);
    JournalModel model;
    const JournalConfig config = small_journal();
    {
      JournalHost host(seed, disk, model);
      ASSERT_TRUE(host.open(config));
      for (uint64_t i = random.between(8, 40); i > 0; --i) {
        if (!host.append_now(9000)) break;
        if (random.chance(0.1)) host.settle(random.below(2'000'000));
      }
      disk.cut_power();
    }
    disk.restart(sim::LossPolicy::random(seed));
    const auto counted = [&](sim::SimDisk& from) {
      JournalHost host(99, from, model);
      EXPECT_TRUE(host.open(config));
      const std::vector<uint64_t> keys = host.keys();
      return std::set<uint64_t>(keys.begin(), keys.end());
    };
    sim::SimDisk whole = disk.clone();
    const std::set<uint64_t> first = counted(whole);
    for (uint64_t n = 0; n < 40; ++n) {
      SCOPED_TRACE(fmt::format("seed {}, killed after {}", seed, n));
      sim::SimDisk killed = disk.clone();
      killed.kill_process_after(n);
      {
        JournalHost host(99, killed, model);
        (void)host.open(config, true);
        killed.kill_process();
      }
      killed.restart();
      for (const uint64_t key : counted(killed)) ASSERT_TRUE(first.contains(key)) << key;
    }
  }
}

TEST_F(JournalDamage, StartingAgainAndAgainTakesNoMoreFiles) {
  for (int start = 0; start < 20; ++start) {
    ASSERT_TRUE(host_->open(small_journal(), true));
    if (start % 3 == 0) ASSERT_TRUE(host_->append_now(100));
    host_->release_below(model_.next_key);
    host_->settle();
    const auto names = host_->reactor().files().list("/journal");
    ASSERT_TRUE(names);
    EXPECT_LE(names->size(), 2 + 4) << "LOCK, RESERVE and few slots, start " << start;
    start % 2 == 0 ? disk_.kill_process() : disk_.cut_power();
    host_.reset();
    disk_.restart();
    host_ = std::make_unique<JournalHost>(2, disk_, model_);
  }
}

}  // namespace
}  // namespace squall
