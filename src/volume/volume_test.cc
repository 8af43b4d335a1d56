// Volumes under concurrency, failing pools, full quotas, lost nodes and crashes inside verbs: what
// sequences of whole operations (volume_model_test.cc) do not reach.
#include "volume/volume.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "base/random.h"
#include "testing/sim_host.h"

namespace squall {
namespace {

using sim::DiskFaults;
using sim::FaultCount;
using testing::SimHost;
using testing::SimHostOptions;

constexpr uint64_t kBlock = 4096;
using Content = std::vector<std::byte>;

// Blocks that name the write they come from; 0 is a hole.
Content stamped(uint64_t stamp, uint64_t blocks) {
  Content data(blocks * kBlock);
  for (uint64_t i = 0; i < data.size(); i += 8) store_le(data.data() + i, stamp);
  return data;
}
// The stamp of a block; fails where the block is a mixture.
uint64_t stamp_of(ConstBytes block) {
  const auto stamp = load_le<uint64_t>(block.data());
  for (uint64_t i = 0; i < block.size(); i += 8)
    EXPECT_EQ(load_le<uint64_t>(block.data() + i), stamp) << "torn block";
  return stamp;
}

class VolumeTest : public ::testing::Test {
 protected:
  void start() {
    auto host = SimHost::start(++last_seed_, disk_, options_);
    ASSERT_TRUE(host) << host.error().message();
    host_ = std::move(*host);
  }
  void stop() {
    open_ = {};
    host_.reset();
  }
  void kill_and_start() {
    disk_.kill_process();
    stop();
    disk_.restart();
    start();
  }
  void cut_and_start(const sim::LossPolicy& policy = sim::LossPolicy::lose_all()) {
    disk_.cut_power();
    stop();
    disk_.restart(policy);
    start();
  }
  void create(const std::string& name, uint64_t blocks, CreateVolume request = {}) {
    request.name = name;
    request.size_bytes = blocks * kBlock;
    auto made = host_->run(host_->volumes().create_volumes(request));
    ASSERT_TRUE(made) << made.error().message();
  }
  std::shared_ptr<WritableDisk> open(const std::string& name) {
    auto opened = host_->run(host_->volumes().open_disk(name));
    EXPECT_TRUE(opened) << opened.error().message();
    open_ = std::move(*opened);
    return open_.writer;
  }
  Result<void> write(const std::string& name, uint64_t block, uint64_t stamp, uint64_t blocks = 1) {
    const Content data = stamped(stamp, blocks);
    return host_->run(open(name)->write(block * kBlock, data, false));
  }
  std::vector<uint64_t> stamps(const std::string& disk_name) {
    auto opened = host_->run(host_->volumes().open_disk(disk_name));
    EXPECT_TRUE(opened) << opened.error().message();
    Content content(opened->disk->size_bytes(), std::byte{0xee});
    auto done = host_->run(opened->disk->read(0, content));
    EXPECT_TRUE(done) << done.error().message();
    std::vector<uint64_t> found;
    for (uint64_t at = 0; at < content.size(); at += kBlock)
      found.push_back(stamp_of(ConstBytes(content).subspan(at, kBlock)));
    return found;
  }
  VolumeInfo info(const std::string& name) {
    return *host_->run(host_->volumes().show_volume(name));
  }

  uint64_t last_seed_ = 0;
  sim::SimDisk disk_{1};
  SimHostOptions options_;
  std::unique_ptr<SimHost> host_;
  OpenDisk open_;
};

// ---- concurrency ----

// When a write was issued and acknowledged, on a clock of events.
struct History {
  struct Write {
    uint64_t first = 0;
    uint64_t count = 0;
    uint64_t issued = 0;
    uint64_t done = 0;  // 0: not yet
  };
  std::map<uint64_t, Write> writes;  // by stamp
  uint64_t clock = 0;

  // Whether a look at a block that began and ended at these times may see `stamp`.
  bool may_see(uint64_t block, uint64_t stamp, uint64_t began, uint64_t ended) const {
    const Write* seen = nullptr;
    if (stamp != 0) {
      const auto it = writes.find(stamp);
      if (it == writes.end()) return false;
      seen = &it->second;
      if (block < seen->first || block >= seen->first + seen->count) return false;
      if (seen->issued > ended) return false;
    }
    // Nothing that was issued after `seen` was acknowledged, and was itself acknowledged before the
    // look began, may be missing.
    for (const auto& [other_stamp, other] : writes) {
      if (other_stamp == stamp || other.done == 0 || other.done >= began) continue;
      if (block < other.first || block >= other.first + other.count) continue;
      if (seen == nullptr || (seen->done != 0 && seen->done < other.issued)) return false;
    }
    return true;
  }
};

class ConcurrentWrites : public VolumeTest, public ::testing::WithParamInterface<CacheMode> {
 protected:
  static constexpr uint64_t kBlocks = 24;

  Task<void> writer(std::shared_ptr<WritableDisk> disk, uint64_t first, uint64_t count) {
    const uint64_t stamp = ++last_stamp_;
    history_.writes[stamp] = {first, count, ++history_.clock, 0};
    const Content data = stamped(stamp, count);
    auto done = co_await disk->write(first * kBlock, data, false);
    EXPECT_TRUE(done) << done.error().message();
    history_.writes[stamp].done = ++history_.clock;
    --pending_;
  }
  Task<void> reader(std::shared_ptr<WritableDisk> disk, uint64_t first, uint64_t count) {
    const uint64_t began = ++history_.clock;
    Content data(count * kBlock);
    auto done = co_await disk->read(first * kBlock, data);
    EXPECT_TRUE(done) << done.error().message();
    const uint64_t ended = ++history_.clock;
    for (uint64_t i = 0; i < count; ++i)
      EXPECT_TRUE(history_.may_see(
          first + i, stamp_of(ConstBytes(data).subspan(i * kBlock, kBlock)), began, ended))
          << "block " << first + i;
    --pending_;
  }
  Task<void> flusher(std::shared_ptr<WritableDisk> disk) {
    EXPECT_TRUE(co_await disk->flush());
    --pending_;
  }
  Task<void> snapshotter(std::string name) {
    const uint64_t began = ++history_.clock;
    auto done = co_await host_->volumes().create_snapshot("v", name);
    EXPECT_TRUE(done) << done.error().message();
    snapshots_[name] = {began, ++history_.clock};
    --pending_;
  }

  History history_;
  uint64_t last_stamp_ = 0;
  int pending_ = 0;
  std::map<std::string, std::pair<uint64_t, uint64_t>> snapshots_;
};

TEST_P(ConcurrentWrites, EveryBlockIsAsSomeOrderOfTheWritesLeavesIt) {
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    disk_ = sim::SimDisk(seed);
    history_ = {};
    last_stamp_ = 0;
    snapshots_.clear();
    start();
    CreateVolume request;
    request.cache = GetParam();
    create("v", kBlocks, request);
    auto disk = open("v");
    for (int i = 0; i < 150; ++i) {
      ++pending_;
      const uint64_t first = random.below(kBlocks);
      const uint64_t count = random.between(1, std::min<uint64_t>(6, kBlocks - first));
      const uint64_t dice = random.below(100);
      if (dice < 60) {
        spawn(writer(disk, first, count));
      } else if (dice < 85) {
        spawn(reader(disk, first, count));
      } else if (dice < 95) {
        spawn(flusher(disk));
      } else {
        spawn(snapshotter("s" + std::to_string(i)));
      }
      if (random.chance(0.1)) run_until(host_->reactor(), [&] { return pending_ == 0; });
      if (random.chance(0.5)) host_->reactor().run_once();
    }
    run_until(host_->reactor(), [&] { return pending_ == 0; });
    const uint64_t now = ++history_.clock;
    disk.reset();
    const auto final = stamps("v");
    for (uint64_t block = 0; block < kBlocks; ++block)
      EXPECT_TRUE(history_.may_see(block, final[block], now, now)) << "block " << block;
    // A snapshot holds every write acknowledged before it began and none issued after it ended.
    for (const auto& [name, times] : snapshots_) {
      const auto held = stamps("v@" + name);
      for (uint64_t block = 0; block < kBlocks; ++block)
        EXPECT_TRUE(history_.may_see(block, held[block], times.first, times.second))
            << name << " block " << block;
    }
    kill_and_start();
    EXPECT_EQ(stamps("v"), final);
    stop();
    if (HasFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(CacheModes, ConcurrentWrites,
                         ::testing::Values(CacheMode::kWriteback, CacheMode::kNone,
                                           CacheMode::kDirectsync, CacheMode::kUnsafe));

// ---- failing pool ----

TEST_F(VolumeTest, ACommitThatFailsLosesNothingAndTheNextOneSucceeds) {
  for (const char* where : {"/pool/segments", "/pool"}) {
    for (int kind = 0; kind < 3; ++kind) {
      SCOPED_TRACE(std::string(where) + " kind " + std::to_string(kind));
      disk_ = sim::SimDisk(kind + 1);
      start();
      create("v", 64);
      for (uint64_t block = 0; block < 20; ++block) ASSERT_TRUE(write("v", block, block + 1));
      DiskFaults faults;
      if (kind == 0) faults.capacity_bytes = 0;
      if (kind == 1) faults.write = FaultCount::always();
      if (kind == 2) faults.sync = FaultCount::always();
      disk_.set_faults(where, faults);
      EXPECT_FALSE(host_->run(host_->volumes().commit_volume("v")));
      const auto during = stamps("v");
      EXPECT_EQ(during[0], 1);
      EXPECT_EQ(during[19], 20);
      disk_.set_faults(where, {});
      ASSERT_TRUE(write("v", 3, 99)) << "writes go on after a failed commit";
      const auto before = stamps("v");
      auto committed = host_->run(host_->volumes().commit_volume("v"));
      if (!committed) {
        // A catalog whose sync failed may insist on a restart; what was acknowledged survives it.
        std::cerr << committed.error().message() << "\n";
        kill_and_start();
        EXPECT_EQ(stamps("v"), before);
        committed = host_->run(host_->volumes().commit_volume("v"));
      }
      ASSERT_TRUE(committed) << committed.error().message();
      EXPECT_EQ(info("v").dirty_bytes, 0);
      EXPECT_EQ(stamps("v"), before);
      cut_and_start();
      EXPECT_EQ(stamps("v"), before);
      stop();
    }
  }
}

TEST_F(VolumeTest, ASnapshotThatFailsLeavesNone) {
  start();
  create("v", 16);
  ASSERT_TRUE(write("v", 1, 5));
  disk_.set_faults("/pool/segments", {.write = FaultCount::always()});
  EXPECT_FALSE(host_->run(host_->volumes().create_snapshot("v", "s")));
  disk_.set_faults("/pool/segments", {});
  EXPECT_TRUE(host_->run(host_->volumes().list_snapshots("v"))->empty());
  ASSERT_TRUE(host_->run(host_->volumes().create_snapshot("v", "s")));
  EXPECT_EQ(stamps("v@s"), stamps("v"));
}

// ---- quota ----

TEST_F(VolumeTest, WritersBeyondTheQuotaWaitForTheCommit) {
  start();
  create("v", 1024);
  auto disk = open("v");
  disk_.set_faults("/pool/segments", {.latency_ns = 50'000'000});
  int pending = 0;
  uint64_t most_dirty = 0;
  // Eight requests in flight, as a guest's queue has.
  auto one = [](std::shared_ptr<WritableDisk> disk, uint64_t first, int& pending) -> Task<void> {
    for (uint64_t block = first; block < 1024; block += 32) {
      const Content data = stamped(block + 1, 4);
      EXPECT_TRUE(co_await disk->write(block * kBlock, data, false));
    }
    --pending;
  };
  for (uint64_t first = 0; first < 32; first += 4) {
    ++pending;
    spawn(one(disk, first, pending));
  }
  run_until(host_->reactor(), [&] {
    most_dirty = std::max(most_dirty, info("v").dirty_bytes);
    return pending == 0;
  });
  // All of 4 MiB passed through half a MiB.
  EXPECT_LE(most_dirty, options_.quota_bytes);
  EXPECT_GT(most_dirty, options_.commit_bytes);
  disk.reset();
  const auto all = stamps("v");
  for (uint64_t block = 0; block < 1024; ++block) EXPECT_EQ(all[block], block / 4 * 4 + 1);
}

TEST_F(VolumeTest, AStuckVolumeFailsAtItsQuotaAndOthersGoOn) {
  start();
  create("stuck", 1024);
  CreateVolume request;
  create("other", 1024, request);
  disk_.set_faults("/pool/segments", {.write = FaultCount::always()});
  std::optional<Error> error;
  uint64_t written = 0;
  for (uint64_t block = 0; block < 1024 && !error; block += 8) {
    auto done = write("stuck", block, block + 1, 8);
    if (done) written = block + 8;
    if (!done) error = done.error();
  }
  ASSERT_TRUE(error);
  EXPECT_GE(written * kBlock, options_.quota_bytes / 2);
  EXPECT_LE(info("stuck").dirty_bytes, options_.quota_bytes);
  ASSERT_TRUE(write("other", 5, 77));
  disk_.set_faults("/pool/segments", {});
  ASSERT_TRUE(host_->run(host_->volumes().commit_volume("stuck")));
  ASSERT_TRUE(write("stuck", 1000, 5));
  const auto all = stamps("stuck");
  for (uint64_t block = 0; block < written; ++block) ASSERT_EQ(all[block], block / 8 * 8 + 1);
}

// ---- leases and takeover ----

TEST_F(VolumeTest, EveryLeaseHasAHigherEpoch) {
  start();
  create("v", 16);
  uint64_t last = info("v").epoch;
  for (int round = 1; round <= 4; ++round) {
    ASSERT_TRUE(write("v", 1, round));
    const uint64_t epoch = info("v").epoch;
    EXPECT_GT(epoch, last);
    ASSERT_TRUE(write("v", 2, round));
    EXPECT_EQ(info("v").epoch, epoch) << "one lease serves many writes";
    last = epoch;
    if (round % 2 == 0) {
      kill_and_start();
    } else {
      open_ = {};
      host_->run([](Reactor& r) -> Task<void> {
        co_await sleep_ns(r, 60'000'000'000);
      }(host_->reactor()));  // idle: committed and released
      EXPECT_EQ(info("v").dirty_bytes, 0);
    }
    EXPECT_EQ(stamps("v")[1], round);
  }
}

TEST_F(VolumeTest, TakingOverFromALostNode) {
  start();
  CreateVolume request;
  create("host", 16);
  request.durability = Durability::kPool;
  create("pool", 16, request);
  for (const std::string name : {"host", "pool"}) {
    ASSERT_TRUE(write(name, 1, 10));
    ASSERT_TRUE(host_->run(host_->volumes().commit_volume(name)));
    ASSERT_TRUE(write(name, 1, 11));
    ASSERT_TRUE(write(name, 2, 12));
    ASSERT_TRUE(host_->run(open(name)->flush()));
  }
  disk_.cut_power();
  stop();
  disk_.restart();
  // The node that comes now has another journal.
  options_.journal.directory = "/host/other-journal";
  options_.journal.id_if_new.bytes[0] = std::byte{2};
  start();
  for (const std::string name : {"host", "pool"}) {
    const auto refused = write(name, 5, 1);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().kind(), ErrorKind::kFenced) << refused.error().message();
    EXPECT_FALSE(host_->run(host_->volumes().create_snapshot(name, "s")));
    EXPECT_FALSE(host_->run(host_->volumes().create_image("image-" + name, name)));
    open_ = {};
  }
  const uint64_t epoch = info("pool").epoch;
  auto taken = host_->run(host_->volumes().takeover_volume("pool", false));
  ASSERT_TRUE(taken) << taken.error().message();
  EXPECT_GT(taken->epoch, epoch);
  EXPECT_EQ(stamps("pool")[1], 11) << "everything flushed is there";
  EXPECT_EQ(stamps("pool")[2], 12);
  EXPECT_FALSE(host_->run(host_->volumes().takeover_volume("host", false)));
  ASSERT_TRUE(host_->run(host_->volumes().takeover_volume("host", true)));
  EXPECT_EQ(stamps("host")[1], 10) << "what was committed is there";
  EXPECT_EQ(stamps("host")[2], 0);
  ASSERT_TRUE(write("pool", 3, 13));
  ASSERT_TRUE(write("host", 3, 13));
  ASSERT_TRUE(host_->run(open("pool")->flush()));
  ASSERT_TRUE(host_->run(open("host")->flush()));
  cut_and_start();
  EXPECT_EQ(stamps("pool"),
            (std::vector<uint64_t>{0, 11, 12, 13, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(stamps("host"),
            (std::vector<uint64_t>{0, 10, 0, 13, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
  // The old node comes back: its tail is not replayed over the new line.
  disk_.kill_process();
  stop();
  disk_.restart();
  options_.journal.directory = "/host/journal";
  options_.journal.id_if_new.bytes[0] = std::byte{1};
  start();
  for (const std::string name : {"host", "pool"}) {
    EXPECT_FALSE(write(name, 5, 1));
    Content block(kBlock);
    const auto read = host_->run(open(name)->read(kBlock, block));
    ASSERT_FALSE(read) << "what the other node has not committed is not here";
    EXPECT_EQ(read.error().kind(), ErrorKind::kFenced);
  }
}

// ---- crashes inside verbs ----

struct Verb {
  const char* name;
  Task<Result<void>> (*run)(HostVolumes& volumes);
};

template <class T>
Result<void> drop(Result<T> result) {
  if (!result) return std::unexpected(result.error());
  return {};
}

const Verb kVerbs[] = {
    {"create",
     [](HostVolumes& v) -> Task<Result<void>> {
       co_return drop(co_await v.create_volumes(
           {.name = "new", .count = 3, .from = "v@old", .size_bytes = 20 * kBlock}));
     }},
    {"commit",
     [](HostVolumes& v) -> Task<Result<void>> { co_return co_await v.commit_volume("v"); }},
    {"snapshot",
     [](HostVolumes& v) -> Task<Result<void>> {
       co_return drop(co_await v.create_snapshot("v", "new"));
     }},
    {"remove snapshot",
     [](HostVolumes& v) -> Task<Result<void>> {
       co_return co_await v.remove_snapshot("v", "old");
     }},
    {"rollback",
     [](HostVolumes& v) -> Task<Result<void>> {
       co_return drop(co_await v.rollback_volume("v", "old"));
     }},
    {"grow",
     [](HostVolumes& v) -> Task<Result<void>> {
       co_return drop(co_await v.resize_volume("v", 32 * kBlock));
     }},
    {"shrink",
     [](HostVolumes& v) -> Task<Result<void>> {
       co_return drop(co_await v.resize_volume("v", 8 * kBlock));
     }},
    {"remove",
     [](HostVolumes& v) -> Task<Result<void>> { co_return co_await v.remove_volume("v", false); }},
    {"image",
     [](HostVolumes& v) -> Task<Result<void>> {
       co_return drop(co_await v.create_image("image", "v"));
     }},
    {"remove image",
     [](HostVolumes& v) -> Task<Result<void>> { co_return co_await v.remove_image("template"); }},
};

class CrashInVerb : public VolumeTest, public ::testing::WithParamInterface<Verb> {
 protected:
  // What anybody can see: every disk's size and content.
  using State = std::map<std::string, std::vector<uint64_t>>;
  State state() {
    State found;
    auto disks = host_->run(host_->volumes().list_disks());
    EXPECT_TRUE(disks);
    for (const DiskSummary& disk : *disks) found[disk.name] = stamps(disk.name);
    return found;
  }
  void prepare() {
    start();
    create("v", 16);
    for (uint64_t block = 0; block < 16; ++block) ASSERT_TRUE(write("v", block, block + 1));
    ASSERT_TRUE(host_->run(host_->volumes().create_snapshot("v", "old")));
    ASSERT_TRUE(host_->run(host_->volumes().create_image("template", "v@old")));
    for (uint64_t block = 4; block < 14; ++block) ASSERT_TRUE(write("v", block, block + 101));
    ASSERT_TRUE(host_->run(open("v")->flush()));
    open_ = {};
  }
};

TEST_P(CrashInVerb, TheVerbIsDoneOrNotAndTheDataRight) {
  prepare();
  const State before = state();
  disk_.kill_process();
  stop();
  disk_.restart();
  const sim::SimDisk prepared = disk_.clone();
  start();
  const uint64_t changes_before = disk_.writes_done();
  ASSERT_TRUE(host_->run(GetParam().run(host_->volumes())));
  const uint64_t changes = disk_.writes_done() - changes_before;
  const State after = state();
  ASSERT_GT(changes, 0);
  stop();
  // The seeds of the reactor are the same in every run, so each n is another moment of one run.
  for (uint64_t n = 0; n <= changes; ++n) {
    for (const bool cut : {false, true}) {
      SCOPED_TRACE((cut ? "power cut after " : "killed after ") + std::to_string(n));
      disk_ = prepared.clone();
      start();
      cut ? disk_.cut_power_after(n) : disk_.kill_process_after(n);
      const bool acknowledged = host_->run(GetParam().run(host_->volumes())).has_value();
      cut ? disk_.cut_power() : disk_.kill_process();
      stop();
      disk_.restart(n % 2 == 0 ? sim::LossPolicy::lose_all() : sim::LossPolicy::random(n));
      start();
      const State now = state();
      // Several volumes at once are separate transactions: any number of them may be there.
      State extra = now;
      for (const auto& [name, content] : before) extra.erase(name);
      const bool partial_create =
          std::string(GetParam().name) == "create" && !acknowledged &&
          std::ranges::all_of(extra, [&](const auto& item) {
            return after.contains(item.first) && after.at(item.first) == item.second;
          });
      if (acknowledged) {
        EXPECT_EQ(now, after);
      } else {
        EXPECT_TRUE(now == before || now == after || partial_create);
      }
      ASSERT_TRUE(
          host_->run(host_->volumes().create_volumes({.name = "works", .size_bytes = kBlock})));
      ASSERT_TRUE(write("works", 0, 1));
      stop();
      if (HasFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Verbs, CrashInVerb, ::testing::ValuesIn(kVerbs), [](const auto& info) {
  std::string name = info.param.name;
  std::ranges::replace(name, ' ', '_');
  return name;
});

}  // namespace
}  // namespace squall
