// Two hosts on one pool, one of which should be gone: who acknowledges what when a volume is taken
// over, and whether a volume that cannot commit stalls the others. The hosts share a reactor and a
// pool, and differ in their journals, hence in their identity.
#include <gtest/gtest.h>

#include <algorithm>

#include "base/log.h"
#include "testing/sim_host.h"

namespace squall {
namespace {

using testing::SimHost;
using testing::SimHostOptions;
using Content = std::vector<std::byte>;

constexpr uint64_t kBlock = 4096;
constexpr uint64_t kBlocks = 128;
constexpr uint64_t kSecondNs = 1'000'000'000;

SimHostOptions small_host() {
  SimHostOptions options;
  options.journal.file_bytes = 128 * kKiB;
  options.journal.max_files = 6;
  options.commit_bytes = 48 * kKiB;
  options.quota_bytes = 128 * kKiB;
  options.segment_bytes = 256 * kKiB;
  return options;
}

SimHostOptions rival(int number) {
  SimHostOptions options = small_host();
  const std::string home = "/host-" + std::to_string(number);
  options.journal.directory = home + "/journal";
  options.fast_scratch = home + "/tmpfs";
  options.overflow_scratch = home + "/scratch";
  options.journal.id_if_new.bytes[0] = static_cast<std::byte>(number);
  return options;
}

Content stamped(uint64_t stamp, uint64_t bytes = kBlock) {
  Content data(bytes);
  for (uint64_t i = 0; i + 8 <= bytes; i += 8) store_le(data.data() + i, stamp);
  return data;
}

// A client of one volume on one host. Requests report how they ended.
Task<Result<void>> write_block(HostVolumes& volumes, std::string name, uint64_t block,
                               uint64_t stamp, bool flush) {
  CO_TRY_ASSIGN(const OpenDisk disk, co_await volumes.open_disk(name));
  const Content data = stamped(stamp);
  CO_TRY(co_await disk.writer->write(block * kBlock, data, false));
  if (flush) CO_TRY(co_await disk.writer->flush());
  co_return Result<void>{};
}

Task<Result<uint64_t>> read_block(HostVolumes& volumes, std::string name, uint64_t block) {
  CO_TRY_ASSIGN(const OpenDisk disk, co_await volumes.open_disk(name));
  Content data(kBlock);
  CO_TRY(co_await disk.disk->read(block * kBlock, data));
  co_return load_le<uint64_t>(data.data());
}

class GhostsTest : public ::testing::Test {
 protected:
  void SetUp() override { spdlog::set_level(spdlog::level::off); }
  void TearDown() override {
    stop_rivals();
    host_.reset();
    spdlog::set_level(spdlog::level::info);
  }

  void start(uint64_t seed, const SimHostOptions& options = small_host()) {
    stop_rivals();
    host_.reset();
    disk_ = sim::SimDisk(seed);
    auto host = SimHost::start(seed, disk_, options);
    ASSERT_TRUE(host) << host.error().message();
    host_ = std::move(*host);
  }
  HostVolumes& join(int number) {
    auto joined = host_->join(rival(number));
    CHECK(joined.has_value());
    rivals_.push_back(std::move(*joined));
    return *rivals_.back();
  }
  void stop_rivals() {
    for (auto& volumes : rivals_) host_->run(volumes->stop());
    rivals_.clear();
  }
  void create(const std::string& name, Durability durability, const std::string& store = "") {
    CreateVolume request;
    request.name = name;
    request.size_bytes = kBlocks * kBlock;
    request.durability = durability;
    request.store = store;
    auto made = host_->run(host_->volumes().create_volumes(request));
    ASSERT_TRUE(made) << made.error().message();
  }
  HostVolumes& first() { return host_->volumes(); }
  void sleep(uint64_t duration_ns) {
    host_->run([](Reactor& reactor, uint64_t ns) -> Task<void> { co_await sleep_ns(reactor, ns); }(
                                                     host_->reactor(), duration_ns));
  }
  // Runs the request, which must end within `limit_ns` of virtual time.
  Result<void> within(uint64_t limit_ns, Task<Result<void>> task) {
    const uint64_t begun = host_->reactor().now_ns();
    auto done = host_->run(std::move(task));
    EXPECT_LE(host_->reactor().now_ns() - begun, limit_ns);
    return done;
  }

  sim::SimDisk disk_{1};
  std::unique_ptr<SimHost> host_;
  std::vector<std::unique_ptr<HostVolumes>> rivals_;
};

bool is_fenced(const Result<void>& done) {
  return !done && done.error().kind() == ErrorKind::kFenced;
}

// Whatever the moment of the takeover, a flush that the old owner acknowledged is in the volume
// that the new owner has, and afterwards it acknowledges none.
TEST_F(GhostsTest, AFlushOfScopePoolIsInTheVolumeThatIsTakenOverOrFails) {
  int kept = 0, fenced = 0;
  for (int steps = 0; steps < 160; ++steps) {
    SCOPED_TRACE("after " + std::to_string(steps) + " events");
    start(static_cast<uint64_t>(steps) + 1);
    create("v", Durability::kPool);
    ASSERT_TRUE(host_->run(write_block(first(), "v", 0, 1, true)));
    HostVolumes& other = join(2);
    std::optional<Result<VolumeInfo>> taken;
    std::optional<Result<void>> ended;
    const bool flush_first = steps % 2 == 0;
    const auto ask = [&](bool flush) {
      if (flush)
        spawn(write_block(first(), "v", 1, 2, true), [&](Result<void> r) { ended = std::move(r); });
      else
        spawn(other.takeover_volume("v", false),
              [&](Result<VolumeInfo> r) { taken = std::move(r); });
    };
    ask(flush_first);
    for (int i = 0; i < steps / 2 && !taken && !ended; ++i) host_->reactor().run_once();
    ask(!flush_first);
    run_until(host_->reactor(), [&] { return taken && ended; });
    const Result<void>& flushed = *ended;
    // A takeover that meets a commit of the old owner fails. Whoever comes next finds it all.
    HostVolumes& owner = *taken ? other : join(3);
    if (!*taken) {
      const auto again = host_->run(owner.takeover_volume("v", false));
      ASSERT_TRUE(again) << again.error().message();
    }
    EXPECT_EQ(*host_->run(read_block(owner, "v", 0)), 1U);
    const uint64_t found = *host_->run(read_block(owner, "v", 1));
    if (flushed) {
      EXPECT_EQ(found, 2U) << "an acknowledged flush is lost";
      ++kept;
    } else {
      EXPECT_TRUE(is_fenced(flushed)) << flushed.error().message();
      ++fenced;
    }
    EXPECT_TRUE(is_fenced(host_->run(write_block(first(), "v", 2, 3, true))));
    ASSERT_TRUE(host_->run(write_block(owner, "v", 3, 4, true)));
    EXPECT_EQ(*host_->run(read_block(owner, "v", 2)), 0U);
    if (HasFailure()) return;
  }
  EXPECT_GT(kept, 0);
  EXPECT_GT(fenced, 0);
}

// Scope `host` takes an operator's word that the old owner is gone. If it is not, it finds out with
// its next commit, and nothing of it reaches the volume.
TEST_F(GhostsTest, AGhostOfScopeHostIsFencedByItsNextCommit) {
  start(1);
  create("v", Durability::kHost);
  ASSERT_TRUE(host_->run(write_block(first(), "v", 0, 1, true)));
  ASSERT_TRUE(host_->run(first().commit_volume("v")));
  ASSERT_TRUE(host_->run(write_block(first(), "v", 1, 2, true)));
  HostVolumes& other = join(2);
  EXPECT_FALSE(host_->run(other.takeover_volume("v", false))) << "what would be lost is not said";
  const auto taken = host_->run(other.takeover_volume("v", true));
  ASSERT_TRUE(taken) << taken.error().message();
  ASSERT_TRUE(host_->run(write_block(other, "v", 2, 3, true)));
  auto held = host_->run(first().open_disk("v"));  // a client that keeps writing
  ASSERT_TRUE(held);
  Result<void> flushed;
  for (int second = 0; second < 40 && flushed; ++second) {
    sleep(kSecondNs);
    flushed = host_->run(write_block(first(), "v", 3, 4, true));
  }
  EXPECT_TRUE(is_fenced(flushed)) << "it writes and flushes on for longer than data stays dirty";
  EXPECT_FALSE(host_->run(held->writer->flush()));
  EXPECT_FALSE(host_->run(read_block(first(), "v", 0))) << "its content is not the volume's";
  EXPECT_FALSE(host_->run(first().commit_volume("v")));
  EXPECT_FALSE(host_->run(first().create_snapshot("v", "s")));
  EXPECT_EQ(*host_->run(read_block(other, "v", 0)), 1U);
  EXPECT_EQ(*host_->run(read_block(other, "v", 1)), 0U);
  EXPECT_EQ(*host_->run(read_block(other, "v", 2)), 3U);
  EXPECT_EQ(*host_->run(read_block(other, "v", 3)), 0U);
}

// Both believe the volume free; the lease goes to one.
TEST_F(GhostsTest, OfTwoFirstWritersOneWins) {
  int wins[2] = {0, 0};
  for (const Durability durability : {Durability::kHost, Durability::kPool})
    for (int steps = 0; steps < 60; ++steps) {
      SCOPED_TRACE("after " + std::to_string(steps) + " events");
      start(static_cast<uint64_t>(steps) + 1);
      create("v", durability);
      HostVolumes& other = join(2);
      std::optional<Result<void>> ours, theirs;
      const auto ask_us = [&] {
        spawn(write_block(first(), "v", 0, 1, true), [&](Result<void> r) { ours = std::move(r); });
      };
      if (steps % 2 == 0) ask_us();
      spawn(write_block(other, "v", 1, 2, true), [&](Result<void> r) { theirs = std::move(r); });
      for (int i = 0; i < steps && !theirs; ++i) host_->reactor().run_once();
      if (steps % 2 != 0) ask_us();
      run_until(host_->reactor(), [&] { return ours && theirs; });
      ASSERT_NE(ours->has_value(), theirs->has_value());
      const bool we_won = ours->has_value();
      EXPECT_TRUE(is_fenced(we_won ? *theirs : *ours));
      HostVolumes& winner = we_won ? first() : other;
      EXPECT_EQ(*host_->run(read_block(winner, "v", 0)), we_won ? 1U : 0U);
      EXPECT_EQ(*host_->run(read_block(winner, "v", 1)), we_won ? 0U : 2U);
      ++wins[we_won ? 0 : 1];
      if (HasFailure()) return;
    }
  EXPECT_GT(wins[0], 0);
  EXPECT_GT(wins[1], 0);
}

// Hosts take a volume from one another in turn, none of the former owners dies, and each keeps
// trying. Every flush that was acknowledged, by whomever, is in the end there.
TEST_F(GhostsTest, NoAcknowledgedFlushIsLostHoweverOftenAVolumeChangesHands) {
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    start(seed);
    create("v", Durability::kPool);
    std::vector<uint64_t> expected(kBlocks, 0);
    std::vector<HostVolumes*> hosts = {&first()};
    uint64_t block = 0;
    for (int round = 0; round < 6; ++round) {
      if (round > 0) {
        hosts.push_back(&join(round + 2));
        std::optional<Result<VolumeInfo>> taken;
        spawn(hosts.back()->takeover_volume("v", false),
              [&](Result<VolumeInfo> r) { taken = std::move(r); });
        while (!taken) {
          for (uint64_t i = random.below(20); i > 0 && !taken; --i) host_->reactor().run_once();
          HostVolumes& ghost = *hosts[random.below(hosts.size() - 1)];
          if (block + 24 < kBlocks && host_->run(write_block(ghost, "v", block, block + 1, true)))
            expected[block] = block + 1;
          ++block;
        }
      }
      for (int i = 0; i < 3; ++i) {
        HostVolumes& any = i == 0 ? *hosts.back() : *hosts[random.below(hosts.size())];
        const auto done = host_->run(write_block(any, "v", block, block + 1, random.chance(0.8)));
        if (done && &any == hosts.back()) {
          ASSERT_TRUE(host_->run(write_block(any, "v", block, block + 1, true)));
          expected[block] = block + 1;
        }
        ++block;
      }
    }
    HostVolumes& last = join(100);
    auto taken = host_->run(last.takeover_volume("v", false));
    HostVolumes& owner = taken ? last : *hosts.back();
    for (uint64_t i = 0; i < kBlocks; ++i)
      if (expected[i] != 0) EXPECT_EQ(*host_->run(read_block(owner, "v", i)), expected[i]);
    if (HasFailure()) return;
  }
}

// ---- one that cannot commit ----

class StuckVolume : public GhostsTest {
 protected:
  // Many times the journal's size through other volumes, each request in bounded time.
  void others_go_on() {
    const uint64_t begun = host_->reactor().now_ns();
    for (uint64_t i = 0; i < 300; ++i) {
      const std::string name = i % 3 == 0 ? "w-pool" : "w";
      const auto done = within(2 * kSecondNs, write_block(first(), name, i * 7 % kBlocks, i + 1,
                                                          /*flush=*/i % 5 == 0));
      ASSERT_TRUE(done) << "request " << i << ": " << done.error().message();
      if (i % 50 == 49) ASSERT_TRUE(within(2 * kSecondNs, first().commit_volume(name)));
    }
    EXPECT_LE(host_->reactor().now_ns() - begun, 20 * kSecondNs);
  }
  // "v" is dirty, the others are clean.
  void set_up(const std::string& store) {
    SimHostOptions options = small_host();
    options.stores = {{"far", "/far"}};
    start(1, options);
    create("v", Durability::kHost, store);
    create("w", Durability::kHost);
    create("w-pool", Durability::kPool);
    for (uint64_t block = 0; block < 8; ++block)
      ASSERT_TRUE(host_->run(write_block(first(), "v", block, block + 1, block == 5)));
  }
  void expect_own_content(HostVolumes& volumes) {
    for (uint64_t block = 0; block < 8; ++block) {
      const auto found = host_->run(read_block(volumes, "v", block));
      ASSERT_TRUE(found) << found.error().message();
      EXPECT_EQ(*found, block + 1);
    }
  }
  void crash_and_start() {
    disk_.kill_process();
    host_.reset();
    disk_.restart();
    auto host = SimHost::start(2, disk_, small_host());
    ASSERT_TRUE(host) << host.error().message();
    host_ = std::move(*host);
  }
};

TEST_F(StuckVolume, WhoseLeaseWasTakenStallsNoOther) {
  set_up("");
  HostVolumes& other = join(2);
  const auto taken = host_->run(other.takeover_volume("v", true));
  ASSERT_TRUE(taken) << taken.error().message();
  others_go_on();
  EXPECT_TRUE(is_fenced(host_->run(first().commit_volume("v"))));
  others_go_on();
}

TEST_F(StuckVolume, WhoseStoreIsFullStallsNoOther) {
  set_up("far");
  disk_.set_faults("/far", {.capacity_bytes = disk_.used_bytes("/far")});
  EXPECT_FALSE(within(5 * kSecondNs, first().commit_volume("v")));
  others_go_on();
  expect_own_content(first());
  disk_.clear_faults();
  sleep(2 * kSecondNs);
  ASSERT_TRUE(host_->run(first().commit_volume("v"))) << "service resumes by itself";
  ASSERT_TRUE(host_->run(write_block(first(), "v", 8, 9, true)));
  crash_and_start();
  expect_own_content(first());
}

TEST_F(StuckVolume, WhoseStoreIsAwayStallsNoOther) {
  set_up("far");
  disk_.set_faults("/far", {.away = true});
  EXPECT_FALSE(within(5 * kSecondNs, first().commit_volume("v")));
  others_go_on();
  expect_own_content(first());
  crash_and_start();
  disk_.clear_faults();
  sleep(5 * kSecondNs);
  expect_own_content(first());
  others_go_on();
}

}  // namespace
}  // namespace squall
