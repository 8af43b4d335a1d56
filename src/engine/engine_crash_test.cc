// Power cuts and kills at every change that the engine makes to a simulated disk, and failing
// syncs: what was acknowledged is there afterwards, whole, and what was read stays true.
//
// SQUALL_SEEDS (default 2) is the number of random loss policies tried at each crash point.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <map>

#include "engine/file_engine.h"
#include "io/run_task.h"
#include "sim/sim_reactor.h"

namespace squall {
namespace {

using sim::LossPolicy;
using sim::SimDisk;
using sim::SimReactor;

constexpr const char* kCatalog = "/catalog.db";

uint64_t seeds() {
  const char* text = std::getenv("SQUALL_SEEDS");
  return text == nullptr ? 2 : std::strtoull(text, nullptr, 10);
}

std::vector<LossPolicy> policies(const SimDisk& disk, uint64_t point) {
  std::vector<LossPolicy> all = {LossPolicy::lose_all(), LossPolicy::keep_all()};
  const uint64_t unsynced = disk.unsynced_writes();
  if (unsynced > 0) {
    all.push_back(LossPolicy::lose_one(point % unsynced));
    all.push_back(LossPolicy::keep_one(point % unsynced));
    all.push_back(LossPolicy::keep_all().torn(sim::Tear::kSubset, point));
  }
  for (uint64_t seed = 0; seed < seeds(); ++seed) {
    all.push_back(LossPolicy::random(point * 1000 + seed));
    all.push_back(LossPolicy::random(point * 1000 + seed).torn(sim::Tear::kSubset, seed));
  }
  return all;
}

std::unique_ptr<SqliteMetaStore> open_catalog(SimReactor& reactor, bool create,
                                              uint64_t reserve_bytes = 0) {
  auto database = SqliteDatabase::open(reactor.files(), kCatalog, create);
  if (!database) return nullptr;
  if (reserve_bytes > 0) (*database)->keep_reserve(reserve_bytes);
  return std::make_unique<SqliteMetaStore>(reactor, std::move(*database),
                                           std::make_unique<InlineExecutor>(reactor));
}

// What one writer, alone in its partition, was told. Its n-th transaction sets three keys to n.
struct Writer {
  int issued = 0;
  int acknowledged = 0;
  std::optional<int> read_after_error;
};
using Writers = std::map<std::string, Writer>;

std::string value(int n, size_t bytes) {
  std::string text = std::to_string(n) + " ";
  text.resize(std::max(bytes, text.size()), 'v');
  return text;
}

Task<void> write_partition(SqliteMetaStore& store, std::string partition, Writer& writer,
                           int transactions, size_t value_bytes) {
  for (int i = 0; i < transactions; ++i) {
    const int n = writer.acknowledged + 1;
    std::optional<std::string> before;
    if (n > 1) before = value(n - 1, value_bytes);
    MetaTransaction transaction{partition, {{"a", before}}, {}};
    for (const char* key : {"a", "b", "c"})
      transaction.puts.push_back({key, value(n, value_bytes)});
    writer.issued = n;
    const auto result = co_await store.commit(std::move(transaction));
    if (!result) {
      const auto found = co_await store.get(partition, "a");
      if (found) writer.read_after_error = *found ? std::stoi(**found) : 0;
      co_return;
    }
    writer.acknowledged = n;
  }
}

void run_writers(SimReactor& reactor, SqliteMetaStore& store, Writers& writers, int transactions,
                 size_t value_bytes) {
  size_t left = writers.size();
  for (auto& [partition, writer] : writers)
    spawn(write_partition(store, partition, writer, transactions, value_bytes), [&] { --left; });
  while (left > 0) CHECK(reactor.run_once());
}

void verify_writers(SimDisk& disk, const Writers& writers) {
  SimReactor reactor(1, disk);
  auto database = SqliteDatabase::open(reactor.files(), kCatalog, false);
  ASSERT_TRUE(database) << database.error().message();
  ASSERT_TRUE((*database)->begin());
  for (const auto& [partition, writer] : writers) {
    std::vector<int> found;
    for (const char* key : {"a", "b", "c"}) {
      const auto got = (*database)->get(partition, key);
      ASSERT_TRUE(got) << got.error().message();
      found.push_back(*got ? std::stoi(**got) : 0);
    }
    ASSERT_EQ(found[0], found[1]) << partition;
    ASSERT_EQ(found[0], found[2]) << partition;
    ASSERT_GE(found[0], writer.acknowledged) << partition;
    ASSERT_LE(found[0], writer.issued) << partition;
    if (writer.read_after_error) ASSERT_EQ(found[0], *writer.read_after_error) << partition;
  }
  (*database)->rollback();
}

struct Workload {
  int transactions;
  size_t value_bytes;
  uint64_t step;  // between crash points
  uint64_t reserve_bytes = 0;
};

SimDisk fresh_catalog() {
  SimDisk disk(1);
  SimReactor reactor(1, disk);
  CHECK(SqliteDatabase::open(reactor.files(), kCatalog, true).has_value());
  return disk;
}

// Runs the workload and the closing on clones of `base`, crashed after 0, step, 2 step, ...
// changes.
void crash_everywhere(const SimDisk& base, const Writers& writers, const Workload& work,
                      bool kill_only = false) {
  for (uint64_t point = 1;; point += work.step) {
    SimDisk disk = base.clone();
    Writers told = writers;
    {
      SimReactor reactor(point, disk);
      if (kill_only)
        disk.kill_process_after(point);
      else
        disk.cut_power_after(point);
      auto store = open_catalog(reactor, false, work.reserve_bytes);
      if (store != nullptr) {
        run_writers(reactor, *store, told, work.transactions, work.value_bytes);
        run_task(reactor, store->close());
      }
    }
    const bool finished = disk.is_running();
    for (const LossPolicy& policy : policies(disk, point)) {
      SimDisk crashed = disk.clone();
      crashed.restart(policy);
      verify_writers(crashed, told);
      if (testing::Test::HasFatalFailure()) {
        ADD_FAILURE() << "crash point " << point << ", policy " << static_cast<int>(policy.kind)
                      << " index " << policy.index << " seed " << policy.seed;
        return;
      }
    }
    if (finished) break;
  }
}

TEST(CatalogCrashTest, SmallTransactions) {
  crash_everywhere(fresh_catalog(), {{"p", {}}, {"q", {}}, {"r", {}}}, {6, 10, 1});
}

TEST(CatalogCrashTest, TransactionsOfManyPages) {
  crash_everywhere(fresh_catalog(), {{"p", {}}, {"q", {}}}, {3, 9000, 3});
}

TEST(CatalogCrashTest, WithAReserve) {
  crash_everywhere(fresh_catalog(), {{"p", {}}, {"q", {}}}, {5, 3000, 1, 128 * kKiB});
}

TEST(CatalogCrashTest, KilledProcess) {
  crash_everywhere(fresh_catalog(), {{"p", {}}, {"q", {}}}, {4, 3000, 5}, /*kill_only=*/true);
}

// A catalog whose WAL the next commits make long enough for a checkpoint.
SimDisk catalog_before_checkpoint(Writers& writers) {
  SimDisk disk = fresh_catalog();
  {
    SimReactor reactor(1, disk);
    auto store = open_catalog(reactor, false);
    run_writers(reactor, *store, writers, 12, 50000);
    disk.kill_process();
    run_task(reactor, store->close());
  }
  disk.restart(LossPolicy::keep_all());
  SimReactor reactor(1, disk);
  const auto wal = reactor.files().stat("/catalog.db-wal");
  CHECK(wal && wal->size > 850 * 4096 && wal->size < 1000 * 4096);
  return disk;
}

TEST(CatalogCrashTest, DuringACheckpoint) {
  Writers writers = {{"p", {}}, {"q", {}}};
  const SimDisk disk = catalog_before_checkpoint(writers);
  crash_everywhere(disk, writers, {4, 50000, 41});
  crash_everywhere(disk, writers, {4, 50000, 83, 512 * kKiB});
}

// Works on a clone of `base` while syncs fail, then ends the process one way or the other.
void fail_syncs_and_crash(const SimDisk& base, Writers writers, sim::DiskFaults faults, bool kill,
                          size_t value_bytes) {
  SimDisk disk = base.clone();
  {
    SimReactor reactor(faults.sync.after, disk);
    auto store = open_catalog(reactor, false);
    run_writers(reactor, *store, writers, 2, value_bytes);
    disk.set_faults("/", faults);
    run_writers(reactor, *store, writers, 6, value_bytes);
    if (kill)
      disk.kill_process();
    else
      disk.cut_power();
    run_task(reactor, store->close());
  }
  disk.set_faults("/", {});
  for (const LossPolicy& policy : policies(disk, faults.sync.after)) {
    SimDisk crashed = disk.clone();
    crashed.restart(policy);
    verify_writers(crashed, writers);
    ASSERT_FALSE(testing::Test::HasFatalFailure())
        << "after " << faults.sync.after << " times " << faults.sync.times << " evicts "
        << faults.failed_sync_evicts << " kill " << kill << " policy "
        << static_cast<int>(policy.kind);
  }
}

void fail_syncs_everywhere(const SimDisk& base, const Writers& writers, uint64_t points,
                           size_t value_bytes) {
  for (const bool evicts : {false, true})
    for (const bool kill : {false, true})
      for (const uint64_t times : {1, 3, 1000})
        for (uint64_t after = 0; after < points; ++after) {
          fail_syncs_and_crash(base, writers,
                               {.sync = {after, times}, .failed_sync_evicts = evicts}, kill,
                               value_bytes);
          if (testing::Test::HasFatalFailure()) return;
        }
}

TEST(CatalogCrashTest, FailedSyncs) {
  const Writers writers = {{"p", {}}, {"q", {}}};
  fail_syncs_everywhere(fresh_catalog(), writers, 12, 10);
  fail_syncs_everywhere(fresh_catalog(), writers, 12, 3000);
}

TEST(CatalogCrashTest, FailedSyncsDuringACheckpoint) {
  Writers writers = {{"p", {}}, {"q", {}}};
  const SimDisk disk = catalog_before_checkpoint(writers);
  fail_syncs_everywhere(disk, writers, 8, 50000);
}

FileEngineOptions sim_options() {
  return {.lock_wait_ms = 0, .segments = {}, .make_executor = make_inline_executor};
}

TEST(FilePoolCrashTest, InitLeavesAPoolOrCanBeRepeated) {
  const FilePoolOptions options{.stores = {{"ssd", "/disks/ssd"}}};
  for (uint64_t point = 1;; ++point) {
    SimDisk disk(1);
    bool made = false;
    {
      SimReactor reactor(point, disk);
      disk.cut_power_after(point);
      made = init_file_pool(reactor.files(), "/srv/pool", options).has_value();
      disk.cut_power();
    }
    for (const LossPolicy& policy : policies(disk, point)) {
      SimDisk crashed = disk.clone();
      crashed.restart(policy);
      SimReactor reactor(point, crashed);
      if (!made) {
        const auto again = init_file_pool(reactor.files(), "/srv/pool", options);
        ASSERT_TRUE(again) << "point " << point << ": " << again.error().message();
      }
      auto engine = open_file_engine(reactor, reactor.files(), "/srv/pool", sim_options());
      ASSERT_TRUE(engine) << "point " << point << ": " << engine.error().message();
      const auto stores = engine->segments->stores();
      ASSERT_EQ(stores->size(), 2u);
      EXPECT_TRUE((*stores)[1].available) << (*stores)[1].problem;
      run_task(reactor, engine->close());
    }
    if (made) break;
  }
}

// Segments and logs: what the workload was told is durable.
struct BulkModel {
  std::map<SegmentId, uint64_t> synced_bytes;  // created segments
  uint64_t log_appends = 0;                    // acknowledged, numbered from 0
};

constexpr size_t kPieceBytes = 9 * 512;

std::vector<std::byte> piece(uint64_t n) {
  return std::vector<std::byte>(kPieceBytes, static_cast<std::byte>(n + 1));
}

Task<Result<void>> write_bulk(FileEngine& engine, BulkModel& model) {
  for (SegmentId id = 1; id <= 2; ++id) {
    CO_TRY(co_await engine.segments->create(id, "default"));
    model.synced_bytes[id] = 0;
    for (uint64_t n = 0; n < 4; ++n) {
      const auto bytes = piece(n);
      const iovec iov{const_cast<std::byte*>(bytes.data()), bytes.size()};
      CO_TRY(co_await engine.segments->write(id, std::span(&iov, 1), n * kPieceBytes));
      if (n % 2 == 1) {
        CO_TRY(co_await engine.segments->sync(id));
        model.synced_bytes[id] = (n + 1) * kPieceBytes;
      }
      CO_TRY(co_await engine.logs->append(5, id, as_bytes(std::to_string(model.log_appends))));
      ++model.log_appends;
    }
  }
  CO_TRY(co_await engine.logs->rotate(5, 3));
  co_return Result<void>();
}

Task<void> verify_bulk(FileEngine& engine, const BulkModel& model) {
  for (const auto& [id, bytes] : model.synced_bytes)
    for (uint64_t offset = 0; offset < bytes; offset += kPieceBytes) {
      std::vector<std::byte> found(kPieceBytes);
      const auto got = co_await engine.segments->read(id, found, offset);
      EXPECT_TRUE(got && *got == kPieceBytes);
      EXPECT_EQ(found, piece(offset / kPieceBytes));
    }
  uint64_t appends = 0;
  const auto parts = co_await engine.logs->parts(5);
  for (const uint64_t number : *parts) {
    const auto part = co_await engine.logs->read(5, number);
    EXPECT_TRUE(part) << part.error().message();
    if (!part) co_return;
    for (const auto& bytes : part->appends) EXPECT_EQ(as_text(bytes), std::to_string(appends++));
  }
  EXPECT_GE(appends, model.log_appends);
  EXPECT_LE(appends, model.log_appends + 1);
  const auto appended = co_await engine.logs->append(5, 9, as_bytes("more"));
  EXPECT_TRUE(appended) << appended.error().message();
}

TEST(FilePoolCrashTest, SegmentsAndLogsKeepWhatWasSynced) {
  SimDisk base(1);
  {
    SimReactor reactor(1, base);
    ASSERT_TRUE(init_file_pool(reactor.files(), "/pool", {}));
  }
  for (uint64_t point = 1;; ++point) {
    SimDisk disk = base.clone();
    BulkModel model;
    bool finished = false;
    {
      SimReactor reactor(point, disk);
      disk.cut_power_after(point);
      auto engine = open_file_engine(reactor, reactor.files(), "/pool", sim_options());
      if (engine) {
        finished = run_task(reactor, write_bulk(*engine, model)).has_value();
        run_task(reactor, engine->close());
      }
      disk.cut_power();
    }
    for (const LossPolicy& policy : policies(disk, point)) {
      SimDisk crashed = disk.clone();
      crashed.restart(policy);
      SimReactor reactor(point, crashed);
      auto engine = open_file_engine(reactor, reactor.files(), "/pool", sim_options());
      ASSERT_TRUE(engine) << "point " << point << ": " << engine.error().message();
      run_task(reactor, verify_bulk(*engine, model));
      run_task(reactor, engine->close());
      ASSERT_FALSE(HasFailure()) << "point " << point << " policy " << static_cast<int>(policy.kind)
                                 << " seed " << policy.seed;
    }
    if (finished) break;
  }
}

TEST(SegmentFaultTest, AFailedSyncStopsWritesToThatSegmentOnly) {
  SimDisk disk(1);
  SimReactor reactor(1, disk);
  ASSERT_TRUE(init_file_pool(reactor.files(), "/pool", {}));
  auto engine = open_file_engine(reactor, reactor.files(), "/pool", sim_options());
  ASSERT_TRUE(engine);
  const auto bytes = piece(1);
  const iovec iov{const_cast<std::byte*>(bytes.data()), bytes.size()};
  for (SegmentId id : {1, 2}) {
    ASSERT_TRUE(run_task(reactor, engine->segments->create(id, "default")));
    ASSERT_TRUE(run_task(reactor, engine->segments->write(id, std::span(&iov, 1), 0)));
  }
  disk.set_faults("/pool/segments", {.sync = sim::FaultCount::once()});
  EXPECT_FALSE(run_task(reactor, engine->segments->sync(1)));
  EXPECT_FALSE(run_task(reactor, engine->segments->sync(1)));  // a retry proves nothing
  EXPECT_FALSE(run_task(reactor, engine->segments->write(1, std::span(&iov, 1), 0)));
  EXPECT_TRUE(run_task(reactor, engine->segments->sync(2)));
  run_task(reactor, engine->close());
}

}  // namespace
}  // namespace squall
