// The index and the record cache on records in memory: what a lookup costs at any depth of
// snapshots, and what an update writes.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "base/random.h"
#include "cache/record_cache.h"
#include "index/block_index.h"
#include "io/run_task.h"
#include "testing/memory_record_store.h"
#include "testing/post_reactor.h"

namespace squall {
namespace {

constexpr uint64_t kImageBlocks = 10 * kGiB / kBlockBytes;
constexpr uint64_t kImageChunks = kImageBlocks / kChunkBlocksMax;

// A full 10 GiB image in chunks of 64 KiB, every page in memory.
class Tree {
 public:
  Tree() {
    std::vector<BlockRun> runs;
    runs.reserve(kImageChunks);
    for (uint64_t i = 0; i < kImageChunks; ++i) runs.push_back(chunk_at(i));
    update(runs);
  }
  void update(const std::vector<BlockRun>& runs) {
    root_ = *run_task(reactor_, index_update(store_, root_, kImageBlocks, runs, placement_));
    CHECK(run_task(reactor_, store_.sync()));
  }
  void look_up(uint64_t block, uint64_t count, std::vector<BlockRun>& runs) {
    runs.clear();
    CHECK(run_task(reactor_, index_lookup(store_, root_, block, count, runs)));
  }
  // A whole new chunk at the image's `n`-th.
  BlockRun chunk_at(uint64_t n) {
    ++chunks_written_;
    const Address address =
        Address::make(1000 + chunks_written_ / 32000, chunks_written_ % 32000 * 129 + 1, 100);
    return {n * kChunkBlocksMax, kChunkBlocksMax, address, 0};
  }
  const MemoryRecordStore& store() const { return store_; }

 private:
  PostReactor reactor_;
  MemoryRecordStore store_{reactor_, {.seed = 1, .suspend_chance = 0, .cached_chance = 1}};
  Placement placement_;
  IndexRoot root_;
  uint64_t chunks_written_ = 0;
};

// The first 2 MiB after range(0) snapshots, each followed by writes to the start and elsewhere.
void look_up_2mib_after_snapshots(benchmark::State& state) {
  Tree tree;
  Random random(1);
  for (int64_t i = 0; i < state.range(0); ++i) {
    const uint64_t elsewhere = random.between(kLeafBlocks / kChunkBlocksMax, kImageChunks - 1);
    tree.update(
        {tree.chunk_at(random.below(kLeafBlocks / kChunkBlocksMax)), tree.chunk_at(elsewhere)});
  }
  std::vector<BlockRun> runs;
  for (auto _ : state) {
    tree.look_up(0, kLeafBlocks, runs);
    benchmark::DoNotOptimize(runs.data());
  }
  state.counters["runs"] = static_cast<double>(runs.size());
}
BENCHMARK(look_up_2mib_after_snapshots)->Arg(0)->Arg(12)->Arg(50)->Arg(1000);

void look_up_4kib(benchmark::State& state) {
  Tree tree;
  Random random(2);
  std::vector<BlockRun> runs;
  for (auto _ : state) {
    tree.look_up(random.below(kImageBlocks), 1, runs);
    benchmark::DoNotOptimize(runs.data());
  }
}
BENCHMARK(look_up_4kib);

// One commit of range(0) chunks of 64 KiB, at random places or (range(1)) in one sequence.
void update_chunks(benchmark::State& state) {
  Tree tree;
  Random random(3);
  const auto chunks = static_cast<uint64_t>(state.range(0));
  const uint64_t appends_before = tree.store().counts().appends;
  const uint64_t bytes_before = tree.store().payload_bytes();
  for (auto _ : state) {
    state.PauseTiming();
    std::vector<BlockRun> runs;
    runs.reserve(chunks);
    const uint64_t stride = state.range(1) != 0 ? 1 : kImageChunks / chunks;
    uint64_t at = random.below(stride + 1);
    for (uint64_t i = 0; i < chunks; ++i, at += stride)
      runs.push_back(tree.chunk_at(at % kImageChunks));
    std::ranges::sort(runs, {}, &BlockRun::block);
    state.ResumeTiming();
    tree.update(runs);
  }
  const auto updates = static_cast<double>(state.iterations());
  state.counters["pages"] =
      static_cast<double>(tree.store().counts().appends - appends_before) / updates;
  state.counters["page_bytes"] =
      static_cast<double>(tree.store().payload_bytes() - bytes_before) / updates;
  state.SetItemsProcessed(static_cast<int64_t>(chunks) * static_cast<int64_t>(updates));
}
BENCHMARK(update_chunks)
    ->ArgNames({"chunks", "sequential"})
    ->Args({1, 0})
    ->Args({1000, 0})
    ->Args({1000, 1})
    ->Iterations(100);

class EmptyPayload : public Payload {
 public:
  EmptyPayload() : Payload({}) {}
};

// Reads through a cache of range(0) MiB that a tenth of the records fit in.
void cache_read_through(benchmark::State& state) {
  constexpr size_t kCostBytes = 64 * kKiB;
  const size_t budget_bytes = static_cast<size_t>(state.range(0)) * kMiB;
  RecordCache cache(budget_bytes);
  Random random(4);
  const uint64_t records = 10 * budget_bytes / kCostBytes;
  const auto payload = std::make_shared<EmptyPayload>();
  for (auto _ : state) {
    const uint64_t n = random.chance(0.9) ? random.below(records / 12) : random.below(records);
    const Address address = Address::make(1 + n / 30000, n % 30000 * 128 + 1, 128);
    if (!cache.find(address)) cache.insert(address, payload, kCostBytes);
  }
  const auto stats = cache.stats();
  state.counters["hit_ratio"] =
      static_cast<double>(stats.hits) / static_cast<double>(stats.hits + stats.misses);
}
BENCHMARK(cache_read_through)->Arg(256)->Arg(4096);

}  // namespace
}  // namespace squall
