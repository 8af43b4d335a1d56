// ChunkPacker: turns a volume's 4 KiB blocks, given in ascending order, into chunk records and the
// index updates that point at them. Zero blocks become holes. No chunk crosses a leaf; a chunk ends
// at a 64 KiB boundary of the volume when it is at least half full, so that aligned reads of bulk
// data touch one chunk. One use, one reactor's thread.
#pragma once

#include <vector>

#include "base/buffer.h"
#include "index/block_index.h"

namespace squall {

class ChunkPacker {
 public:
  ChunkPacker(RecordStore& records, Placement placement)
      : records_(records),
        placement_(std::move(placement)),
        buffer_(kChunkBlocksMax * kBlockBytes) {}

  // `data` is one block; it stays the caller's until the call returns.
  Task<Result<void>> add(uint64_t block, ConstBytes data);
  Task<Result<void>> add_hole(uint64_t block, uint64_t count);
  // Appends what is left. Afterwards runs() is complete: sorted, not overlapping.
  Task<Result<void>> finish();
  std::vector<BlockRun>& runs() { return runs_; }

 private:
  Task<Result<void>> cut();

  RecordStore& records_;
  Placement placement_;
  AlignedBuffer buffer_;
  uint64_t filled_blocks_ = 0;
  std::vector<size_t> open_runs_;  // those that wait for the open chunk's address
  std::vector<BlockRun> runs_;
};

}  // namespace squall
