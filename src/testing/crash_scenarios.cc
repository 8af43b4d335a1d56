// What crash points are taken of: every operation of the write path, each with a history behind it
// and other volumes' writes beside it.
#include "testing/crash_points.h"

namespace squall::testing {

namespace {

constexpr int kTraffic = 4;  // requests of each neighbour

Content patterned(CrashWorld& world, uint64_t size) {
  Content content = world.fresh(size);
  // Holes at both ends of a run of data.
  for (uint64_t at = 0; at < size; at += 4096)
    if (at / 4096 % 11 < 4)
      std::fill_n(content.begin() + static_cast<ptrdiff_t>(at), std::min<uint64_t>(4096, size - at),
                  std::byte{0});
  return content;
}

CreateVolume volume(const std::string& name, const std::string& from, uint64_t size_bytes,
                    CacheMode cache, Durability durability) {
  CreateVolume request;
  request.name = name;
  request.from = from;
  request.size_bytes = size_bytes;
  request.cache = cache;
  request.durability = durability;
  return request;
}

Task<void> set_up(CrashWorld& world, CrashSetup setup) {
  co_await world.import("base", patterned(world, 96 * kKiB));
  co_await world.create(volume("s", "base", 160 * kKiB + 512, setup.cache, setup.durability));
  co_await world.create(volume("n-back", "base", 0, CacheMode::kWriteback, Durability::kHost));
  co_await world.create(volume("n-pool", "", 64 * kKiB, CacheMode::kNone, Durability::kPool));
  co_await world.create(volume("n-sync", "", 48 * kKiB, CacheMode::kDirectsync, Durability::kHost));
  co_await world.create(volume("n-lax", "", 32 * kKiB, CacheMode::kUnsafe, Durability::kHost));
  CreateVolume stateless = volume("n-less", "base", 0, CacheMode::kWriteback, Durability::kHost);
  stateless.stateless = true;
  co_await world.create(stateless);
  co_await world.write("s", 5000, 20'000);
  co_await world.write("n-back", 0, 9000);
  co_await world.write("n-pool", 4096, 8192);
  co_await world.write("n-less", 1000, 30'000);
  co_await world.snapshot("s", "old");
  co_await world.write("s", 64 * kKiB, 12'288);
  co_await world.commit("s");
  co_await world.write("s", 4096, 4096);
  co_await world.flush("s");
  co_await world.flush("n-pool");
  co_await world.write("n-lax", 0, 5000);
  co_await world.write("n-sync", 512, 512);
  co_await world.write("n-back", 20'000, 700);
  co_await world.write("s", 100'000, 3000);
}

using Act = Task<void> (*)(CrashWorld&);
template <Act act, int requests = kTraffic>
void beside(CrashWorld& world) {
  world.run_beside_traffic(act(world), requests);
}
template <Act act>
void alone(CrashWorld& world) {
  world.run(act(world));
}

// ---- requests ----

Task<void> write_aligned(CrashWorld& world) {
  co_await world.write("s", 8192, 4096);
  co_await world.write("s", 12'288, 12'288);
  co_await world.write("s", 8192, 4096);
}
Task<void> write_unaligned(CrashWorld& world) {
  co_await world.write("s", 513, 100);
  co_await world.write("s", 4000, 600);
  co_await world.write("s", world.size_of("s") - 700, 700);
}
// Longer than a record, over places with and without content.
Task<void> write_spanning(CrashWorld& world) {
  co_await world.write("s", 3000, 60'000);
  co_await world.flush("s");
  co_await world.write("s", 30'000, 100'000);
}
Task<void> write_fua(CrashWorld& world) {
  co_await world.write("s", 9000, 3000);
  co_await world.write("s", 20'480, 4096, true);
  co_await world.zero("s", 4096, 8192, true);
}
Task<void> zero(CrashWorld& world) {
  co_await world.zero("s", 4096, 8192);
  co_await world.zero("s", 100, 5000);
  co_await world.zero("s", 60'000, 80'000);
  co_await world.flush("s");
}
Task<void> trim(CrashWorld& world) {
  co_await world.trim("s", 4096, 8192);
  co_await world.trim("s", 5000, 30'000);
  co_await world.trim("s", 70'000, world.size_of("s") - 70'000);
  co_await world.flush("s");
}
Task<void> flush(CrashWorld& world) {
  for (uint64_t i = 0; i < 4; ++i) {
    co_await world.write("s", i * 9000, 2000);
    co_await world.flush("s");
  }
}

// ---- commits and verbs ----

Task<void> commit(CrashWorld& world) {
  co_await world.commit("s");
}
Task<void> commit_all(CrashWorld& world) {
  for (const char* name : {"n-back", "n-pool", "s", "n-sync", "n-lax"}) co_await world.commit(name);
}
Task<void> some_writes(CrashWorld& world) {
  for (int i = 0; i < 6; ++i) {
    co_await world.write("s", world.random().below(100'000), world.random().between(1, 9000));
    if (i % 2 == 0) co_await world.flush("s");
  }
}
Task<Result<void>> ended(Task<void> task) {
  co_await std::move(task);
  co_return Result<void>{};
}
Task<void> together(CrashWorld& world, Task<void> one, Task<void> other) {
  std::vector<Task<Result<void>>> tasks;
  tasks.push_back(ended(std::move(one)));
  tasks.push_back(ended(std::move(other)));
  (void)co_await join_all(world.host().reactor(), std::move(tasks));
}
template <Act verb>
Task<void> after_a_moment(CrashWorld& world) {
  co_await sleep_ns(world.host().reactor(), 50'000);
  co_await verb(world);
}
template <Act verb>
Task<void> while_writing(CrashWorld& world) {
  co_await together(world, some_writes(world), after_a_moment<verb>(world));
}
Task<void> snapshot(CrashWorld& world) {
  co_await world.snapshot("s", "new");
}
Task<void> remove_snapshot(CrashWorld& world) {
  co_await world.remove_snapshot("s", "old");
}
Task<void> rollback(CrashWorld& world) {
  co_await world.rollback("s", "old");
  co_await world.write("s", 6000, 5000);
  co_await world.flush("s");
}
Task<void> grow(CrashWorld& world) {
  co_await world.resize("s", 300 * kKiB);
  co_await world.write("s", 150 * kKiB, 30'000);
}
Task<void> shrink(CrashWorld& world) {
  co_await world.write("s", 90'000, 20'000);
  co_await world.resize("s", 100'352);
  co_await world.resize("s", 160 * kKiB);
  co_await world.write("s", 100'352, 600);
  co_await world.write("s", 130'001, 700);
  co_await world.resize("s", 96 * kKiB);
  co_await world.resize("s", 140 * kKiB);
}
Task<void> shrink_stateless(CrashWorld& world) {
  co_await world.resize("n-less", 20'992);
  co_await world.resize("n-less", 128 * kKiB);
  co_await world.write("n-less", 20'000, 5000);
}
Task<void> create(CrashWorld& world) {
  co_await world.create(volume("new", "base", 0, CacheMode::kDirectsync, Durability::kPool));
  co_await world.write("new", 3000, 7000);
}
Task<void> create_many(CrashWorld& world) {
  CreateVolume request = volume("many", "s@old", 0, CacheMode::kWriteback, Durability::kHost);
  request.count = 5;
  co_await world.create(request);
  co_await world.write("many-3", 0, 600);
}
Task<void> remove(CrashWorld& world) {
  co_await world.remove("s");
}
Task<void> recreate(CrashWorld& world) {
  co_await world.remove("s");
  co_await world.create(volume("s", "", 64 * kKiB, CacheMode::kWritethrough, Durability::kHost));
  co_await world.write("s", 4096, 512);
}
Task<void> remove_stateless(CrashWorld& world) {
  co_await world.remove("n-less");
}
Task<void> image_from_volume(CrashWorld& world) {
  co_await world.create_image("golden", "s");
  co_await world.create(volume("clone", "golden", 0, CacheMode::kWriteback, Durability::kHost));
  co_await world.write("clone", 0, 512);
}
Task<void> image_from_snapshot(CrashWorld& world) {
  co_await world.create_image("golden", "s@old");
}
Task<void> remove_image(CrashWorld& world) {
  co_await world.remove_image("base");
}
Task<void> import(CrashWorld& world) {
  co_await world.import("fresh", patterned(world, 120 * kKiB + 512));
}
Task<void> import_abort(CrashWorld& world) {
  co_await world.import("fresh", patterned(world, 64 * kKiB), /*abort=*/true);
}

// ---- the journal's life ----

// Several times round the journal.
Task<void> roll(CrashWorld& world) {
  for (int i = 0; i < 40; ++i) {
    co_await world.write("s", world.random().below(140'000), world.random().between(1, 16'000));
    if (i % 9 == 4) co_await world.flush("s");
  }
}
Task<void> rescue(CrashWorld& world) {
  co_await world.write("s", 40'000, 30'000);
  world.expect_failures(true);  // the fault may meet the preparation of a file instead
  world.disk().set_faults("/host/journal", {.sync = sim::FaultCount::once()});
  co_await world.flush("s");
  co_await world.write("s", 0, 3000);
  co_await world.flush("s");
}
Task<void> idle(CrashWorld& world) {
  world.close_all();
  co_await world.sleep_ms(12'000);
  co_await world.write("s", 2000, 3000);
  co_await world.flush("s");
}
Task<void> age(CrashWorld& world) {
  co_await world.sleep_ms(35'000);
}

// ---- what is stored once, and what nothing reaches any more ----

Task<void> deduplicate(CrashWorld& world) {
  co_await world.copy("s", "n-back", 16'384, 49'152);
  co_await world.commit("n-back");
  co_await world.write("s", 16'384, 49'152);
  co_await world.copy("n-back", "s", 16'384, 32'768);
  co_await world.commit("s");
}
Task<void> make_garbage(CrashWorld& world) {
  for (int i = 0; i < 3; ++i) {
    co_await world.write("s", 8192, 90'000);
    co_await world.copy("s", "n-back", 20'480, 65'536);
    co_await world.commit("n-back");
    co_await world.commit("s");
    if (i == 1) co_await world.snapshot("s", "kept");
  }
  co_await world.remove_snapshot("s", "old");
  co_await world.remove_image("base");
}
void garbage(CrashWorld& world) {
  world.run(make_garbage(world));
  world.stop();  // seals the segments
  world.start();
}
Task<void> collect(CrashWorld& world) {
  co_await world.collect_garbage();
}
Task<void> collect_twice(CrashWorld& world) {
  co_await world.collect_garbage();
  co_await world.copy("n-back", "s", 20'480, 65'536);
  co_await world.commit("s");
  co_await world.remove_snapshot("s", "kept");
  co_await world.collect_garbage();
}
Task<void> commit_and_clone(CrashWorld& world) {
  co_await world.copy("n-back", "s", 20'480, 65'536);
  co_await world.commit("s");
  co_await world.snapshot("s", "new");
  co_await world.create(volume("clone", "s@new", 0, CacheMode::kWriteback, Durability::kHost));
  co_await world.write("clone", 30'000, 9000);
  co_await world.commit("clone");
  co_await world.remove_snapshot("s", "kept");
}
Task<void> collect_beside(CrashWorld& world) {
  co_await together(world, commit_and_clone(world), collect(world));
}

void stop(CrashWorld& world) {
  world.stop();
}
void restart(CrashWorld& world) {
  world.stop();
  world.start();
}
void first_start(CrashWorld& world) {
  world.start();
}
void unsettled(CrashWorld& world) {
  world.run_beside_traffic(some_writes(world), kTraffic);
}
void start_after_kill(CrashWorld& world) {
  world.crash(Crash::kKill);
  world.start();
}
void start_after_cut(CrashWorld& world) {
  world.crash(Crash::kPowerCut, sim::LossPolicy::random(world.seed()));
  world.start();
}

}  // namespace

void set_up_crash_world(CrashWorld& world, const CrashSetup& setup) {
  world.run(set_up(world, setup));
}

const std::vector<Scenario>& crash_scenarios() {
  static const std::vector<Scenario> kScenarios = {
      {.name = "write-aligned", .act = beside<write_aligned>},
      {.name = "write-unaligned", .act = beside<write_unaligned>},
      {.name = "write-spanning", .act = beside<write_spanning>},
      {.name = "write-fua", .act = beside<write_fua>},
      {.name = "zero", .act = beside<zero>},
      {.name = "trim", .act = beside<trim>},
      {.name = "flush", .act = beside<flush>},
      {.name = "commit", .act = alone<commit>},
      {.name = "commit-all", .act = beside<commit_all>},
      {.name = "commit-writing", .act = beside<while_writing<commit>>},
      {.name = "snapshot", .act = beside<snapshot>},
      {.name = "snapshot-writing", .act = beside<while_writing<snapshot>>},
      {.name = "snapshot-remove", .act = beside<remove_snapshot>},
      {.name = "rollback", .act = beside<rollback>},
      {.name = "grow", .act = beside<grow>},
      {.name = "shrink", .act = beside<shrink>},
      {.name = "shrink-stateless", .act = alone<shrink_stateless>},
      {.name = "create", .act = beside<create>},
      {.name = "create-many", .act = beside<create_many>},
      {.name = "remove", .act = beside<remove>},
      {.name = "recreate", .act = beside<recreate>},
      {.name = "remove-stateless", .act = alone<remove_stateless>},
      {.name = "image-volume", .act = beside<image_from_volume>},
      {.name = "image-snapshot", .act = beside<image_from_snapshot>},
      {.name = "image-remove", .act = beside<remove_image>},
      {.name = "import", .act = beside<import>},
      {.name = "import-abort", .act = beside<import_abort>},
      {.name = "journal-roll", .act = beside<roll, 20>},
      {.name = "journal-rescue", .act = beside<rescue>},
      {.name = "deduplicate", .act = beside<deduplicate>},
      {.name = "collect", .prepare = garbage, .act = beside<collect>},
      {.name = "collect-twice", .prepare = garbage, .act = beside<collect_twice>},
      {.name = "collect-beside", .prepare = garbage, .act = beside<collect_beside>},
      {.name = "idle", .act = alone<idle>},
      {.name = "age", .act = beside<age>},
      {.name = "stop", .prepare = unsettled, .act = stop},
      {.name = "restart", .prepare = unsettled, .act = restart, .starts_host = true},
      {.name = "first-start", .act = first_start, .whole_life = true, .starts_host = true},
      {.name = "start-after-kill",
       .prepare = unsettled,
       .act = start_after_kill,
       .starts_host = true},
      {.name = "start-after-cut",
       .prepare = unsettled,
       .act = start_after_cut,
       .starts_host = true},
  };
  return kScenarios;
}

}  // namespace squall::testing
