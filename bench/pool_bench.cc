// The pool without a disk: what appending (compression, checksum, batches) and reading
// (from the cache, from a segment) cost in CPU.
#include <benchmark/benchmark.h>

#include <memory>
#include <vector>

#include "base/random.h"
#include "io/run_task.h"
#include "pool/pool.h"
#include "testing/memory_engine.h"
#include "testing/post_reactor.h"

namespace squall {
namespace {

// About as compressible as a system disk: half of every 64 bytes is noise.
std::vector<std::byte> make_payload(size_t bytes, uint64_t seed) {
  Random random(seed);
  std::vector<std::byte> payload(bytes, std::byte{'x'});
  for (size_t i = 0; i < bytes; ++i)
    if (i % 64 < 32) payload[i] = static_cast<std::byte>(random());
  return payload;
}

// Takes what is written and forgets it, so that appending is measured and not a disk.
class Discard final : public SegmentStore {
 public:
  Task<Result<std::vector<SegmentInfo>>> list() override { co_return std::vector<SegmentInfo>(); }
  Result<std::vector<StoreInfo>> stores() override {
    return std::vector<StoreInfo>{{.name = "nowhere"}};
  }
  Task<Result<void>> create(SegmentId, const std::string&) override { co_return Result<void>(); }
  Task<Result<void>> write(SegmentId, std::span<const iovec>, uint64_t) override {
    co_return Result<void>();
  }
  Task<Result<void>> sync(SegmentId) override { co_return Result<void>(); }
  Task<Result<size_t>> read(SegmentId id, Bytes, uint64_t) override {
    co_return fail(ErrorKind::kNotFound, "segment {}", id);
  }
  Task<Result<void>> truncate(SegmentId, uint64_t) override { co_return Result<void>(); }
  bool can_punch() const override { return true; }
  Task<Result<void>> punch(SegmentId, uint64_t, uint64_t) override { co_return Result<void>(); }
  Task<Result<void>> remove(SegmentId) override { co_return Result<void>(); }
  Task<void> release_reserve(std::string) override { co_return; }
  Task<Result<std::string>> quarantine(SegmentId) override { co_return std::string("nowhere"); }
};

class Bench {
 public:
  Bench(Codec codec, size_t cache_bytes, bool discards = false) {
    Pool::Config config{.id = Uuid::generate(), .cache_bytes = cache_bytes, .codec = codec};
    SegmentStore& segments = discards ? static_cast<SegmentStore&>(discard_) : segments_;
    pool_ = std::move(*run(Pool::open(reactor_, segments, catalog_, config)));
  }
  ~Bench() { run(pool_->stop()); }
  template <class T>
  T run(Task<T> task) {
    return run_task(reactor_, std::move(task));
  }
  Pool& pool() { return *pool_; }

 private:
  PostReactor reactor_;
  testing::MemorySegmentStore segments_{reactor_};
  Discard discard_;
  testing::MemoryMetaStore catalog_{reactor_};
  std::unique_ptr<Pool> pool_;
};

void append(benchmark::State& state) {
  const auto bytes = static_cast<size_t>(state.range(0));
  Bench bench(static_cast<Codec>(state.range(1)), 0, true);
  const auto payload = make_payload(bytes, 1);
  for (auto _ : state) CHECK(bench.run(bench.pool().append(RecordKind::kChunk, payload, {})));
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(bytes));
  state.SetLabel(std::string(to_string(static_cast<Codec>(state.range(1)))));
}
BENCHMARK(append)->ArgsProduct({{4096, 65536}, {0, 1, 2}});

void read(benchmark::State& state) {
  const auto bytes = static_cast<size_t>(state.range(0));
  const bool cached = state.range(1) != 0;
  Bench bench(Codec::kLz4, cached ? 256 * kMiB : 0);
  std::vector<Address> addresses;
  for (uint64_t i = 0; i < 512; ++i)
    addresses.push_back(
        *bench.run(bench.pool().append(RecordKind::kChunk, make_payload(bytes, i), {})));
  CHECK(bench.run(bench.pool().sync()));
  for (const Address address : addresses)
    CHECK(bench.run(bench.pool().read(RecordKind::kChunk, address)));
  size_t next = 0;
  for (auto _ : state) {
    CHECK(bench.run(bench.pool().read(RecordKind::kChunk, addresses[next])));
    next = (next + 1) % addresses.size();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(bytes));
  state.SetLabel(cached ? "cached" : "from the segment, lz4");
}
BENCHMARK(read)->ArgsProduct({{4096, 65536}, {1, 0}});

void read_cached(benchmark::State& state) {
  Bench bench(Codec::kLz4, 64 * kMiB);
  const auto payload = make_payload(4096, 1);
  const Address address = *bench.run(bench.pool().append(RecordKind::kPage, payload, {}));
  for (auto _ : state) benchmark::DoNotOptimize(bench.pool().read_cached(address));
}
BENCHMARK(read_cached);

}  // namespace
}  // namespace squall
