// Copying and comparing disks: units of 2 MiB (a leaf of a volume's index), aligned, each moved
// once, many in flight; holes are skipped by the source's map, zeros by looking. Ctrl-C (see
// interrupt.h) ends either with kCancelled.
#pragma once

#include <cstdint>

#include "cli/block_io.h"
#include "cli/progress.h"

namespace squall {

inline constexpr uint64_t kCopyUnitBytes = 2 * kMiB;
inline constexpr size_t kCopyUnitsInFlight = 16;

struct CopyStats {
  uint64_t read_bytes = 0;
  uint64_t written_bytes = 0;
};

// Copies all data of `source` to the same place in `sink`, which reads as zeros before, and flushes
// it. Both are useless after an error.
Result<CopyStats> copy_blocks(BlockSource& source, BlockSink& sink, Progress& progress);

// Reads one place, waiting for it.
Result<void> read_block(BlockSource& source, uint64_t offset, Bytes to);

// kCorrupt with the first differing offset when they are not the same, byte for byte.
Result<void> compare_blocks(BlockSource& a, BlockSource& b, Progress& progress);

}  // namespace squall
