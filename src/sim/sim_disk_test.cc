#include "sim/sim_disk.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "sim/sim_reactor.h"

namespace squall::sim {
namespace {

// A disk and the reactor of the process that runs on it now.
struct Host {
  explicit Host(SimDisk on) : disk(std::move(on)), reactor(1, disk) {}
  Host() : Host(SimDisk(7)) {}
  SimFileSystem& fs() { return reactor.files(); }

  SimDisk disk;
  SimReactor reactor;
};

int create(SimFileSystem& fs, const std::string& path) {
  return fs.open(path, {.write = true, .create = true}).value();
}

std::string content(SimFileSystem& fs, const std::string& path) {
  auto handle = fs.open(path, {});
  if (!handle) return "(missing)";
  std::string text(fs.info(*handle)->size, '?');
  EXPECT_TRUE(fs.read(*handle, std::as_writable_bytes(std::span(text)), 0));
  fs.close(*handle);
  return text;
}

std::string after(const SimDisk& disk, const LossPolicy& policy, const std::string& path) {
  SimDisk crashed = disk.clone();
  crashed.restart(policy);
  Host host(std::move(crashed));
  return content(host.fs(), path);
}

// A file of `sectors` durable sectors, all 'o'.
int make_old(SimFileSystem& fs, const std::string& path, size_t sectors) {
  const int handle = create(fs, path);
  EXPECT_TRUE(fs.write(handle, as_bytes(std::string(sectors * kSectorSize, 'o')), 0));
  EXPECT_TRUE(fs.sync(handle));
  EXPECT_TRUE(fs.sync_directory("/"));
  return handle;
}

TEST(SimDisk, SyncedDataOutlivesAPowerCutAndUnsyncedDataNeedNot) {
  Host host;
  const int handle = make_old(host.fs(), "/f", 1);
  EXPECT_EQ(host.disk.unsynced_writes(), 0U);
  ASSERT_TRUE(host.fs().write(handle, as_bytes("new"), 0));
  EXPECT_EQ(host.disk.unsynced_writes(), 1U);
  host.disk.cut_power();
  EXPECT_EQ(after(host.disk, LossPolicy::lose_all(), "/f").substr(0, 3), "ooo");
  EXPECT_EQ(after(host.disk, LossPolicy::keep_all(), "/f").substr(0, 3), "new");
}

TEST(SimDisk, EachSingleWriteCanBeTheOneLostOrKept) {
  Host host;
  const int handle = make_old(host.fs(), "/f", 3);
  for (const int sector : {0, 1, 2}) {
    ASSERT_TRUE(
        host.fs().write(handle, as_bytes(std::string(kSectorSize, 'n')), sector * kSectorSize));
  }
  host.disk.cut_power();
  ASSERT_EQ(host.disk.unsynced_writes(), 3U);
  for (uint64_t k = 0; k < 3; ++k) {
    const std::string lost = after(host.disk, LossPolicy::lose_one(k), "/f");
    const std::string kept = after(host.disk, LossPolicy::keep_one(k), "/f");
    for (uint64_t sector = 0; sector < 3; ++sector) {
      EXPECT_EQ(lost[sector * kSectorSize], sector == k ? 'o' : 'n');
      EXPECT_EQ(kept[sector * kSectorSize], sector == k ? 'n' : 'o');
    }
  }
}

TEST(SimDisk, RandomLossIsRepeatableAndReachesEverySubset) {
  Host host;
  const int handle = make_old(host.fs(), "/f", 3);
  for (const int sector : {0, 1, 2}) {
    ASSERT_TRUE(
        host.fs().write(handle, as_bytes(std::string(kSectorSize, 'n')), sector * kSectorSize));
  }
  host.disk.cut_power();
  std::set<std::string> outcomes;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    const std::string outcome = after(host.disk, LossPolicy::random(seed), "/f");
    EXPECT_EQ(outcome, after(host.disk, LossPolicy::random(seed), "/f"));
    outcomes.insert(outcome);
  }
  EXPECT_EQ(outcomes.size(), 8U);
}

TEST(SimDisk, TornWritesEndAtSectors) {
  Host host;
  const int handle = make_old(host.fs(), "/f", 4);
  ASSERT_TRUE(host.fs().write(handle, as_bytes(std::string(4 * kSectorSize, 'n')), 0));
  host.disk.cut_power();
  std::set<std::string> prefixes;
  std::set<std::string> subsets;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const auto shape = [&](Tear tear) {
      const std::string text = after(host.disk, LossPolicy::lose_all().torn(tear, seed), "/f");
      std::string sectors;
      for (size_t i = 0; i < 4; ++i) {
        const std::string sector = text.substr(i * kSectorSize, kSectorSize);
        EXPECT_EQ(sector, std::string(kSectorSize, sector[0]));
        sectors += sector[0];
      }
      return sectors;
    };
    prefixes.insert(shape(Tear::kPrefix));
    subsets.insert(shape(Tear::kSubset));
  }
  EXPECT_EQ(prefixes, (std::set<std::string>{"oooo", "nooo", "nnoo", "nnno", "nnnn"}));
  EXPECT_EQ(subsets.size(), 16U);
}

TEST(SimDisk, AKilledProcessLosesNothingThatALaterCutCouldNot) {
  Host host;
  const int handle = make_old(host.fs(), "/f", 1);
  ASSERT_TRUE(host.fs().write(handle, as_bytes("new"), 0));
  host.disk.kill_process();
  EXPECT_FALSE(host.fs().write(handle, as_bytes("late"), 0));
  host.disk.restart();
  EXPECT_EQ(content(host.fs(), "/f").substr(0, 4), "newo");
  EXPECT_EQ(host.disk.unsynced_writes(), 1U) << "the page cache is still dirty";
  EXPECT_EQ(after(host.disk, LossPolicy::lose_all(), "/f").substr(0, 3), "ooo");
}

TEST(SimDisk, NamesAreDurableAfterSyncOfTheirDirectory) {
  Host host;
  ASSERT_TRUE(host.fs().make_directory("/d"));
  const int handle = create(host.fs(), "/d/f");
  ASSERT_TRUE(host.fs().write(handle, as_bytes("data"), 0));
  ASSERT_TRUE(host.fs().sync(handle));
  EXPECT_EQ(after(host.disk, LossPolicy::lose_all(), "/d/f"), "(missing)");
  EXPECT_EQ(after(host.disk, LossPolicy::keep_all(), "/d/f"), "data");
  ASSERT_TRUE(host.fs().sync_directory("/d"));
  EXPECT_EQ(after(host.disk, LossPolicy::lose_all(), "/d/f"), "(missing)") << "/d itself is lost";
  ASSERT_TRUE(host.fs().sync_directory("/"));
  EXPECT_EQ(after(host.disk, LossPolicy::lose_all(), "/d/f"), "data");

  ASSERT_TRUE(host.fs().remove("/d/f"));
  EXPECT_EQ(content(host.fs(), "/d/f"), "(missing)");
  EXPECT_EQ(after(host.disk, LossPolicy::lose_all(), "/d/f"), "data") << "the removal is lost";
  ASSERT_TRUE(host.fs().sync_directory("/d"));
  EXPECT_EQ(after(host.disk, LossPolicy::lose_all(), "/d/f"), "(missing)");
}

TEST(SimDisk, RenameIsAtomicWhateverIsLost) {
  Host host;
  make_old(host.fs(), "/f", 1);
  const int handle = create(host.fs(), "/f.new");
  ASSERT_TRUE(host.fs().write(handle, as_bytes("new"), 0));
  ASSERT_TRUE(host.fs().sync(handle));
  ASSERT_TRUE(host.fs().rename("/f.new", "/f"));
  std::set<std::string> outcomes;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    outcomes.insert(after(host.disk, LossPolicy::random(seed), "/f").substr(0, 3));
  }
  EXPECT_EQ(outcomes, (std::set<std::string>{"ooo", "new"}));
  ASSERT_TRUE(host.fs().sync_directory("/"));
  EXPECT_EQ(after(host.disk, LossPolicy::lose_all(), "/f"), "new");
  EXPECT_EQ(after(host.disk, LossPolicy::lose_all(), "/f.new"), "(missing)");
}

TEST(SimDisk, AMoveBetweenDirectoriesIsOneChange) {
  Host host;
  for (const char* directory : {"/a", "/b"}) ASSERT_TRUE(host.fs().make_directory(directory));
  create(host.fs(), "/a/f");
  for (const char* directory : {"/", "/a"}) ASSERT_TRUE(host.fs().sync_directory(directory));
  ASSERT_TRUE(host.fs().rename("/a/f", "/b/f"));
  EXPECT_EQ(host.disk.unsynced_writes(), 1U);
  EXPECT_EQ(after(host.disk, LossPolicy::lose_all(), "/a/f"), "");
  ASSERT_TRUE(host.fs().sync_directory("/b"));
  EXPECT_EQ(after(host.disk, LossPolicy::lose_all(), "/a/f"), "(missing)");
  EXPECT_EQ(after(host.disk, LossPolicy::lose_all(), "/b/f"), "");
}

TEST(SimDisk, NoNameIsLostBecauseALaterChangeSurvived) {
  Host host;
  make_old(host.fs(), "/a", 1);
  ASSERT_TRUE(host.fs().rename("/a", "/b"));
  create(host.fs(), "/a");
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const auto outcome = [&](const char* path) {
      return after(host.disk, LossPolicy::random(seed), path).substr(0, 1);
    };
    EXPECT_TRUE(outcome("/a") == "o" || outcome("/b") == "o") << seed;
  }
}

TEST(SimDisk, PowerIsCutAfterTheGivenNumberOfChanges) {
  Host host;
  const int handle = make_old(host.fs(), "/f", 1);
  const uint64_t before = host.disk.writes_done();
  host.disk.cut_power_after(2);
  EXPECT_TRUE(host.fs().write(handle, as_bytes("1"), 0));
  EXPECT_TRUE(host.fs().write(handle, as_bytes("2"), 0));
  EXPECT_FALSE(host.disk.is_running());
  const auto refused = host.fs().write(handle, as_bytes("3"), 0);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind(), ErrorKind::kIo);
  EXPECT_FALSE(host.fs().stat("/f"));
  EXPECT_EQ(host.disk.writes_done(), before + 2);
  host.disk.restart(LossPolicy::keep_all());
  EXPECT_EQ(content(host.fs(), "/f").substr(0, 2), "2o");
  EXPECT_EQ(host.fs().sync(handle).error().os_errno(), EBADF) << "handles are void";
}

TEST(SimDisk, LocksExcludeAndEndWithTheirProcess) {
  Host host;
  const int first = create(host.fs(), "/lock");
  const int second = create(host.fs(), "/lock");
  ASSERT_TRUE(host.fs().lock(first, 0));
  EXPECT_EQ(host.fs().lock(second, 100).error().kind(), ErrorKind::kBusy);
  host.fs().close(first);
  ASSERT_TRUE(host.fs().lock(second, 0));
  host.disk.kill_process();
  host.disk.restart();
  const int third = create(host.fs(), "/lock");
  EXPECT_TRUE(host.fs().lock(third, 0));
}

TEST(SimDisk, MappingsLiveInThePageCache) {
  Host host;
  const int handle = make_old(host.fs(), "/f", 16);
  const Bytes mapping = host.fs().map(handle, 16 * kSectorSize).value();
  mapping[5000] = std::byte{'m'};
  EXPECT_EQ(content(host.fs(), "/f")[5000], 'm');
  ASSERT_TRUE(host.fs().write(handle, as_bytes("w"), 1));
  EXPECT_EQ(mapping[1], std::byte{'w'});
  ASSERT_TRUE(host.fs().sync(handle));
  mapping[0] = std::byte{'u'};
  EXPECT_EQ(after(host.disk, LossPolicy::lose_all(), "/f").substr(0, 2), "ow");
  EXPECT_EQ(after(host.disk, LossPolicy::keep_all(), "/f").substr(0, 2), "uw");
  mapping[2] = std::byte{'k'};
  host.disk.kill_process();
  mapping[3] = std::byte{'d'};  // stored by nobody: the process is dead
  host.disk.restart();
  EXPECT_EQ(content(host.fs(), "/f").substr(0, 4), "uwko");
  host.fs().unmap(mapping);
}

TEST(SimDisk, FullDiskRefusesWhatDoesNotFit) {
  Host host;
  ASSERT_TRUE(host.fs().make_directory("/small"));
  host.disk.set_faults("/small", {.capacity_bytes = 8192});
  const int handle = create(host.fs(), "/small/f");
  const std::string page(4096, 'x');
  ASSERT_TRUE(host.fs().write(handle, as_bytes(page), 0));
  EXPECT_EQ(host.fs().space("/small")->available_bytes, 4096U);
  ASSERT_TRUE(host.fs().write(handle, as_bytes(page), 4096));
  EXPECT_EQ(host.fs().write(handle, as_bytes(page), 8192).error().kind(), ErrorKind::kNoSpace);
  EXPECT_EQ(host.fs().allocate(handle, 16384).error().kind(), ErrorKind::kNoSpace);
  EXPECT_TRUE(host.fs().write(handle, as_bytes(page), 4096)) << "an overwrite needs no space";
  const int elsewhere = create(host.fs(), "/f");
  EXPECT_TRUE(host.fs().write(elsewhere, as_bytes(page), 0));
  ASSERT_TRUE(host.fs().punch(handle, 0, 4096));
  EXPECT_TRUE(host.fs().write(handle, as_bytes(page), 8192));
}

TEST(SimDisk, FaultsFireAsOftenAsToldAndOnlyBelowTheirPrefix) {
  Host host;
  const int handle = make_old(host.fs(), "/f", 1);
  std::byte buffer[8];
  host.disk.set_faults("/f", {.read = FaultCount::once(1)});
  EXPECT_TRUE(host.fs().read(handle, buffer, 0));
  EXPECT_EQ(host.fs().read(handle, buffer, 0).error().kind(), ErrorKind::kIo);
  EXPECT_TRUE(host.fs().read(handle, buffer, 0));
  host.disk.set_faults("/f", {.write = FaultCount::always()});
  EXPECT_FALSE(host.fs().write(handle, as_bytes("n"), 0));
  EXPECT_FALSE(host.fs().write(handle, as_bytes("n"), 0));
  EXPECT_TRUE(host.fs().read(handle, buffer, 0));
  host.disk.set_faults("/f", {.away = true});
  EXPECT_FALSE(host.fs().read(handle, buffer, 0));
  EXPECT_FALSE(host.fs().open("/f", {}));
  EXPECT_TRUE(host.fs().open("/ff", {.write = true, .create = true}));
  host.disk.set_faults("/f", {});
  EXPECT_EQ(content(host.fs(), "/f"), std::string(kSectorSize, 'o'));
}

TEST(SimDisk, ARetriedSyncProvesNothing) {
  std::set<char> outcomes;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Host host{SimDisk(seed)};
    const int handle = make_old(host.fs(), "/f", 1);
    host.disk.set_faults("/f", {.sync = FaultCount::once()});
    ASSERT_TRUE(host.fs().write(handle, as_bytes("n"), 0));
    EXPECT_FALSE(host.fs().sync(handle));
    EXPECT_TRUE(host.fs().sync(handle));
    EXPECT_EQ(content(host.fs(), "/f")[0], 'n') << "the page cache still has it";
    EXPECT_EQ(host.disk.unsynced_writes(), 0U);
    outcomes.insert(after(host.disk, LossPolicy::keep_all(), "/f")[0]);
  }
  EXPECT_EQ(outcomes, (std::set<char>{'n', 'o'}));
}

TEST(SimDisk, AFailedSyncMayEvict) {
  std::set<char> outcomes;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Host host{SimDisk(seed)};
    const int handle = make_old(host.fs(), "/f", 1);
    host.disk.set_faults("/f", {.sync = FaultCount::once(), .failed_sync_evicts = true});
    ASSERT_TRUE(host.fs().write(handle, as_bytes("n"), 0));
    EXPECT_FALSE(host.fs().sync(handle));
    outcomes.insert(content(host.fs(), "/f")[0]);
  }
  EXPECT_EQ(outcomes, (std::set<char>{'n', 'o'}));
}

TEST(SimDisk, BitsRot) {
  Host host;
  make_old(host.fs(), "/f", 1);
  ASSERT_TRUE(host.disk.flip_bits("/f", 3, 0x01));
  EXPECT_EQ(content(host.fs(), "/f").substr(2, 3), "ono");
  EXPECT_EQ(after(host.disk, LossPolicy::lose_all(), "/f").substr(2, 3), "ono");
  EXPECT_FALSE(host.disk.flip_bits("/f", kSectorSize));
  EXPECT_FALSE(host.disk.flip_bits("/none", 0));
}

TEST(SimDisk, ClonesGoTheirOwnWays) {
  Host host;
  const int handle = make_old(host.fs(), "/f", 1);
  Host other(host.disk.clone());
  const uint64_t before = host.disk.fingerprint();
  EXPECT_EQ(other.disk.fingerprint(), before);
  ASSERT_TRUE(other.fs().write(create(other.fs(), "/f"), as_bytes("b"), 0));
  EXPECT_EQ(host.disk.fingerprint(), before);
  ASSERT_TRUE(host.fs().write(handle, as_bytes("a"), 0));
  EXPECT_EQ(content(host.fs(), "/f")[0], 'a');
  EXPECT_EQ(content(other.fs(), "/f")[0], 'b');
}

TEST(SimDisk, ClosedHandlesAreBad) {
  Host host;
  const int handle = create(host.fs(), "/f");
  host.fs().close(handle);
  std::byte buffer[8];
  EXPECT_EQ(host.fs().read(handle, buffer, 0).error().os_errno(), EBADF);
  EXPECT_EQ(host.fs().sync(handle).error().os_errno(), EBADF);
  const int reader = host.fs().open("/f", {}).value();
  EXPECT_EQ(host.fs().write(reader, as_bytes("x"), 0).error().os_errno(), EBADF);
}

}  // namespace
}  // namespace squall::sim
