// A `file:` pool on a disk without a free byte: it opens, and the catalog takes the transactions
// that make room.
#include <gtest/gtest.h>

#include "engine/file_engine.h"
#include "io/run_task.h"
#include "sim/sim_reactor.h"

namespace squall {
namespace {

constexpr int kVolumes = 600;
constexpr uint64_t kReserveBytes = kMiB;

class FullDiskTest : public ::testing::Test {
 protected:
  FullDiskTest() : disk_(1) {
    sim::SimReactor reactor(1, disk_);
    EXPECT_TRUE(init_file_pool(reactor.files(), "/pool", {}));
  }
  static Result<FileEngine> open(sim::SimReactor& reactor) {
    FileEngineOptions options;
    options.catalog_reserve_bytes = kReserveBytes;
    options.make_executor = [](Reactor& r, const char*) {
      return std::make_unique<InlineExecutor>(r);
    };
    return open_file_engine(reactor, reactor.files(), "/pool", options);
  }
  // From now on nothing more fits in.
  void fill(sim::SimReactor& reactor) {
    const auto space = *reactor.files().space("/pool");
    disk_.set_faults("/pool", {.capacity_bytes = space.total_bytes - space.available_bytes});
    ASSERT_EQ(reactor.files().space("/pool")->available_bytes, 0);
  }
  static Result<void> put(sim::SimReactor& reactor, FileEngine& engine, int volume,
                          std::optional<std::string> value) {
    MetaTransaction transaction{.partition = "v/volume-" + std::to_string(volume)};
    transaction.puts.push_back({"head", std::move(value)});
    return run_task(reactor, engine.meta->commit(std::move(transaction)));
  }
  sim::SimDisk disk_;
};

TEST_F(FullDiskTest, RemovalsGoThroughAndLater) {
  sim::SimReactor reactor(1, disk_);
  auto engine = open(reactor);
  ASSERT_TRUE(engine) << engine.error().message();
  for (int i = 0; i < kVolumes; ++i) ASSERT_TRUE(put(reactor, *engine, i, std::string(300, 'h')));
  fill(reactor);
  for (int i = 0; i < kVolumes; i += 2) {
    const auto removed = put(reactor, *engine, i, std::nullopt);
    ASSERT_TRUE(removed) << i << ": " << removed.error().message();
  }
  run_task(reactor, engine->close());
}

// Daemon after daemon is killed, or stops, while the disk is full.
TEST_F(FullDiskTest, ItOpensAgainAndAgain) {
  {
    sim::SimReactor reactor(1, disk_);
    auto engine = open(reactor);
    ASSERT_TRUE(engine);
    for (int i = 0; i < kVolumes; ++i) ASSERT_TRUE(put(reactor, *engine, i, std::string(300, 'h')));
    fill(reactor);
    disk_.kill_process();
    run_task(reactor, engine->close());
  }
  for (int life = 0; life < 6; ++life) {
    SCOPED_TRACE(life);
    if (!disk_.is_running()) disk_.restart();
    sim::SimReactor reactor(1, disk_);
    auto engine = open(reactor);
    ASSERT_TRUE(engine) << engine.error().message();
    EXPECT_EQ(run_task(reactor, engine->meta->list("v/", ""))->size(), kVolumes - life * 100);
    for (int i = life * 100; i < (life + 1) * 100; ++i) {
      const auto removed = put(reactor, *engine, i, std::nullopt);
      ASSERT_TRUE(removed) << i << ": " << removed.error().message();
    }
    if (life % 2 == 1) disk_.kill_process();
    run_task(reactor, engine->close());
  }
}

}  // namespace
}  // namespace squall
