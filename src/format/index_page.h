// Index pages: the nodes of the direct block index, as bytes (docs/FORMAT.md, "Index page"). Pure
// encode and decode, no I/O. A decoder trusts nothing: any bytes give a value or an error, never an
// access outside them.
//
// PageView reads an encoded page in place and without allocation, since encoded pages are what the
// record cache holds; open() is O(1) and every access checks what it returns. decode_* and
// PageView::validate check the whole page.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "format/address.h"

namespace squall {

constexpr uint64_t kLeafBlocks = 512;
constexpr uint64_t kLeafBytes = kLeafBlocks * kBlockBytes;
constexpr uint64_t kChunkBlocksMax = 16;  // 64 KiB
constexpr unsigned kPageFanout = 512;
constexpr unsigned kPageLevelMax = 4;  // level 0 is a leaf; level 4 reaches 2^45 blocks, 128 PiB

// Blocks that a page of `level` covers.
constexpr uint64_t page_span_blocks(unsigned level) {
  return uint64_t{1} << (9 * (level + 1));
}

// A run of a leaf's blocks that lies contiguously inside one chunk.
struct PageExtent {
  uint16_t first_block = 0;  // within the leaf, 0..511
  uint16_t count = 0;        // 1..16; first_block + count <= 512
  uint16_t chunk_block = 0;  // the run's first block within the chunk; + count <= 16
  Address chunk;             // never a hole
  bool operator==(const PageExtent&) const = default;
};

// A leaf's extents, sorted and not overlapping; blocks between them are holes. Never empty.
struct LeafPage {
  uint64_t first_block = 0;  // of the volume; a multiple of the page's span
  std::vector<PageExtent> extents;
  bool operator==(const LeafPage&) const = default;
};

// The pages one level below, a hole where there is none. At least one is not a hole.
struct InnerPage {
  uint8_t level = 1;
  uint64_t first_block = 0;
  std::array<Address, kPageFanout> children{};
  bool operator==(const InnerPage&) const = default;
};

// Encoding CHECKs the invariants above.
std::vector<std::byte> encode_leaf_page(const LeafPage& page);
std::vector<std::byte> encode_inner_page(const InnerPage& page);

// kCorrupt, or kUnsupported for a version this build cannot read.
Result<LeafPage> decode_leaf_page(ConstBytes bytes);
Result<InnerPage> decode_inner_page(ConstBytes bytes);

// An encoded page, read in place. The bytes must outlive the view. A plain value.
class PageView {
 public:
  // Checks header and sizes. kCorrupt, kUnsupported.
  static Result<PageView> open(ConstBytes bytes);
  // The same for a page that must be the one of `level` at `first_block`.
  static Result<PageView> open(ConstBytes bytes, unsigned level, uint64_t first_block);

  unsigned level() const { return level_; }
  uint64_t first_block() const { return first_block_; }
  unsigned count() const { return count_; }  // extents, or children that are not holes

  // Inner pages, slot < 512: the child's address or a hole; kCorrupt.
  Result<Address> child(unsigned slot) const;
  // Inner pages: the first slot >= `slot` that is not a hole, or 512.
  unsigned next_child(unsigned slot) const;
  // Leaves, index < count(); kCorrupt.
  Result<PageExtent> extent(unsigned index) const;
  // Leaves: the first extent that ends beyond `block` of the leaf, or count().
  unsigned find_extent(unsigned block) const;

  // Inner pages: all of them, holes included; kCorrupt.
  Result<void> read_children(std::array<Address, kPageFanout>& children) const;
  // Everything that open() and single accesses leave unchecked: order, overlap, every entry.
  Result<void> validate() const;

 private:
  uint64_t bitmap_word(unsigned word) const;
  Result<Address> child_at(unsigned slot, unsigned rank) const;  // `rank`: children before it
  bool is_leaf() const { return level_ == 0; }
  std::unexpected<Error> corrupt(const char* what, unsigned index) const;

  const std::byte* entries_ = nullptr;
  uint64_t first_block_ = 0;
  uint16_t count_ = 0;
  uint8_t level_ = 0;
};

}  // namespace squall
