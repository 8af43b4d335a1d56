// Faults that were found by reading, each reduced to the shortest sequence that showed it.
#include <gtest/gtest.h>

#include <algorithm>

#include "testing/sim_host.h"

namespace squall {
namespace {

using testing::SimHost;
using testing::SimHostOptions;
using Content = std::vector<std::byte>;

constexpr uint64_t kSize = 4 * kMiB;

Content filled(uint64_t size, uint8_t value) {
  return Content(size, static_cast<std::byte>(value));
}

std::unique_ptr<SimHost> start(sim::SimDisk& disk, const SimHostOptions& options = {}) {
  auto host = SimHost::start(1, disk, options);
  EXPECT_TRUE(host) << host.error().message();
  return host ? std::move(*host) : nullptr;
}

void create(SimHost& host, Durability durability = Durability::kHost) {
  CreateVolume request;
  request.name = "v";
  request.size_bytes = kSize;
  request.durability = durability;
  auto made = host.run(host.volumes().create_volumes(request));
  ASSERT_TRUE(made) << made.error().message();
}

OpenDisk open(SimHost& host) {
  auto opened = host.run(host.volumes().open_disk("v"));
  EXPECT_TRUE(opened) << opened.error().message();
  return opened ? std::move(*opened) : OpenDisk{};
}

Result<void> write(SimHost& host, const OpenDisk& disk, uint64_t offset, Content data) {
  return host.run(disk.writer->write(offset, data, false));
}

Content read(SimHost& host, const OpenDisk& disk, uint64_t offset, uint64_t size) {
  Content got(size, std::byte{0xee});
  auto done = host.run(disk.disk->read(offset, got));
  EXPECT_TRUE(done) << done.error().message();
  return got;
}

void sleep_ms(SimHost& host, uint64_t ms) {
  host.run([](Reactor& reactor, uint64_t duration_ns) -> Task<void> {
    co_await sleep_ns(reactor, duration_ns);
  }(host.reactor(), ms * 1'000'000));
}

// The file that holds a flushed write was recycled as soon as newer writes had replaced all of it,
// although those were not durable: a power cut then took both.
TEST(Regression, WhatReplacesAFlushedWriteIsDurableBeforeItsFileIsRecycled) {
  constexpr uint64_t kWrite = 60 * kKiB;  // three fill a journal file
  SimHostOptions options;
  options.commit_bytes = options.quota_bytes = 64 * kMiB;
  sim::SimDisk disk(1);
  {
    auto host = start(disk, options);
    create(*host);
    OpenDisk v = open(*host);
    ASSERT_TRUE(write(*host, v, 0, filled(kWrite, 1)));
    ASSERT_TRUE(host->run(v.writer->flush()));
    // The second file takes long to sync; the first one's next header does not.
    disk.set_faults("/host/journal/slot-000001.wal", {.latency_ns = 1'000'000'000});
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(write(*host, v, kMiB, filled(kWrite, 2)));
    sleep_ms(*host, 3000);
    ASSERT_TRUE(write(*host, v, kMiB, filled(kWrite, 2)));
    bool flushed = false;
    spawn(v.writer->flush(), [&](const Result<void>&) { flushed = true; });
    sleep_ms(*host, 1);
    ASSERT_TRUE(write(*host, v, 0, filled(kWrite, 3)));  // nothing needs the first file now
    std::vector<DiskExtent> extents;
    ASSERT_TRUE(host->run(v.disk->status(kMiB, 512, 1, extents)));  // a chance to recycle it
    ASSERT_TRUE(write(*host, v, kMiB, filled(kWrite, 4)));          // fills the second
    sleep_ms(*host, 100);
    EXPECT_FALSE(flushed);
    disk.cut_power();
    sleep_ms(*host, 5000);
    v = {};
  }
  disk.restart(sim::LossPolicy::lose_all());
  auto host = start(disk, options);
  OpenDisk v = open(*host);
  EXPECT_EQ(read(*host, v, 0, 1)[0], std::byte{1});
  v = {};
}

// A write that had found the lease in place waited while the idle volume gave it back, and then
// went to the journal under a head that said nothing of a dirty journal: replay skipped it.
TEST(Regression, AWriteThatMeetsTheReleaseOfTheLeaseTakesItAgain) {
  for (int steps = 0; steps < 60; ++steps) {
    sim::SimDisk disk(1);
    {
      auto host = start(disk);
      create(*host);
      OpenDisk v = open(*host);
      ASSERT_TRUE(write(*host, v, 0, filled(4096, 1)));
      v = {};
      sleep_ms(*host, 10'500);
      for (int i = 0; i < steps; ++i) host->reactor().run_once();
      v = open(*host);
      ASSERT_TRUE(write(*host, v, 4096, filled(4096, 2)));
      sleep_ms(*host, 10);
      ASSERT_TRUE(write(*host, v, 8192, filled(4096, 3)));
      disk.kill_process();
      v = {};
    }
    disk.restart();
    auto host = start(disk);
    OpenDisk v = open(*host);
    EXPECT_TRUE(read(*host, v, 4096, 4096) == filled(4096, 2)) << "after " << steps << " events";
    EXPECT_TRUE(read(*host, v, 8192, 4096) == filled(4096, 3)) << "after " << steps << " events";
    v = {};
  }
}

// A failed sync leaves more than one file to be copied: the second copy's header claimed that the
// log before it ended later than it did, and replay stopped there.
TEST(Regression, CopiesAfterAFailedSyncMaySpanFiles) {
  constexpr uint64_t kWrite = 60 * kKiB;
  SimHostOptions options;
  options.commit_bytes = options.quota_bytes = 64 * kMiB;
  sim::SimDisk disk(1);
  {
    auto host = start(disk, options);
    create(*host);
    OpenDisk v = open(*host);
    ASSERT_TRUE(write(*host, v, 0, filled(kWrite, 1)));
    ASSERT_TRUE(host->run(v.writer->flush()));
    disk.set_faults("/host/journal/slot-000000.wal", {.sync = sim::FaultCount::once()});
    for (uint8_t i = 1; i < 8; ++i) ASSERT_TRUE(write(*host, v, i * kWrite, filled(kWrite, i + 1)));
    ASSERT_TRUE(host->run(v.writer->flush()));
    EXPECT_TRUE(read(*host, v, 7 * kWrite, kWrite) == filled(kWrite, 8));
    disk.kill_process();
    v = {};
  }
  disk.restart();
  auto host = start(disk, options);
  OpenDisk v = open(*host);
  for (uint8_t i = 0; i < 8; ++i)
    EXPECT_EQ(read(*host, v, i * kWrite, 1)[0], static_cast<std::byte>(i + 1)) << "write " << +i;
  v = {};
}

// Scope `pool`: what was acknowledged before the daemon was killed was in no later flush's log.
TEST(Regression, AFlushAfterARestartPutsEarlierWritesIntoThePool) {
  sim::SimDisk disk(1);
  {
    auto host = start(disk);
    create(*host, Durability::kPool);
    OpenDisk v = open(*host);
    ASSERT_TRUE(write(*host, v, 0, filled(4096, 1)));
    disk.kill_process();
    v = {};
  }
  disk.restart();
  {
    auto host = start(disk);
    OpenDisk v = open(*host);
    ASSERT_TRUE(host->run(v.writer->flush()));
    disk.kill_process();
    v = {};
  }
  disk.restart();
  // The host is lost with its journal; another one takes over.
  SimHostOptions other;
  other.journal.directory = "/other/journal";
  other.journal.id_if_new.bytes[0] = std::byte{2};
  auto host = start(disk, other);
  OpenDisk v = open(*host);
  Content got(4096);
  EXPECT_FALSE(host->run(v.disk->read(0, got))) << "its newest content is elsewhere";
  auto taken = host->run(host->volumes().takeover_volume("v", false));
  ASSERT_TRUE(taken) << taken.error().message();
  EXPECT_TRUE(read(*host, v, 0, 4096) == filled(4096, 1));
  v = {};
}

// A volume that is dirty on another node is neither read, copied nor rolled back.
TEST(Regression, AVolumeDirtyElsewhereIsLeftAlone) {
  sim::SimDisk disk(1);
  {
    auto host = start(disk);
    create(*host);
    ASSERT_TRUE(host->run(host->volumes().create_snapshot("v", "s")));
    OpenDisk v = open(*host);
    ASSERT_TRUE(write(*host, v, 0, filled(4096, 1)));
    disk.kill_process();
    v = {};
  }
  disk.restart();
  SimHostOptions other;
  other.journal.directory = "/other/journal";
  other.journal.id_if_new.bytes[0] = std::byte{2};
  {
    auto host = start(disk, other);
    OpenDisk v = open(*host);
    Content got(4096);
    EXPECT_FALSE(host->run(v.disk->read(0, got)));
    v = {};
    EXPECT_FALSE(host->run(host->volumes().create_image("i", "v")));
    EXPECT_FALSE(host->run(host->volumes().rollback_volume("v", "s")));
    EXPECT_FALSE(host->run(host->volumes().create_snapshot("v", "t")));
    sleep_ms(*host, 15'000);  // nor does closing it when idle touch it
  }
  auto host = start(disk);
  OpenDisk v = open(*host);
  EXPECT_TRUE(read(*host, v, 0, 4096) == filled(4096, 1));
  v = {};
}

TEST(Regression, TrafficOfStatelessVolumesIsCounted) {
  sim::SimDisk disk(1);
  auto host = start(disk);
  CreateVolume request;
  request.name = "v";
  request.size_bytes = kSize;
  request.stateless = true;
  ASSERT_TRUE(host->run(host->volumes().create_volumes(request)));
  OpenDisk v = open(*host);
  ASSERT_TRUE(write(*host, v, 0, filled(4096, 1)));
  v = {};
  EXPECT_EQ(host->run(host->volumes().show_volume("v"))->bytes_written, 4096U);
  sleep_ms(*host, 15'000);
  EXPECT_EQ(host->run(host->volumes().show_volume("v"))->bytes_written, 4096U);
}

}  // namespace
}  // namespace squall
