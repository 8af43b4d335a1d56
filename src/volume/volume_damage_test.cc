// Volumes whose journal lost or damaged what they had in it: never wrong bytes, never silently old
// ones, nobody else's trouble, and a way on.
#include <gtest/gtest.h>

#include <algorithm>

#include "testing/sim_host.h"

namespace squall {
namespace {

using sim::DiskFaults;
using sim::FaultCount;
using testing::SimHost;
using testing::SimHostOptions;
using Content = std::vector<std::byte>;

constexpr uint64_t kBlock = 4096;
constexpr uint64_t kBlocks = 64;

Content stamped(uint64_t stamp, uint64_t bytes = kBlock) {
  Content data(bytes);
  for (uint64_t i = 0; i < data.size(); i += 8) store_le(data.data() + i, stamp);
  return data;
}

class VolumeDamage : public ::testing::Test {
 protected:
  void SetUp() override {
    start();
    for (const char* name : {"v", "w"}) create(name);
  }
  void TearDown() override { stop(); }

  Result<void> try_start() {
    auto host = SimHost::start(++last_seed_, disk_, options_);
    if (!host) return std::unexpected(host.error());
    host_ = std::move(*host);
    return {};
  }
  void start() {
    auto started = try_start();
    ASSERT_TRUE(started) << started.error().message();
  }
  void stop() {
    open_.clear();
    host_.reset();
  }
  void kill_and_start() {
    disk_.kill_process();
    stop();
    disk_.restart();
    start();
  }
  void create(const std::string& name, Durability durability = Durability::kHost) {
    CreateVolume request;
    request.name = name;
    request.size_bytes = kBlocks * kBlock;
    request.durability = durability;
    auto made = host_->run(host_->volumes().create_volumes(request));
    ASSERT_TRUE(made) << made.error().message();
  }
  OpenDisk& disk(const std::string& name) {
    auto it = open_.find(name);
    if (it == open_.end()) {
      auto opened = host_->run(host_->volumes().open_disk(name));
      EXPECT_TRUE(opened) << opened.error().message();
      it = open_.emplace(name, std::move(*opened)).first;
    }
    return it->second;
  }
  Result<void> write(const std::string& name, uint64_t block, uint64_t stamp, bool fua = false,
                     uint64_t bytes = kBlock) {
    const Content data = stamped(stamp, bytes);
    return host_->run(disk(name).writer->write(block * kBlock, data, fua));
  }
  Result<uint64_t> read(const std::string& name, uint64_t block) {
    Content got(kBlock, std::byte{0xee});
    if (auto done = host_->run(disk(name).disk->read(block * kBlock, got)); !done)
      return std::unexpected(done.error());
    const auto stamp = load_le<uint64_t>(got.data());
    EXPECT_TRUE(got == stamped(stamp));
    return stamp;
  }
  void expect_read(const std::string& name, uint64_t block, uint64_t stamp) {
    const auto got = read(name, block);
    ASSERT_TRUE(got) << got.error().message();
    EXPECT_EQ(*got, stamp) << name << " block " << block;
  }
  Result<void> commit(const std::string& name) {
    return host_->run(host_->volumes().commit_volume(name));
  }
  Result<void> snapshot(const std::string& name, const std::string& snapshot) {
    auto made = host_->run(host_->volumes().create_snapshot(name, snapshot));
    if (!made) return std::unexpected(made.error());
    return {};
  }
  Result<void> rollback(const std::string& name, const std::string& snapshot) {
    open_.erase(name);
    auto done = host_->run(host_->volumes().rollback_volume(name, snapshot));
    if (!done) return std::unexpected(done.error());
    return {};
  }
  VolumeInfo info(const std::string& name) {
    return *host_->run(host_->volumes().show_volume(name));
  }
  void sleep_ms(uint64_t ms) {
    host_->run([](Reactor& reactor, uint64_t duration_ns) -> Task<void> {
      co_await sleep_ns(reactor, duration_ns);
    }(host_->reactor(), ms * 1'000'000));
  }
  // Flips a bit of every copy that the journal has of a block with this stamp.
  std::string rot(uint64_t stamp) {
    auto& files = host_->reactor().files();
    const Content wanted = stamped(stamp);
    std::string where;
    const auto names = files.list("/host/journal");
    EXPECT_TRUE(names);
    for (const std::string& name : *names) {
      if (!name.starts_with("slot-")) continue;
      const std::string path = "/host/journal/" + name;
      const auto content = files.read_file(path, 16 * kMiB);
      EXPECT_TRUE(content);
      for (auto it = content->begin();;) {
        it = std::search(it, content->end(), wanted.begin(), wanted.end());
        if (it == content->end()) break;
        EXPECT_TRUE(disk_.flip_bits(path, static_cast<uint64_t>(it - content->begin()) + 1000));
        where = path;
        it += static_cast<ptrdiff_t>(kBlock);
      }
    }
    EXPECT_FALSE(where.empty());
    return where;
  }

  uint64_t last_seed_ = 0;
  sim::SimDisk disk_{1};
  SimHostOptions options_;
  std::unique_ptr<SimHost> host_;
  std::map<std::string, OpenDisk> open_;
};

TEST_F(VolumeDamage, ADamagedBlockIsAnErrorThereAndNowhereElse) {
  for (uint64_t b = 0; b < 8; ++b) ASSERT_TRUE(write("v", b, 100 + b));
  ASSERT_TRUE(write("w", 0, 200));
  rot(103);
  const auto got = read("v", 3);
  ASSERT_FALSE(got);
  EXPECT_EQ(got.error().os_errno(), EIO);
  for (uint64_t b = 0; b < 8; ++b)
    if (b != 3) expect_read("v", b, 100 + b);
  // Its commit fails and publishes nothing; the other volume's does not.
  EXPECT_FALSE(commit("v"));
  EXPECT_FALSE(snapshot("v", "s"));
  EXPECT_TRUE(commit("w"));
  EXPECT_FALSE(info("v").lost);
  // New content in its place is as good as ever.
  ASSERT_TRUE(write("v", 3, 303));
  ASSERT_TRUE(commit("v"));
  kill_and_start();
  expect_read("v", 3, 303);
  expect_read("v", 4, 104);
  expect_read("w", 0, 200);
}

TEST_F(VolumeDamage, ADamagedBlockFoundAfterARestartIsTheSame) {
  options_.commit_bytes = options_.quota_bytes = 4 * kMiB;
  stop();
  start();
  for (uint64_t b = 0; b < kBlocks; ++b) ASSERT_TRUE(write("v", b, 100 + b, true));
  for (uint64_t b = 0; b < kBlocks; ++b) ASSERT_TRUE(write("w", b, 200 + b, true));
  rot(101);  // in a file with an index
  kill_and_start();
  EXPECT_FALSE(read("v", 1));
  expect_read("v", 2, 102);
  EXPECT_FALSE(commit("v"));
  EXPECT_TRUE(commit("w"));
}

// Data that can be neither committed nor moved must not keep the journal from everybody: it is
// given up, durably, and only then.
TEST_F(VolumeDamage, DamagedDataThatIsInTheWayIsGivenUpLoudly) {
  options_.journal.max_files = 5;
  stop();
  start();
  ASSERT_TRUE(write("v", 7, 1));
  ASSERT_TRUE(commit("v"));
  ASSERT_TRUE(snapshot("v", "s"));
  for (uint64_t b = 0; b < 8; ++b) ASSERT_TRUE(write("v", b, 100 + b, true));
  rot(103);
  for (uint64_t i = 0; i < 600; ++i) {
    const auto written = write("w", i % kBlocks, 1000 + i);
    ASSERT_TRUE(written) << written.error().message();
  }
  EXPECT_TRUE(info("v").lost);
  for (int again = 0; again < 2; ++again) {
    for (const uint64_t block : {0, 3, 40}) {
      const auto got = read("v", block);
      ASSERT_FALSE(got);
      EXPECT_EQ(got.error().os_errno(), EIO);
      EXPECT_NE(got.error().message().find("rollback"), std::string::npos);
    }
    EXPECT_FALSE(write("v", 3, 5));
    EXPECT_FALSE(commit("v"));
    kill_and_start();
    EXPECT_TRUE(info("v").lost);
  }
  for (uint64_t i = 600 - kBlocks; i < 600; ++i) expect_read("w", i % kBlocks, 1000 + i);
  ASSERT_TRUE(rollback("v", "s"));
  EXPECT_FALSE(info("v").lost);
  expect_read("v", 7, 1);
  expect_read("v", 3, 0);
  ASSERT_TRUE(write("v", 3, 9));
  kill_and_start();
  EXPECT_FALSE(info("v").lost);
  expect_read("v", 3, 9);
}

TEST_F(VolumeDamage, WhatAFailedSyncLostStaysAnErrorAfterARestart) {
  ASSERT_TRUE(write("v", 0, 1));
  ASSERT_TRUE(snapshot("v", "s"));
  ASSERT_TRUE(write("w", 0, 2, true));
  uint64_t stamp = 0;
  for (int attempt = 0; attempt < 20 && !info("v").lost; ++attempt) {
    for (uint64_t b = 0; b < 8; ++b) ASSERT_TRUE(write("v", b, ++stamp));
    disk_.set_faults("/host/journal", {.sync = FaultCount::once(), .failed_sync_evicts = true});
    (void)host_->run(disk("v").writer->flush());
    disk_.set_faults("/host/journal", {});
  }
  ASSERT_TRUE(info("v").lost);
  EXPECT_FALSE(info("w").lost);
  for (int again = 0; again < 3; ++again) {
    EXPECT_FALSE(read("v", 0));
    EXPECT_FALSE(write("v", 0, 1));
    EXPECT_FALSE(snapshot("v", "t"));
    expect_read("w", 0, 2);
    ASSERT_TRUE(write("w", 1, 3));
    kill_and_start();
    EXPECT_TRUE(info("v").lost);
  }
  ASSERT_TRUE(rollback("v", "s"));
  expect_read("v", 0, 1);
  kill_and_start();
  EXPECT_FALSE(info("v").lost);
  expect_read("v", 0, 1);
  ASSERT_TRUE(write("v", 1, 4));
}

// Zeros need no bytes of the journal, and what newer writes replaced needs none either.
TEST_F(VolumeDamage, AFailedSyncLosesOnlyWhatIsNeeded) {
  for (int attempt = 0; attempt < 10; ++attempt) {
    ASSERT_TRUE(host_->run(disk("v").writer->zero(0, 8 * kBlock, false)));
    disk_.set_faults("/host/journal", {.sync = FaultCount::once(), .failed_sync_evicts = true});
    ASSERT_TRUE(host_->run(disk("v").writer->flush()));
    disk_.set_faults("/host/journal", {});
  }
  EXPECT_FALSE(info("v").lost);
  expect_read("v", 3, 0);
}

TEST_F(VolumeDamage, ADamagedJournalIsRefusedUntilTheLossIsAccepted) {
  ASSERT_TRUE(write("v", 0, 1));
  ASSERT_TRUE(snapshot("v", "s"));
  ASSERT_TRUE(write("v", 0, 2, true));
  ASSERT_TRUE(write("w", 5, 3));
  ASSERT_TRUE(commit("w"));
  open_.clear();
  sleep_ms(60'000);  // w is given back: what it has is in the pool
  ASSERT_TRUE(write("v", 1, 4, true));
  const std::string file = rot(4);
  ASSERT_TRUE(write("v", 2, 5, true));
  ASSERT_TRUE(write("v", 3, 6, true));
  disk_.kill_process();
  stop();
  disk_.restart();
  for (int again = 0; again < 2; ++again) {
    const auto started = try_start();
    ASSERT_FALSE(started);
    const std::string text = started.error().message();
    for (const std::string& part : {file, std::string("--accept-journal-loss"), std::string("(v)")})
      EXPECT_NE(text.find(part), std::string::npos) << text;
  }
  options_.accept_journal_loss = true;
  start();
  EXPECT_TRUE(info("v").lost);
  EXPECT_FALSE(info("w").lost);
  EXPECT_FALSE(read("v", 2));
  expect_read("w", 5, 3);
  options_.accept_journal_loss = false;
  kill_and_start();
  EXPECT_TRUE(info("v").lost);
  EXPECT_FALSE(read("v", 0));
  ASSERT_TRUE(rollback("v", "s"));
  expect_read("v", 0, 1);
  expect_read("v", 2, 0);
}

TEST_F(VolumeDamage, ADamagedJournalThatNobodyNeedsStopsNothing) {
  ASSERT_TRUE(write("v", 0, 1, true));
  ASSERT_TRUE(write("v", 1, 2, true));
  const std::string file = rot(1);
  ASSERT_TRUE(write("v", 0, 3, true));
  ASSERT_TRUE(commit("v"));
  open_.clear();
  sleep_ms(60'000);
  disk_.kill_process();
  stop();
  disk_.restart();
  ASSERT_TRUE(disk_.flip_bits(file, 20));
  start();
  expect_read("v", 0, 3);
  expect_read("v", 1, 2);
  ASSERT_TRUE(write("v", 2, 4, true));
  kill_and_start();
  expect_read("v", 2, 4);
}

// ---- the pool does not answer ----

TEST_F(VolumeDamage, WritersWaitForAPoolThatFailsButNotForEver) {
  options_.stall_ms = 20'000;
  stop();
  start();
  create("big");
  ASSERT_TRUE(host_->run(host_->volumes().resize_volume("big", 4 * kMiB)));
  disk_.set_faults("/pool/segments", {.write = FaultCount::always()});
  const uint64_t before = host_->reactor().now_ns();
  std::optional<Error> error;
  uint64_t written = 0;
  for (; written < 1000 && !error; ++written)
    if (auto done = write("v", written % kBlocks, written + 1); !done) error = done.error();
  // Overwrites of the same blocks never fill the quota: what is dirty counts once.
  EXPECT_FALSE(error) << error->message();
  for (written = 0; written < 1000 && !error; ++written)
    if (auto done = write("big", written, written + 1); !done) error = done.error();
  ASSERT_TRUE(error);
  EXPECT_EQ(error->os_errno(), ENOSPC) << error->message();
  EXPECT_GE(host_->reactor().now_ns() - before, options_.stall_ms * 1'000'000);
  EXPECT_LE(info("big").dirty_bytes, options_.quota_bytes);
  // One that waits when the pool comes back notices nothing.
  bool done = false;
  const Content data = stamped(7);
  spawn(disk("big").writer->write(900 * kBlock, data, false), [&](const Result<void>& result) {
    EXPECT_TRUE(result) << result.error().message();
    done = true;
  });
  sleep_ms(5000);
  EXPECT_FALSE(done);
  disk_.set_faults("/pool/segments", {});
  sleep_ms(5000);
  EXPECT_TRUE(done);
  expect_read("big", 900, 7);
}

// ---- scope `pool`: what the journal lost and the log in the pool has ----

class LoggedVolume : public VolumeDamage {
 protected:
  // Ten blocks, flushed together: damage of the first one's record looks like the journal's end.
  void lose_the_journals_part() {
    create("p", Durability::kPool);
    ASSERT_TRUE(write("p", 20, 1, true));
    for (uint64_t b = 0; b < 10; ++b) ASSERT_TRUE(write("p", b, 100 + b));
    ASSERT_TRUE(host_->run(disk("p").writer->flush()));
    rot(100);
    disk_.kill_process();
    stop();
    disk_.restart();
  }
  void expect_all() {
    for (uint64_t b = 0; b < 10; ++b) expect_read("p", b, 100 + b);
    expect_read("p", 20, 1);
  }
};

TEST_F(LoggedVolume, RecoveryMayBeKilledAnywhere) {
  lose_the_journals_part();
  const sim::SimDisk before = disk_.clone();
  for (uint64_t n = 0;; n += 3) {
    SCOPED_TRACE("killed after " + std::to_string(n));
    disk_ = before.clone();
    disk_.kill_process_after(n);
    (void)try_start();
    const bool killed = !disk_.is_running();
    disk_.kill_process();
    stop();
    disk_.restart();
    start();
    expect_all();
    ASSERT_TRUE(write("p", 3, 777, true));
    kill_and_start();
    expect_read("p", 3, 777);
    expect_read("p", 4, 104);
    if (HasFailure() || !killed) break;
    stop();
  }
}

TEST_F(LoggedVolume, RecoveryThatFailsIsOneVolumesTroubleAndTriedAgain) {
  ASSERT_TRUE(write("v", 0, 5, true));
  lose_the_journals_part();
  disk_.set_faults("/pool/segments", {.write = FaultCount::always()});
  start();
  expect_read("v", 0, 5);
  const auto got = read("p", 0);
  ASSERT_FALSE(got);
  EXPECT_EQ(got.error().os_errno(), EIO);
  EXPECT_FALSE(write("p", 0, 1));
  disk_.set_faults("/pool/segments", {});
  sleep_ms(5000);
  expect_all();
}

// The other node's journal is smaller than what it takes over.
TEST_F(LoggedVolume, ATakeoverNeedsNoJournalSpace) {
  options_.commit_bytes = options_.quota_bytes = 64 * kMiB;
  options_.journal.file_bytes = 1 * kMiB;
  options_.journal.max_files = 16;
  options_.journal.directory = "/first/journal";
  options_.journal.id_if_new.bytes[0] = std::byte{7};
  stop();
  start();
  create("p", Durability::kPool);
  ASSERT_TRUE(host_->run(host_->volumes().resize_volume("p", 4 * kMiB)));
  for (uint64_t b = 0; b < 1000; b += 10)
    ASSERT_TRUE(write("p", b, b + 1, b % 100 == 0, 10 * kBlock));
  ASSERT_TRUE(host_->run(disk("p").writer->flush()));
  disk_.kill_process();
  stop();
  disk_.restart();
  options_.journal = SimHostOptions{}.journal;
  options_.journal.directory = "/second/journal";
  options_.journal.file_bytes = 64 * kKiB;
  options_.journal.max_files = 4;
  options_.journal.id_if_new.bytes[0] = std::byte{9};
  start();
  const auto taken = host_->run(host_->volumes().takeover_volume("p", false));
  ASSERT_TRUE(taken) << taken.error().message();
  for (uint64_t b = 0; b < 1000; ++b) expect_read("p", b, b / 10 * 10 + 1);
  kill_and_start();
  expect_read("p", 999, 991);
}

}  // namespace
}  // namespace squall
