// The `file:` engine on the host's file system: catalog transactions alone and in groups, opening
// and listing 10,000 entries, record-sized reads of a segment with and without the page cache.
//
// Files lie in TMPDIR (default /tmp): run it on the file system that a pool would use.
#include <benchmark/benchmark.h>
#include <stdlib.h>

#include <filesystem>

#include "base/random.h"
#include "engine/file_engine.h"
#include "io/posix_file_system.h"
#include "io/run_task.h"
#include "io/uring_reactor.h"

namespace squall {
namespace {

struct Pool {
  explicit Pool(bool direct_reads = true) {
    std::string name = std::filesystem::temp_directory_path() / "squall-bench-XXXXXX";
    CHECK(::mkdtemp(name.data()) != nullptr);
    directory = name;
    CHECK(init_file_pool(files, directory, {}).has_value());
    FileEngineOptions options;
    options.segments.direct_reads = direct_reads;
    auto opened = open_file_engine(*reactor, files, directory, options);
    CHECK(opened.has_value());
    engine.emplace(std::move(*opened));
  }
  ~Pool() {
    run_task(*reactor, engine->close());
    std::filesystem::remove_all(directory);
  }
  void put_volumes(size_t count) {
    size_t left = count;
    for (size_t i = 0; i < count; ++i)
      spawn(engine->meta->commit(
                {fmt::format("v/vm-{:05}", i), {}, {{"head", std::string(150, 'h')}}}),
            [&](Result<void> result) {
              CHECK(result.has_value());
              --left;
            });
    while (left > 0) CHECK(reactor->run_once());
  }

  std::string directory;
  PosixFileSystem files;
  std::unique_ptr<UringReactor> reactor = std::move(*UringReactor::create());
  std::optional<FileEngine> engine;
};

// range(0) transactions issued together.
void BM_CatalogCommit(benchmark::State& state) {
  Pool pool;
  for (auto _ : state) pool.put_volumes(static_cast<size_t>(state.range(0)));
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(BM_CatalogCommit)
    ->Arg(1)
    ->Arg(10)
    ->Arg(1000)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

// The yardstick for a commit: 4 KiB written and synced.
void BM_WriteAndSync(benchmark::State& state) {
  Pool pool;
  const int handle =
      *pool.files.open(pool.directory + "/yardstick", {.write = true, .create = true});
  const AlignedBuffer buffer(4096);
  uint64_t offset = 0;
  for (auto _ : state) {
    CHECK(pool.files.write(handle, buffer.bytes(), offset).has_value());
    CHECK(pool.files.sync(handle).has_value());
    offset += buffer.size();
  }
  pool.files.close(handle);
}
BENCHMARK(BM_WriteAndSync)->Unit(benchmark::kMillisecond)->UseRealTime();

void BM_CatalogOpen(benchmark::State& state) {
  Pool pool;
  pool.put_volumes(static_cast<size_t>(state.range(0)));
  run_task(*pool.reactor, pool.engine->close());
  for (auto _ : state) {
    auto engine = open_file_engine(*pool.reactor, pool.files, pool.directory);
    CHECK(engine.has_value());
    state.PauseTiming();
    run_task(*pool.reactor, engine->close());
    state.ResumeTiming();
  }
  pool.engine.emplace(std::move(*open_file_engine(*pool.reactor, pool.files, pool.directory)));
}
BENCHMARK(BM_CatalogOpen)->Arg(10000)->Unit(benchmark::kMillisecond)->UseRealTime();

void BM_CatalogList(benchmark::State& state) {
  Pool pool;
  pool.put_volumes(static_cast<size_t>(state.range(0)));
  for (auto _ : state) {
    const auto entries = run_task(*pool.reactor, pool.engine->meta->list("v/", "head"));
    CHECK(entries->size() == static_cast<size_t>(state.range(0)));
  }
}
BENCHMARK(BM_CatalogList)->Arg(10000)->Unit(benchmark::kMillisecond)->UseRealTime();

void BM_CatalogGet(benchmark::State& state) {
  Pool pool;
  pool.put_volumes(100);
  for (auto _ : state)
    CHECK(run_task(*pool.reactor, pool.engine->meta->get("v/vm-00050", "head"))->has_value());
}
BENCHMARK(BM_CatalogGet)->Unit(benchmark::kMicrosecond)->UseRealTime();

// One record of range(0) bytes at a time at random sectors of a 256 MiB segment; range(1): direct.
void BM_SegmentRead(benchmark::State& state) {
  constexpr uint64_t kSegmentBytes = 256 * kMiB;
  Pool pool(state.range(1) != 0);
  SegmentStore& segments = *pool.engine->segments;
  CHECK(run_task(*pool.reactor, segments.create(1, kDefaultStore)).has_value());
  Random random(1);
  AlignedBuffer piece(1 * kMiB);
  for (size_t i = 0; i < piece.size(); i += 8) store_le<uint64_t>(piece.data() + i, random());
  for (uint64_t at = 0; at < kSegmentBytes; at += piece.size()) {
    const iovec iov{piece.data(), piece.size()};
    CHECK(run_task(*pool.reactor, segments.write(1, std::span(&iov, 1), at)).has_value());
  }
  CHECK(run_task(*pool.reactor, segments.sync(1)).has_value());
  std::vector<std::byte> record(static_cast<size_t>(state.range(0)));
  for (auto _ : state) {
    const uint64_t sector = random.below((kSegmentBytes - record.size()) / 512);
    const auto got = run_task(*pool.reactor, segments.read(1, record, sector * 512));
    CHECK(got.has_value() && *got == record.size());
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(BM_SegmentRead)
    ->ArgsProduct({{4608, 33280, 66048}, {0, 1}})
    ->ArgNames({"bytes", "direct"})
    ->Unit(benchmark::kMicrosecond)
    ->UseRealTime();

void BM_LogAppend(benchmark::State& state) {
  Pool pool;
  const std::vector<std::byte> bytes(4096);
  for (auto _ : state)
    CHECK(run_task(*pool.reactor, pool.engine->logs->append(1, 1, bytes)).has_value());
}
BENCHMARK(BM_LogAppend)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace squall
