// A volume's index as tests model it: a map from block to place. Internal to index/'s tests.
#pragma once

#include <map>
#include <vector>

#include "base/random.h"
#include "index/block_index.h"

namespace squall::internal {

class IndexModel {
 public:
  explicit IndexModel(uint64_t size_blocks) : size_blocks_(size_blocks) {}

  uint64_t size_blocks() const { return size_blocks_; }
  size_t data_blocks() const { return places_.size(); }
  bool is_hole(uint64_t first, uint64_t end) const {
    const auto it = places_.lower_bound(first);
    return it == places_.end() || it->first >= end;
  }

  void apply(uint64_t size_blocks, const std::vector<BlockRun>& updates) {
    size_blocks_ = size_blocks;
    for (const BlockRun& run : updates) {
      erase(run.block, run.block + run.count);
      if (run.chunk.is_hole()) continue;
      for (uint32_t i = 0; i < run.count; ++i)
        places_[run.block + i] = {run.chunk, run.chunk_block + i};
    }
    erase(size_blocks, ~uint64_t{0});
  }

  // What index_lookup must answer.
  std::vector<BlockRun> look_up(uint64_t block, uint64_t count) const {
    std::vector<BlockRun> runs;
    const uint64_t end = block + count;
    for (auto it = places_.lower_bound(block); it != places_.end() && it->first < end; ++it) {
      add_hole(runs, block, it->first);
      block = it->first + 1;
      const auto& [chunk, chunk_block] = it->second;
      if (!runs.empty() && runs.back().chunk == chunk && it->first % kLeafBlocks != 0 &&
          runs.back().block + runs.back().count == it->first &&
          runs.back().chunk_block + runs.back().count == chunk_block)
        ++runs.back().count;
      else
        runs.push_back({it->first, 1, chunk, chunk_block});
    }
    add_hole(runs, block, end);
    return runs;
  }

 private:
  struct Place {
    Address chunk;
    uint32_t chunk_block = 0;
  };
  static void add_hole(std::vector<BlockRun>& runs, uint64_t block, uint64_t end) {
    if (block < end) runs.push_back({block, end - block, Address(), 0});
  }
  void erase(uint64_t first, uint64_t end) {
    places_.erase(places_.lower_bound(first), places_.lower_bound(end));
  }

  uint64_t size_blocks_;
  std::map<uint64_t, Place> places_;
};

// A sorted batch of updates as commits, imports and trims make them: clustered small writes, whole
// leaves, holes of every size.
inline std::vector<BlockRun> random_updates(Random& random, uint64_t size_blocks) {
  std::vector<BlockRun> updates;
  uint64_t block = random.below(size_blocks);
  const uint64_t wanted = random.between(1, random.chance(0.1) ? 300 : 12);
  while (updates.size() < wanted && block < size_blocks) {
    if (random.chance(0.15)) {
      const uint64_t most = random.chance(0.2) ? size_blocks - block : 3 * kLeafBlocks;
      const uint64_t count = random.between(1, std::min(most, size_blocks - block));
      updates.push_back({block, count, Address(), 0});
      block += count;
    } else {
      const uint64_t room =
          std::min({kChunkBlocksMax, kLeafBlocks - block % kLeafBlocks, size_blocks - block});
      const uint64_t count = random.between(1, room);
      const auto first = static_cast<uint32_t>(random.below(kChunkBlocksMax - count + 1));
      updates.push_back({block, count, Address::make(99, random.between(1, 50), 9), first});
      block += count;
    }
    if (random.chance(0.4)) block += random.between(1, 40);
    if (random.chance(0.05)) block += random.below(size_blocks);
  }
  return updates;
}

}  // namespace squall::internal
