#include "sim/sim_reactor.h"

#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "io/gate.h"
#include "io/run_task.h"
#include "io/sync.h"

namespace squall::sim {
namespace {

int create(SimReactor& reactor, const std::string& path, bool direct = false) {
  return reactor.files().open(path, {.write = true, .create = true, .direct = direct}).value();
}

Task<int> write_text(Reactor& reactor, int handle, std::string text, uint64_t offset) {
  co_return co_await io_write(reactor, handle, as_bytes(text), offset);
}

Task<std::string> read_text(Reactor& reactor, int handle, size_t size, uint64_t offset) {
  std::string text(size, '?');
  const int count =
      co_await io_read(reactor, handle, std::as_writable_bytes(std::span(text)), offset);
  text.resize(count < 0 ? 0 : static_cast<size_t>(count));
  co_return text;
}

Task<int> sync_file(Reactor& reactor, int handle) {
  co_return co_await io_sync(reactor, handle);
}

TEST(SimReactor, ReadsBackWhatItWrote) {
  SimDisk disk(1);
  SimReactor reactor(1, disk);
  const int handle = create(reactor, "/f");
  EXPECT_EQ(run_task(reactor, write_text(reactor, handle, "hello", 3)), 5);
  EXPECT_EQ(run_task(reactor, read_text(reactor, handle, 100, 3)), "hello");
  EXPECT_EQ(run_task(reactor, read_text(reactor, handle, 100, 8)), "");
  EXPECT_EQ(run_task(reactor, sync_file(reactor, handle)), 0);
  reactor.files().close(handle);
  EXPECT_EQ(run_task(reactor, write_text(reactor, handle, "x", 0)), -EBADF);
  EXPECT_EQ(run_task(reactor, sync_file(reactor, handle)), -EBADF);
}

TEST(SimReactor, DirectHandlesInsistOnAlignment) {
  SimDisk disk(1);
  SimReactor reactor(1, disk);
  const int handle = create(reactor, "/f", true);
  EXPECT_EQ(run_task(reactor, write_text(reactor, handle, "hello", 0)), -EINVAL);
  auto write = [](Reactor& r, int file, uint64_t offset) -> Task<int> {
    AlignedBuffer buffer(4096);
    co_return co_await io_write(r, file, buffer.bytes(), offset);
  };
  EXPECT_EQ(run_task(reactor, write(reactor, handle, 512)), -EINVAL);
  EXPECT_EQ(run_task(reactor, write(reactor, handle, 4096)), 4096);
}

TEST(SimReactor, TimeIsVirtualAndTimersFireInOrder) {
  SimDisk disk(1);
  SimReactor reactor(1, disk);
  const int64_t wall_clock = reactor.wall_clock_s();
  std::vector<int> order;
  auto sleeper = [](Reactor& r, std::vector<int>& log, int id, uint64_t ns) -> Task<void> {
    co_await sleep_ns(r, ns);
    log.push_back(id);
  };
  spawn(sleeper(reactor, order, 2, 2'000'000'000));
  spawn(sleeper(reactor, order, 1, 1'000'000'000));
  run_task(reactor, sleeper(reactor, order, 3, 3'600'000'000'000));
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
  EXPECT_EQ(reactor.now_ns(), 3'600'000'000'000U);
  EXPECT_EQ(reactor.wall_clock_s(), wall_clock + 3600);
  EXPECT_FALSE(reactor.run_once()) << "nothing is pending";
}

TEST(SimReactor, DisarmedTimersDoNotFire) {
  SimDisk disk(1);
  SimReactor reactor(1, disk);
  Timer timer;
  timer.on_expire = [](Timer&) { FAIL(); };
  reactor.arm(timer, 1000);
  EXPECT_TRUE(timer.armed);
  reactor.disarm(timer);
  EXPECT_FALSE(timer.armed);
  reactor.disarm(timer);
  EXPECT_FALSE(reactor.run_once());
}

TEST(SimReactor, PostedWorkRunsInOrderAndRunEndsWithStop) {
  SimDisk disk(1);
  SimReactor reactor(1, disk);
  std::vector<int> order;
  reactor.post([&] { order.push_back(1); });
  reactor.post([&] {
    order.push_back(2);
    reactor.post([&] { reactor.stop(); });
  });
  reactor.run();
  EXPECT_EQ(order, (std::vector<int>{1, 2}));
}

// Many writers on overlapping ranges, with reads and syncs; everything random by seed.
Task<void> busy_client(SimReactor& reactor, int handle, uint64_t seed) {
  Random random(seed);
  for (int i = 0; i < 30; ++i) {
    const uint64_t offset = random.below(64) * 100;
    const std::string text(1 + random.below(3000), static_cast<char>('a' + seed));
    switch (random.below(4)) {
      case 0:
        co_await read_text(reactor, handle, text.size(), offset);
        break;
      case 1:
        co_await sync_file(reactor, handle);
        break;
      default:
        co_await write_text(reactor, handle, text, offset);
    }
  }
}

struct RunResult {
  uint64_t trace;
  uint64_t disk;
  uint64_t time_ns;
  bool operator==(const RunResult&) const = default;
};

RunResult run_busy(uint64_t seed) {
  SimDisk disk(seed);
  SimReactor reactor(seed, disk);
  const int handle = create(reactor, "/f");
  for (uint64_t client = 0; client < 8; ++client) spawn(busy_client(reactor, handle, client));
  while (reactor.run_once()) {
  }
  return {reactor.trace_hash(), disk.fingerprint(), reactor.now_ns()};
}

TEST(SimReactor, TheSeedDecidesTheRun) {
  std::set<uint64_t> traces;
  std::set<uint64_t> disks;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const RunResult once = run_busy(seed);
    const auto elsewhere = std::make_unique<char[]>(100 + seed * 5000);  // moves the heap
    EXPECT_EQ(run_busy(seed), once);
    traces.insert(once.trace);
    disks.insert(once.disk);
  }
  EXPECT_EQ(traces.size(), 10U);
  EXPECT_GT(disks.size(), 5U) << "writes that overlap race";
}

TEST(SimReactor, OverlappingWritesRaceAtSectorGranularity) {
  std::set<std::string> outcomes;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    SimDisk disk(seed);
    SimReactor reactor(seed, disk);
    const int handle = create(reactor, "/f");
    for (const char letter : {'a', 'b'}) {
      spawn(write_text(reactor, handle, std::string(2 * kSectorSize, letter), 0), [](int) {});
    }
    while (reactor.run_once()) {
    }
    const std::string text = run_task(reactor, read_text(reactor, handle, 2 * kSectorSize, 0));
    outcomes.insert(std::string{text[0], text[kSectorSize]});
  }
  EXPECT_EQ(outcomes, (std::set<std::string>{"aa", "ab", "ba", "bb"}));
}

TEST(SimReactor, ASyncCoversWhatCompletedBeforeIt) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    SimDisk disk(seed);
    SimReactor reactor(seed, disk);
    const int handle = create(reactor, "/f");
    ASSERT_TRUE(reactor.files().sync_directory("/"));
    run_task(reactor, write_text(reactor, handle, "done", 0));
    bool beside = false;
    spawn(write_text(reactor, handle, "beside", 4096), [&](int) { beside = true; });
    ASSERT_EQ(run_task(reactor, sync_file(reactor, handle)), 0);
    disk.cut_power();
    while (reactor.run_once()) {
    }
    EXPECT_TRUE(beside);
    disk.restart(LossPolicy::lose_all());
    const int again = create(reactor, "/f");
    EXPECT_EQ(run_task(reactor, read_text(reactor, again, 4, 0)), "done");
  }
}

TEST(SimReactor, EverythingFailsFastAfterAPowerCut) {
  SimDisk disk(3);
  SimReactor reactor(3, disk);
  const int handle = create(reactor, "/f");
  disk.cut_power_after(3);
  int done = 0;
  auto client = [](SimReactor& r, int file, int& count) -> Task<void> {
    for (int i = 0;; ++i) {
      const int result = co_await write_text(r, file, "x", static_cast<uint64_t>(i));
      if (result < 0) {
        EXPECT_EQ(result, -EIO);
        co_return;
      }
      ++count;
    }
  };
  run_task(reactor, client(reactor, handle, done));
  EXPECT_EQ(done, 2) << "the third took effect, but nobody was left to hear of it";
  EXPECT_EQ(run_task(reactor, sync_file(reactor, handle)), -EIO);
}

TEST(SimReactor, AKillLeavesWritesInFlightThatLandBeforeTheLock) {
  std::set<std::string> at_start;
  std::set<std::string> when_locked;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    SimDisk disk(seed);
    SimReactor reactor(seed, disk);
    const int handle = create(reactor, "/f");
    ASSERT_TRUE(reactor.files().lock(handle, 0));
    ASSERT_TRUE(reactor.files().write(handle, as_bytes(std::string(1024, 'o')), 0));
    int result = 0;
    spawn(write_text(reactor, handle, std::string(1024, 'n'), 0), [&](int r) { result = r; });
    disk.kill_process();
    while (reactor.run_once()) {
    }
    EXPECT_EQ(result, -EIO);
    disk.restart();

    SimReactor next(seed + 1, disk);
    const int again = create(next, "/f");
    const auto look = [&] {
      std::string text(1024, '?');
      EXPECT_TRUE(next.files().read(again, std::as_writable_bytes(std::span(text)), 0));
      return std::string{text[0], text[512]};
    };
    at_start.insert(look());
    ASSERT_TRUE(next.files().lock(again, 0));
    const std::string locked = look();
    when_locked.insert(locked);
    for (int i = 0; i < 200; ++i) EXPECT_EQ(look(), locked) << "nothing lands after the lock";
  }
  EXPECT_EQ(when_locked, (std::set<std::string>{"oo", "no", "on", "nn"})) << "pieces land alone";
  EXPECT_TRUE(at_start.contains("oo"));
}

TEST(SimReactor, ADeadProcessNeverLearnsThatAWriteSucceeded) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SimDisk disk(seed);
    SimReactor reactor(seed, disk);
    const int handle = create(reactor, "/f");
    int result = 0;
    spawn(write_text(reactor, handle, "x", 0), [&](int r) { result = r; });
    EXPECT_TRUE(reactor.run_once()) << "it takes effect";
    disk.kill_process();
    disk.restart();
    while (reactor.run_once()) {
    }
    EXPECT_EQ(result, -EIO);
    EXPECT_EQ(reactor.files().stat("/f")->size, 1U);
  }
}

TEST(SimReactor, AFullDiskFailsTheWrite) {
  SimDisk disk(1);
  SimReactor reactor(1, disk);
  const int handle = create(reactor, "/f");
  disk.set_faults("/", {.capacity_bytes = 4096});
  EXPECT_EQ(run_task(reactor, write_text(reactor, handle, std::string(4096, 'x'), 0)), 4096);
  EXPECT_EQ(run_task(reactor, write_text(reactor, handle, "x", 4096)), -ENOSPC);
  EXPECT_EQ(run_task(reactor, write_text(reactor, handle, "x", 0)), 1);
}

TEST(SimReactor, ACancelledOperationCompletesOnceEitherWay) {
  std::set<int> results;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    SimDisk disk(seed);
    SimReactor reactor(seed, disk);
    const std::string text = "text";
    iovec iov{const_cast<char*>(text.data()), text.size()};
    Operation op;
    op.code = Operation::Code::kWrite;
    op.handle = create(reactor, "/f");
    op.iov = &iov;
    op.iov_count = 1;
    int completions = 0;
    op.context = &completions;
    op.on_complete = [](Operation& self) { ++*static_cast<int*>(self.context); };
    reactor.submit(op);
    reactor.cancel(op);
    EXPECT_EQ(completions, 0);
    while (reactor.run_once()) {
    }
    EXPECT_EQ(completions, 1);
    results.insert(op.result);
    if (op.result == -ECANCELED) {
      EXPECT_EQ(reactor.files().stat("/f")->size, 0U);
    }
  }
  EXPECT_EQ(results, (std::set<int>{-ECANCELED, 4}));
}

TEST(SimReactor, SlowDisksAreSlow) {
  SimDisk disk(1);
  SimReactor reactor(1, disk);
  const int handle = create(reactor, "/f");
  disk.set_faults("/f", {.latency_ns = 5'000'000'000});
  run_task(reactor, write_text(reactor, handle, "x", 0));
  EXPECT_GE(reactor.now_ns(), 5'000'000'000U);
}

TEST(SimReactor, SeveralDisksShareAReactor) {
  SimDisk first(1);
  SimDisk second(2);
  SimReactor reactor(1, first);
  FileSystem& other = reactor.mount(second);
  const int a = create(reactor, "/f");
  const int b = other.open("/f", {.write = true, .create = true}).value();
  run_task(reactor, write_text(reactor, a, "one", 0));
  run_task(reactor, write_text(reactor, b, "two", 0));
  second.cut_power();
  EXPECT_EQ(run_task(reactor, read_text(reactor, a, 3, 0)), "one");
  EXPECT_EQ(run_task(reactor, read_text(reactor, b, 3, 0)), "");
}

}  // namespace
}  // namespace squall::sim
