// Blocks in, chunks and index updates out: what the updates say must be what was put in, and the
// chunks must keep the rules (no leaf crossed, at most 64 KiB, aligned where bulk allows).
#include "volume/chunk_packer.h"

#include <gtest/gtest.h>

#include <map>
#include <optional>

#include "base/random.h"
#include "io/run_task.h"
#include "sim/sim_reactor.h"
#include "testing/memory_record_store.h"

namespace squall {
namespace {

using Block = std::vector<std::byte>;

Block filled(uint8_t fill) {
  return Block(kBlockBytes, static_cast<std::byte>(fill));
}

struct Packed {
  sim::SimDisk disk{1};
  sim::SimReactor reactor{1, disk};
  MemoryRecordStore records{reactor, {}};
  ChunkPacker packer{records, {}};
  std::map<uint64_t, uint8_t> expected;  // 0: a hole

  void add(uint64_t block, uint8_t fill) {
    const Block data = filled(fill);
    ASSERT_TRUE(run_task(reactor, packer.add(block, data)));
    expected[block] = fill;
  }
  void add_hole(uint64_t block, uint64_t count) {
    ASSERT_TRUE(run_task(reactor, packer.add_hole(block, count)));
    for (uint64_t i = 0; i < count; ++i) expected[block + i] = 0;
  }
  void finish_and_check() {
    ASSERT_TRUE(run_task(reactor, packer.finish()));
    uint64_t at = 0;
    size_t covered = 0;
    for (const BlockRun& run : packer.runs()) {
      ASSERT_GE(run.block, at) << "sorted, not overlapping";
      ASSERT_GT(run.count, 0);
      at = run.block + run.count;
      covered += run.count;
      if (!run.chunk.is_hole()) {
        ASSERT_EQ(run.block / kLeafBlocks, (at - 1) / kLeafBlocks) << "a leaf was crossed";
      }
      for (uint64_t i = 0; i < run.count; ++i) check_block(run, i);
    }
    ASSERT_EQ(covered, expected.size());
  }
  void check_block(const BlockRun& run, uint64_t i) {
    const auto it = expected.find(run.block + i);
    ASSERT_NE(it, expected.end()) << run.block + i;
    ASSERT_EQ(run.chunk.is_hole(), it->second == 0) << run.block + i;
    if (run.chunk.is_hole()) return;
    const ConstBytes chunk = records.payload(run.chunk);
    ASSERT_LE(chunk.size(), kChunkBlocksMax * kBlockBytes);
    const uint64_t offset = (run.chunk_block + i) * kBlockBytes;
    ASSERT_LE(offset + kBlockBytes, chunk.size());
    ASSERT_EQ(chunk[offset], static_cast<std::byte>(it->second)) << run.block + i;
    ASSERT_EQ(chunk[offset + kBlockBytes - 1], static_cast<std::byte>(it->second));
  }
};

TEST(ChunkPacker, BulkDataMakesAlignedFullChunks) {
  Packed packed;
  for (uint64_t block = 0; block < 8 * kChunkBlocksMax; ++block)
    packed.add(block, static_cast<uint8_t>(1 + block % 250));
  packed.finish_and_check();
  ASSERT_EQ(packed.packer.runs().size(), 8);
  for (size_t i = 0; i < 8; ++i) {
    EXPECT_EQ(packed.packer.runs()[i].block, i * kChunkBlocksMax);
    EXPECT_EQ(packed.packer.runs()[i].count, kChunkBlocksMax);
  }
  EXPECT_EQ(packed.records.record_count(), 8);
}

TEST(ChunkPacker, ZeroBlocksAreNotStored) {
  Packed packed;
  for (uint64_t block = 0; block < 100; ++block) packed.add(block, 0);
  packed.add_hole(100, 1'000'000);
  packed.finish_and_check();
  EXPECT_EQ(packed.records.record_count(), 0);
  EXPECT_EQ(packed.packer.runs().size(), 1);
}

TEST(ChunkPacker, ScatteredBlocksShareAChunkButNotAcrossLeaves) {
  Packed packed;
  for (uint64_t block = 0; block < 10; ++block) packed.add(block * 7, 1);
  packed.add(kLeafBlocks - 1, 2);
  packed.add(kLeafBlocks, 3);
  packed.finish_and_check();
  EXPECT_LE(packed.records.record_count(), 3);
}

TEST(ChunkPacker, RandomBlocks) {
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    Packed packed;
    const double gap = random.chance(0.5) ? 0.05 : 0.6;
    uint64_t block = random.below(2000);
    for (int i = 0; i < 300; ++i) {
      if (random.chance(gap)) block += random.between(1, 40);
      const uint64_t dice = random.below(10);
      if (dice == 0) {
        const uint64_t count = random.between(1, 700);
        packed.add_hole(block, count);
        block += count;
      } else {
        packed.add(block++, dice == 1 ? 0 : static_cast<uint8_t>(random.between(1, 255)));
      }
    }
    packed.finish_and_check();
    if (HasFatalFailure()) return;
  }
}

TEST(ChunkPacker, AFailedAppendIsReported) {
  Packed packed;
  packed.add(1, 1);
  packed.records.fail_call(1);
  EXPECT_FALSE(run_task(packed.reactor, packed.packer.finish()));
}

}  // namespace
}  // namespace squall
