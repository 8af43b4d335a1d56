// The journal on a simulated disk: appends, replay, crashes, recycling, admission. Failing disks
// are in journal_faults_test.cc.
#include "journal/journal.h"

#include <cstdlib>

#include "journal/journal_test_support.h"

namespace squall {
namespace {

using testing::check_restart;
using testing::Crash;
using testing::JournalHost;
using testing::JournalModel;
using testing::payload_of;
using testing::small_journal;

uint64_t seeds(uint64_t by_default) {
  const char* wanted = std::getenv("SQUALL_SEEDS");
  return wanted != nullptr ? std::strtoull(wanted, nullptr, 10) : by_default;
}

JournalPath random_path(Random& random) {
  return random.chance(0.4) ? JournalPath::kDirect : JournalPath::kCached;
}
size_t random_size(Random& random) {
  if (random.chance(0.1)) return 0;  // a zero record
  return random.chance(0.2) ? random.between(1, 12'000) : random.between(1, 700);
}

// Appends and flushes, several at a time, until `count` were issued; releases old records so that
// files are recycled. Failures end it quietly: the crash is what is being tested.
void random_work(JournalHost& host, JournalModel& model, Random& random, int count) {
  int pending = 0;
  for (int i = 0; i < count; ++i) {
    ++pending;
    auto done = [&pending](const Result<void>&) { --pending; };
    if (random.chance(0.15)) {
      spawn(host.flush(), done);
    } else {
      spawn(host.append(random_size(random), random_path(random)), done);
    }
    if (random.chance(0.3)) run_until(host.reactor(), [&] { return pending == 0; });
    if (random.chance(0.05) && model.next_key > 20) host.release_below(model.next_key - 20);
  }
  host.release_below(model.next_key > 20 ? model.next_key - 20 : 0);
  run_until(host.reactor(), [&] { return pending == 0; });
}

JournalConfig eight_files() {
  JournalConfig config = small_journal();
  config.max_files = 8;
  return config;
}

sim::LossPolicy random_policy(Random& random) {
  sim::LossPolicy policy = sim::LossPolicy::random(random());
  if (random.chance(0.2)) policy = sim::LossPolicy::lose_all();
  if (random.chance(0.2)) policy = sim::LossPolicy::keep_all();
  if (random.chance(0.5)) policy = policy.torn(sim::Tear::kSubset, random());
  return policy;
}

TEST(Journal, BothPathsMixedReadBackAndReplayInOrder) {
  for (uint64_t seed = 1; seed <= seeds(15); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    sim::SimDisk disk(seed);
    JournalModel model;
    for (int round = 0; round < 3; ++round) {
      {
        JournalHost host(random(), disk, model);
        ASSERT_TRUE(host.open());
        random_work(host, model, random, 60);
        host.check_contents();
        if (HasFatalFailure()) return;
        disk.kill_process();
      }
      disk.restart();
      check_restart(disk, model, Crash::kKill);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(Journal, AKillInTheMiddleOfAnythingLosesNothingAcknowledged) {
  for (uint64_t seed = 1; seed <= seeds(60); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    sim::SimDisk disk(seed);
    JournalModel model;
    for (int round = 0; round < 3; ++round) {
      {
        JournalHost host(random(), disk, model);
        ASSERT_TRUE(host.open());
        disk.kill_process_after(random.below(150));
        random_work(host, model, random, 60);
        disk.kill_process();
      }
      disk.restart();
      check_restart(disk, model, Crash::kKill);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(Journal, APowerCutLeavesAPrefixThatIncludesEverythingFlushed) {
  for (uint64_t seed = 1; seed <= seeds(100); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    sim::SimDisk disk(seed);
    JournalModel model;
    for (int round = 0; round < 4; ++round) {
      const bool cut = random.chance(0.7);
      {
        JournalHost host(random(), disk, model);
        ASSERT_TRUE(host.open());
        if (cut && random.chance(0.7)) disk.cut_power_after(random.below(150));
        random_work(host, model, random, 60);
        cut ? disk.cut_power() : disk.kill_process();
      }
      disk.restart(random_policy(random));
      check_restart(disk, model, cut ? Crash::kPowerCut : Crash::kKill);
      if (HasFatalFailure()) return;
      disk.kill_process();
      disk.restart();
    }
  }
}

// A short life: both paths, flushes, a roll, a restart, more of it.
void short_life(sim::SimDisk& disk, JournalModel& model, bool restart) {
  for (int life = 0; life < (restart ? 2 : 1); ++life) {
    JournalHost host(5, disk, model);
    if (!host.open()) return;
    for (int i = 0; i < 6; ++i) {
      if (!host.append_now(i == 3 ? 14'000 : 900 * i,
                           i % 2 == 0 ? JournalPath::kCached : JournalPath::kDirect))
        return;
      if (i % 3 == 2 && !host.flush_now()) return;
    }
    for (int i = 0; i < 3; ++i)
      if (!host.append_now(15'000)) return;
    if (life == 0 && restart) disk.kill_process();
    if (life == 0 && restart) continue;
  }
}

TEST(Journal, EveryCrashPointOfAShortLife) {
  sim::SimDisk whole(3);
  JournalModel all;
  short_life(whole, all, false);
  const uint64_t changes = whole.writes_done();
  ASSERT_GT(changes, 20);
  for (uint64_t n = 0; n <= changes; ++n) {
    sim::SimDisk disk(3);
    JournalModel model;
    disk.cut_power_after(n);
    short_life(disk, model, false);
    disk.cut_power();
    std::vector<sim::LossPolicy> policies{sim::LossPolicy::lose_all(), sim::LossPolicy::keep_all(),
                                          sim::LossPolicy::random(n).torn(sim::Tear::kSubset, n),
                                          sim::LossPolicy::keep_all().torn(sim::Tear::kPrefix, n)};
    for (uint64_t k = 0; k < disk.unsynced_writes(); ++k) {
      policies.push_back(sim::LossPolicy::lose_one(k));
      policies.push_back(sim::LossPolicy::keep_one(k));
    }
    for (size_t p = 0; p < policies.size(); ++p) {
      SCOPED_TRACE("cut after " + std::to_string(n) + ", policy " + std::to_string(p));
      sim::SimDisk crashed = disk.clone();
      crashed.restart(policies[p]);
      JournalModel expected = model;
      check_restart(crashed, expected, Crash::kPowerCut);
      if (HasFatalFailure()) return;
    }
    sim::SimDisk killed(3);
    JournalModel killed_model;
    killed.kill_process_after(n);
    short_life(killed, killed_model, false);
    killed.kill_process();
    killed.restart();
    SCOPED_TRACE("killed after " + std::to_string(n));
    check_restart(killed, killed_model, Crash::kKill);
    if (HasFatalFailure()) return;
  }
}

// Start-up itself may be cut: what a first start-up showed, a second one shows again.
TEST(Journal, EveryCrashPointOfAStart) {
  sim::SimDisk before(4);
  JournalModel model;
  short_life(before, model, false);
  before.kill_process();
  before.restart();
  for (uint64_t n = 0;; ++n) {
    SCOPED_TRACE("start cut after " + std::to_string(n));
    sim::SimDisk disk = before.clone();
    JournalModel expected = model;
    disk.cut_power_after(n);
    bool opened = false;
    {
      JournalHost host(8, disk, expected);
      opened = host.open().has_value();
      if (opened) host.settle();
    }
    const bool cut = !disk.is_running();
    disk.restart(sim::LossPolicy::random(n));
    check_restart(disk, expected, Crash::kPowerCut);
    if (HasFatalFailure() || !cut) break;
  }
}

TEST(Journal, OnlyTheOldestFileIsRecycled) {
  sim::SimDisk disk(1);
  JournalModel model;
  {
    JournalHost host(1, disk, model);
    ASSERT_TRUE(host.open(eight_files()));
    ASSERT_TRUE(host.append_now(1000));  // key 1, in the oldest file
    const JournalFile* oldest = host.journal().oldest_file();
    EXPECT_EQ(host.file_of(1), oldest);
    while (host.journal().stats().files < 4) ASSERT_TRUE(host.append_now(8000));
    // Everything but key 1 goes: no file can be recycled.
    const uint64_t end = model.next_key;
    {
      auto kept = host.keys();
      ASSERT_EQ(kept.front(), 1);
    }
    ++host.file_of(1)->pins;
    JournalFile* pinned = host.file_of(1);
    host.release_below(end);
    host.settle();
    EXPECT_GE(host.journal().stats().files, 4);
    EXPECT_EQ(host.journal().oldest_file(), oldest);
    --pinned->pins;
    host.journal().reclaim();
    host.settle();
    EXPECT_EQ(host.journal().stats().files, 1);
    // Round and round in the same space.
    for (int i = 0; i < 200; ++i) {
      ASSERT_TRUE(host.append_now(6000));
      host.release_below(model.next_key - 3);
    }
    host.check_contents();
    EXPECT_LT(host.journal().stats().files, eight_files().max_files);
    ASSERT_TRUE(host.flush_now());
    const auto names = host.reactor().files().list("/journal");
    EXPECT_LE(names->size(), eight_files().max_files + 2);
    disk.cut_power();
  }
  disk.restart();
  check_restart(disk, model, Crash::kPowerCut);
}

TEST(Journal, FootersAreWrittenAndSpareTheScan) {
  sim::SimDisk disk(1);
  JournalModel model;
  std::string sealed;
  {
    JournalHost host(1, disk, model);
    ASSERT_TRUE(host.open());
    sealed = host.journal().oldest_file()->path;
    while (host.journal().stats().files < 4) ASSERT_TRUE(host.append_now(8000));
    ASSERT_TRUE(host.flush_now());
    host.settle();
    disk.kill_process();
  }
  disk.restart();
  {
    JournalHost host(2, disk, model);
    auto handle = host.reactor().files().open(sealed, {});
    ASSERT_TRUE(handle);
    std::vector<std::byte> file(small_journal().file_bytes);
    ASSERT_TRUE(host.reactor().files().read(*handle, file, 0));
    host.reactor().files().close(*handle);
    const auto header =
        journal_format::decode_file_header(ConstBytes(file).first(journal_format::kBlock));
    ASSERT_TRUE(header);
    EXPECT_TRUE(journal_format::decode_trailer(ConstBytes(file).last(journal_format::kBlock),
                                               journal_format::file_seed(*header)));
  }
  // A scan would stop at the record that does not verify; the footer still names all of them.
  ASSERT_TRUE(disk.flip_bits(sealed, journal_format::kFirstRecord + 3));
  disk.kill_process();
  disk.restart();
  JournalHost host(3, disk, model);
  ASSERT_TRUE(host.open());
  EXPECT_EQ(host.keys().size(), model.issued.size());
  EXPECT_EQ(host.keys().front(), 1);
}

TEST(Journal, ASecondOpenerIsLockedOut) {
  sim::SimDisk disk(1);
  JournalModel model;
  JournalHost host(1, disk, model);
  ASSERT_TRUE(host.open());
  JournalModel other_model;
  JournalHost other(2, disk, other_model);
  const auto second = other.open();
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().kind(), ErrorKind::kBusy);
  ASSERT_TRUE(host.append_now(100));
  host.check_contents();
}

TEST(Journal, WritersWaitForSpaceAndGoOnWhenItIsReleased) {
  sim::SimDisk disk(1);
  JournalModel model;
  JournalHost host(1, disk, model);
  ASSERT_TRUE(host.open(eight_files()));
  int pressed = 0;
  host.journal().set_pressure_handler([&] { ++pressed; });
  int started = 0, finished = 0;
  for (; started < 100; ++started)
    spawn(host.append(8000, JournalPath::kCached), [&](const Result<void>& done) {
      EXPECT_TRUE(done);
      ++finished;
    });
  host.settle();
  EXPECT_GT(finished, 20);
  EXPECT_LT(finished, 100);
  EXPECT_GT(pressed, 0);
  EXPECT_TRUE(host.journal().under_pressure());
  EXPECT_LE(host.journal().stats().files, eight_files().max_files);
  for (int i = 0; i < 40 && finished < 100; ++i) {
    host.release_below(model.next_key);
    host.settle();
  }
  EXPECT_EQ(finished, 100);
}

TEST(Journal, StoppingWakesThoseWhoWaitForSpace) {
  sim::SimDisk disk(1);
  JournalModel model;
  JournalHost host(1, disk, model);
  ASSERT_TRUE(host.open(eight_files()));
  int finished = 0, cancelled = 0;
  for (int i = 0; i < 100; ++i)
    spawn(host.append(8000, JournalPath::kCached), [&](const Result<void>& done) {
      ++finished;
      if (!done) cancelled += done.error().kind() == ErrorKind::kCancelled;
    });
  host.settle();
  EXPECT_LT(finished, 100);
  host.run(host.journal().stop());
  EXPECT_EQ(finished, 100);
  EXPECT_GT(cancelled, 0);
}

TEST(Journal, EveryStartIsANewGeneration) {
  sim::SimDisk disk(1);
  JournalModel model;
  uint64_t last_generation = 0;
  uint64_t last_sequence = 0;
  for (int start = 0; start < 5; ++start) {
    JournalHost host(1, disk, model);
    JournalConfig config = small_journal();
    if (start == 3) config.min_generation = last_generation + 10;
    ASSERT_TRUE(host.open(config));
    EXPECT_GT(host.journal().generation(), std::max(last_generation, config.min_generation));
    EXPECT_GE(host.journal().last_sequence(), last_sequence);
    ASSERT_TRUE(host.append_now(100));
    last_generation = host.journal().generation();
    last_sequence = host.journal().last_sequence();
    EXPECT_EQ(last_sequence >> journal_format::kGenerationShift, last_generation);
  }
  // The journal's disk was replaced by an empty one: the catalog's generation still counts.
  sim::SimDisk empty(2);
  JournalModel nothing;
  JournalHost host(1, empty, nothing);
  JournalConfig config = small_journal();
  config.min_generation = last_generation;
  ASSERT_TRUE(host.open(config));
  EXPECT_GT(host.journal().generation(), last_generation);
}

TEST(Journal, ConfigurationIsChecked) {
  JournalConfig config = small_journal();
  EXPECT_TRUE(config.validate());
  config.file_bytes = 60 * kKiB;
  EXPECT_FALSE(config.validate());
  config.file_bytes = 64 * kKiB + 512;
  EXPECT_FALSE(config.validate());
  config = small_journal();
  config.max_files = 3;
  EXPECT_FALSE(config.validate());
}

}  // namespace
}  // namespace squall
