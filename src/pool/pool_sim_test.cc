// The pool on the file engine on a simulated disk, which loses power after every change in turn.
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>

#include "engine/file_engine.h"
#include "pool/pool_promises.h"
#include "sim/sim_reactor.h"

namespace squall::testing {
namespace {

// Torn down in the ordinary way, whether the disk still has power or not.
class SimPool {
 public:
  SimPool(uint64_t seed, sim::SimDisk& disk) : reactor_(seed, disk) {}
  ~SimPool() {
    if (pool_ != nullptr) run_task(reactor_, pool_->stop());
    pool_.reset();
    if (engine_ != nullptr) run_task(reactor_, engine_->close());
  }

  Result<void> open() {
    FileEngineOptions options;
    options.make_executor = [](Reactor& reactor, const char*) {
      return std::make_unique<InlineExecutor>(reactor);
    };
    TRY_ASSIGN(FileEngine engine, open_file_engine(reactor_, reactor_.files(), "/pool", options));
    engine_ = std::make_unique<FileEngine>(std::move(engine));
    TRY_ASSIGN(pool_, run_task(reactor_, Pool::open(reactor_, *engine_->segments, *engine_->meta,
                                                    {.id = engine_->identity.id,
                                                     .cache_bytes = 0,
                                                     .segment_bytes = Pool::kMinSegmentBytes})));
    return {};
  }
  Reactor& reactor() { return reactor_; }
  Pool& pool() { return *pool_; }

 private:
  sim::SimReactor reactor_;
  std::unique_ptr<FileEngine> engine_;
  std::unique_ptr<Pool> pool_;
};

sim::SimDisk disk_with_pool(uint64_t seed) {
  sim::SimDisk disk(seed);
  sim::SimReactor reactor(seed, disk);
  EXPECT_TRUE(init_file_pool(reactor.files(), "/pool", {}));
  return disk;
}

// Opens, writes, closes; the power may go out anywhere on the way.
void write_on(sim::SimDisk& disk, uint64_t seed, Promises& promises) {
  SimPool host(seed, disk);
  if (!host.open()) return;
  Random random(seed);
  run_task(host.reactor(), write_until_power_is_out(host.pool(), random, promises, 30));
}

void verify_on(sim::SimDisk& disk, uint64_t seed, const Promises& promises) {
  SimPool host(seed, disk);
  const auto opened = host.open();
  ASSERT_TRUE(opened) << opened.error().message();
  promises.check(host.reactor(), host.pool());
  const auto payload = make_payload(100, 1);
  const auto fresh = run_task(host.reactor(), host.pool().append(RecordKind::kChunk, payload, {}));
  ASSERT_TRUE(fresh) << fresh.error().message();
  for (const auto& record : promises.records) ASSERT_NE(record.address.segment(), fresh->segment());
  run_task(host.reactor(), host.pool().wait_recovered());
  promises.check(host.reactor(), host.pool());
}

class PoolSimTest : public ::testing::TestWithParam<int> {
 protected:
  static sim::LossPolicy policy(uint64_t seed, uint64_t unsynced) {
    Random random(seed);
    const uint64_t one = unsynced > 0 ? random.below(unsynced) : 0;
    switch (GetParam()) {
      case 0:
        return sim::LossPolicy::lose_all();
      case 1:
        return sim::LossPolicy::keep_all().torn(sim::Tear::kPrefix, seed);
      case 2:
        return sim::LossPolicy::lose_one(one);
      case 3:
        return sim::LossPolicy::keep_one(one);
      default:
        return sim::LossPolicy::random(seed).torn(sim::Tear::kSubset, seed);
    }
  }
};
INSTANTIATE_TEST_SUITE_P(Policies, PoolSimTest, ::testing::Range(0, 5));

// SQUALL_SEEDS asks for more sequences than one.
TEST_P(PoolSimTest, PowerCutAfterEachChange) {
  const char* knob = std::getenv("SQUALL_SEEDS");
  const uint64_t seeds = knob != nullptr ? std::strtoull(knob, nullptr, 10) : 1;
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    sim::SimDisk complete = disk_with_pool(seed);
    const uint64_t before = complete.writes_done();
    Promises all;
    write_on(complete, seed, all);
    ASSERT_TRUE(!all.records.empty() && all.records.front().durable);
    const uint64_t changes = complete.writes_done() - before;
    for (uint64_t cut = 0; cut < changes; ++cut) {
      SCOPED_TRACE(fmt::format("seed {} cut {} of {}", seed, cut, changes));
      sim::SimDisk disk = disk_with_pool(seed);
      disk.cut_power_after(cut);
      Promises promises;
      write_on(disk, seed, promises);
      disk.restart(policy(seed * 1000 + cut, disk.unsynced_writes()));
      verify_on(disk, seed + 1, promises);
      if (HasFatalFailure()) return;
    }
  }
}

}  // namespace
}  // namespace squall::testing
