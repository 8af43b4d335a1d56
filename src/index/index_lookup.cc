// Lookup is the read path's first step, so it is one coroutine: no frame per level, no suspension
// and no allocation when the pages are in memory. It descends from the root for every leaf, but
// keeps the pages of the last path, so that a long range opens each page once.
#include <algorithm>
#include <array>
#include <utility>

#include "index/block_index.h"
#include "index/index_page_reader.h"

namespace squall {
namespace {

// Appends runs, merging where two are one. Runs of other calls are left alone.
class RunAppender {
 public:
  explicit RunAppender(std::vector<BlockRun>& runs) : runs_(runs), own_from_(runs.size()) {}

  void add(const BlockRun& run) {
    if (runs_.size() > own_from_ && continues(runs_.back(), run))
      runs_.back().count += run.count;
    else
      runs_.push_back(run);
  }
  void add_hole(uint64_t block, uint64_t end) {
    if (block < end) add({.block = block, .count = end - block, .chunk = {}, .chunk_block = 0});
  }

 private:
  // Data never continues across a leaf, so that what a lookup returns an update accepts.
  static bool continues(const BlockRun& last, const BlockRun& next) {
    if (last.chunk.is_hole() || next.chunk.is_hole())
      return last.chunk.is_hole() && next.chunk.is_hole();
    return last.chunk == next.chunk && last.chunk_block + last.count == next.chunk_block &&
           next.block % kLeafBlocks != 0;
  }

  std::vector<BlockRun>& runs_;
  size_t own_from_;
};

// The part of [block, end) that lies in `leaf`.
Result<void> look_up_in_leaf(const PageView& leaf, uint64_t block, uint64_t end,
                             RunAppender& runs) {
  const uint64_t base = leaf.first_block();
  end = std::min(end, base + kLeafBlocks);
  for (unsigned i = leaf.find_extent(static_cast<unsigned>(block - base)); i < leaf.count(); ++i) {
    TRY_ASSIGN(const PageExtent extent, leaf.extent(i));
    const uint64_t first = base + extent.first_block;
    if (first >= end) break;
    if (first > block) runs.add_hole(block, first);
    const uint64_t from = std::max(first, block);
    if (from >= first + extent.count)
      return fail(ErrorKind::kCorrupt, "index leaf at block {}: extents out of order", base);
    const uint64_t until = std::min(end, first + extent.count);
    runs.add({.block = from,
              .count = until - from,
              .chunk = extent.chunk,
              .chunk_block = static_cast<uint32_t>(extent.chunk_block + (from - first))});
    block = until;
  }
  runs.add_hole(block, end);
  return {};
}

struct PathPage {
  Address address;
  internal::HeldPage held;
};

}  // namespace

Task<Result<void>> index_lookup(RecordStore& store, IndexRoot root, uint64_t block, uint64_t count,
                                std::vector<BlockRun>& runs) {
  CO_TRY(internal::check_root(root));
  const uint64_t end = block + count;
  CHECK(end >= block);
  const uint64_t reach = root.height == 0 ? 0 : page_span_blocks(root.height - 1u);
  RunAppender found(runs);
  std::array<PathPage, kPageLevelMax + 1> path;

  while (block < std::min(end, reach)) {
    Address address = root.address;
    for (unsigned level = root.height - 1u;; --level) {
      PathPage& page = path[level];
      if (page.address != address) {
        PayloadRef payload = store.read_cached(address);
        if (!payload) {
          CO_TRY_ASSIGN(payload, co_await store.read(RecordKind::kPage, address));
        }
        CO_TRY_ASSIGN(page.held, internal::hold_page(std::move(payload), address, level,
                                                     round_down(block, page_span_blocks(level))));
        page.address = address;
      }
      const PageView& view = page.held.view;
      if (level == 0) {
        CO_TRY(look_up_in_leaf(view, block, end, found));
        block = view.first_block() + kLeafBlocks;
        break;
      }
      const uint64_t slot_span = page_span_blocks(level - 1);
      const auto slot = static_cast<unsigned>((block - view.first_block()) / slot_span);
      CO_TRY_ASSIGN(address, view.child(slot));
      if (address.is_hole()) {
        const uint64_t next = view.first_block() + view.next_child(slot) * slot_span;
        found.add_hole(block, std::min(end, next));
        block = next;
        break;
      }
    }
  }
  found.add_hole(block, end);
  co_return Result<void>();
}

}  // namespace squall
