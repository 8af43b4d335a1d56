// The direct block index: a persistent (copy-on-write) radix tree from a volume's 4 KiB blocks to
// places in chunk records. Inner pages hold 512 addresses; a leaf covers 2 MiB (512 blocks) with up
// to 512 extents, each a run of blocks that lies contiguously inside one chunk; no chunk crosses a
// leaf. A tree of height 1 is one leaf; each level more multiplies the reach by 512. A hole costs
// nothing: an absent extent, or a hole address in an inner page. Snapshots and clones share roots,
// hence pages. Pure but for the RecordStore; holds no state of its own; one reactor's thread.
//
// Errors are the store's, or kCorrupt when a page is not what its place in the tree says.
#pragma once

#include <vector>

#include "format/index_page.h"
#include "pool/record_store.h"

namespace squall {

// The address of a tree's top page and its height. Height 0 with a hole address: all holes.
struct IndexRoot {
  Address address;
  uint8_t height = 0;
  bool operator==(const IndexRoot&) const = default;
};

// A run of blocks and where it lies: `chunk_block` is the run's first block within the chunk's
// decompressed payload. A hole address means the run reads as zeros.
struct BlockRun {
  uint64_t block = 0;
  uint64_t count = 0;
  Address chunk;
  uint32_t chunk_block = 0;
  bool operator==(const BlockRun&) const = default;
};

// Appends to `runs` the mapping of [block, block + count), in order, without gaps: holes are runs
// too (merged when adjacent). Blocks beyond the tree's reach are holes. Suspends only for pages
// that are not in memory. After an error `runs` may hold a part of the answer.
Task<Result<void>> index_lookup(RecordStore& store, IndexRoot root, uint64_t block, uint64_t count,
                                std::vector<BlockRun>& runs);

// The tree with `updates` applied: sorted by block, not overlapping, none crossing a leaf unless a
// hole. Reads and rewrites each touched page once; appends pages bottom-up through `store`; frees
// nothing. What a hole covers whole is dropped without being read; a page that comes out as it was
// keeps its address. Pages that become all holes disappear; the height shrinks and grows with
// `size_blocks`, beyond which everything is cut off. Not durable until store.sync(). After an error
// the old tree is as good as before.
Task<Result<IndexRoot>> index_update(RecordStore& store, IndexRoot root, uint64_t size_blocks,
                                     const std::vector<BlockRun>& updates,
                                     const Placement& placement);

// Visits every page and every distinct run's chunk address reachable from `root` (for mark, check
// and statistics): pages and runs each in the order of blocks, a page before what lies below it.
// Every page is validated whole. `page` returns false to skip a subtree already seen.
struct IndexVisitor {
  virtual ~IndexVisitor() = default;
  virtual bool page(Address address, unsigned level, uint64_t first_block) = 0;
  virtual void run(const BlockRun& run) = 0;
  // After every few pages: a long walk over cached pages would not suspend otherwise. An error ends
  // the walk.
  virtual Task<Result<void>> rest([[maybe_unused]] uint64_t pages) { co_return Result<void>(); }
};
Task<Result<void>> index_walk(RecordStore& store, IndexRoot root, IndexVisitor& visitor);

}  // namespace squall
