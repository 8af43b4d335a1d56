// ChunkPacker: turns a volume's 4 KiB blocks, given in ascending order, into chunk records and the
// index updates that point at them. Zero blocks become holes; blocks that the pool stores already
// become references to the chunks that hold them. No chunk crosses a leaf; a chunk ends at an
// aligned boundary of the volume when it is at least half full, so that aligned reads of bulk data
// touch one chunk. One use, one reactor's thread.
#pragma once

#include <vector>

#include "base/buffer.h"
#include "index/block_index.h"
#include "pool/deduplicator.h"

namespace squall {

class ChunkPacker {
 public:
  struct Options {
    bool deduplicate = true;  // where the store can
    uint64_t chunk_blocks = kChunkBlocksMax;
  };
  ChunkPacker(RecordStore& records, Placement placement, Options options);
  ChunkPacker(RecordStore& records, Placement placement)
      : ChunkPacker(records, std::move(placement), Options()) {}

  // `data` is one block; it stays the caller's until the call returns.
  Task<Result<void>> add(uint64_t block, ConstBytes data);
  Task<Result<void>> add_hole(uint64_t block, uint64_t count);
  // Appends what is left. Afterwards runs() is complete: sorted, not overlapping.
  Task<Result<void>> finish();
  std::vector<BlockRun>& runs() { return runs_; }

 private:
  // Blocks that wait to be looked up together, and the holes between them.
  struct Waiting {
    uint64_t block = 0;
    uint64_t count = 1;
    bool hole = false;
  };

  Task<Result<void>> settle(bool is_last);
  uint32_t hold_back(const std::vector<Deduplicator::Hit>& hits) const;
  void keep_waiting(size_t settled, uint32_t kept_blocks);
  Task<Result<void>> store(uint64_t block, ConstBytes data, const Fingerprint* fingerprint);
  void refer(uint64_t block, Address chunk, uint32_t chunk_block);
  void put_hole(uint64_t block, uint64_t count);
  Task<Result<void>> cut();

  RecordStore& records_;
  Placement placement_;
  Options options_;
  Deduplicator* dedup_;  // null: none

  AlignedBuffer window_;
  std::vector<Fingerprint> window_fingerprints_;  // of the blocks in window_
  std::vector<Waiting> waiting_;

  AlignedBuffer chunk_;  // the open one
  uint64_t filled_blocks_ = 0;
  std::vector<Fingerprint> chunk_fingerprints_;
  std::vector<size_t> open_runs_;  // those that wait for the open chunk's address
  std::vector<BlockRun> runs_;
};

}  // namespace squall
