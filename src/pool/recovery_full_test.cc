// A segment that a crash left open on a disk without space for its footer.
#include <gtest/gtest.h>

#include "io/run_task.h"
#include "pool/pool_test_util.h"
#include "sim/sim_reactor.h"

namespace squall::testing {
namespace {

Task<void> sleep(Reactor& reactor, uint64_t seconds) {
  co_await sleep_ns(reactor, seconds * 1'000'000'000);
}

class RecoveryFullTest : public ::testing::Test {
 protected:
  RecoveryFullTest() : disk_(1), reactor_(1, disk_), segments_(reactor_), catalog_(reactor_) {}

  std::unique_ptr<Pool> open() {
    auto pool = run_task(reactor_, Pool::open(reactor_, segments_, catalog_,
                                              {.id = *Uuid::parse("00112233-4455-4677-8899-"
                                                                  "aabbccddeeff"),
                                               .segment_bytes = Pool::kMinSegmentBytes}));
    EXPECT_TRUE(pool);
    return std::move(*pool);
  }
  // The pool after a crash that left no space to seal `segment`.
  std::unique_ptr<Pool> crash_on_a_full_disk(std::unique_ptr<Pool> pool, SegmentId segment) {
    segments_.cut_after(0);
    run_task(reactor_, pool->stop());
    Random random(1);
    segments_.crash(Loss::kAll, random);
    segments_.set_capacity_bytes(segments_.content(segment).size());
    pool = open();
    run_task(reactor_, pool->wait_recovered());
    return pool;
  }
  uint64_t unsealed(Pool& pool) {
    return run_task(reactor_, pool.stats())->stores[0].unsealed_segments;
  }

  sim::SimDisk disk_;
  sim::SimReactor reactor_;
  MemorySegmentStore segments_;
  MemoryMetaStore catalog_;
};

TEST_F(RecoveryFullTest, ItIsSealedWhenThereIsSpace) {
  const auto payload = make_payload(5000, 1);
  auto pool = open();
  const auto address = run_task(reactor_, pool->append(RecordKind::kChunk, payload, {}));
  ASSERT_TRUE(address && run_task(reactor_, pool->sync()));
  pool = crash_on_a_full_disk(std::move(pool), address->segment());
  EXPECT_EQ(unsealed(*pool), 1);
  EXPECT_TRUE(run_task(reactor_, pool->read(RecordKind::kChunk, *address)));
  run_task(reactor_, sleep(reactor_, 60));
  EXPECT_EQ(unsealed(*pool), 1);
  segments_.set_capacity_bytes(100 * kMiB);
  run_task(reactor_, sleep(reactor_, 30));
  EXPECT_EQ(unsealed(*pool), 0);
  run_task(reactor_, pool->stop());
}

TEST_F(RecoveryFullTest, WaitingForSpaceDoesNotHoldUpTheEnd) {
  auto pool = open();
  const auto address =
      run_task(reactor_, pool->append(RecordKind::kChunk, make_payload(5000, 1), {}));
  ASSERT_TRUE(address && run_task(reactor_, pool->sync()));
  pool = crash_on_a_full_disk(std::move(pool), address->segment());
  const uint64_t begun_ns = reactor_.now_ns();
  run_task(reactor_, pool->stop());
  EXPECT_LT(reactor_.now_ns() - begun_ns, 1'000'000'000);
}

}  // namespace
}  // namespace squall::testing
