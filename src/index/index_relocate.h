// IndexRelocation: copies what some trees refer to away from where it lies, so that its old place
// can be given up. The new trees read the same. What is shared stays shared: a page or block that
// several trees reach is copied once, by a memory of what has gone where, kept for as long as the
// object lives. One reactor's thread; `store` outlives it.
#pragma once

#include <array>
#include <functional>
#include <unordered_map>
#include <vector>

#include "index/block_index.h"
#include "pool/fingerprint.h"

namespace squall {

class IndexRelocation {
 public:
  // Says which records, chunks and pages, are to be left.
  using Leaves = std::function<bool(Address)>;
  // Called after every few pages with the bytes read and written; an error ends the work.
  using Rest = std::function<Task<Result<void>>(uint64_t bytes)>;

  IndexRelocation(RecordStore& store, Leaves leaves, Rest rest)
      : store_(store), leaves_(std::move(leaves)), rest_(std::move(rest)) {}

  // The tree without references to what is to be left; `root` itself when it has none. Blocks that
  // move are packed anew with their neighbours in the leaf. Not durable until store.sync().
  Task<Result<IndexRoot>> relocate(IndexRoot root, Placement placement);

  uint64_t moved_bytes() const { return moved_bytes_; }  // as they lie in the new place

 private:
  struct Place {
    Address chunk;
    uint16_t block = 0;
  };
  // Where the blocks of a chunk that is left have gone.
  using MovedChunk = std::array<Place, kChunkBlocksMax>;
  class LeafPacker;

  Task<Result<Address>> relocate_page(Address old, unsigned level, uint64_t first_block,
                                      const Placement& placement);
  Task<Result<Address>> relocate_leaf(Address old, uint64_t first_block,
                                      const Placement& placement);
  Task<Result<Address>> relocate_inner(Address old, unsigned level, uint64_t first_block,
                                       const Placement& placement);
  Task<Result<void>> warm(const InnerPage& page, unsigned slot);
  Task<Result<void>> move_chunks(const LeafPage& leaf, const Placement& placement);
  bool has_unmoved(const PageExtent& extent) const;
  Task<Result<void>> add_blocks(PageExtent extent, const Payload& payload, LeafPacker& packer);
  void add_extent(const PageExtent& extent, std::vector<PageExtent>& to) const;
  Task<Result<Address>> append_page(ConstBytes bytes, const Placement& placement);

  RecordStore& store_;
  Leaves leaves_;
  Rest rest_;
  Fingerprinter fingerprinter_;
  std::unordered_map<Address, Address> pages_;  // every page seen, to its new place
  std::unordered_map<Address, MovedChunk> chunks_;
  uint64_t moved_bytes_ = 0;
};

}  // namespace squall
