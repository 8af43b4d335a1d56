#include "index/leaf_merge.h"

#include <algorithm>

namespace squall::internal {
namespace {

// Two sorted sequences in one pass: what the updates leave of the old extents is copied up to each
// update, then the update itself.
class LeafMerger {
 public:
  explicit LeafMerger(const std::vector<PageExtent>& old) : old_(old) {
    merged_.reserve(old.size());
  }

  // Old extents' blocks in [from_, end).
  void copy_until(unsigned end) {
    for (; next_ < old_.size() && old_[next_].first_block < end; ++next_) {
      const PageExtent& extent = old_[next_];
      const unsigned extent_end = extent.first_block + extent.count;
      const unsigned first = std::max<unsigned>(extent.first_block, from_);
      const unsigned last = std::min(extent_end, end);
      if (first < last)
        push({.first_block = static_cast<uint16_t>(first),
              .count = static_cast<uint16_t>(last - first),
              .chunk_block = static_cast<uint16_t>(extent.chunk_block + first - extent.first_block),
              .chunk = extent.chunk});
      if (extent_end > end) break;
    }
    from_ = std::max(from_, end);
  }
  void skip_until(unsigned end) { from_ = end; }

  void push(const PageExtent& extent) {
    if (!merged_.empty()) {
      PageExtent& last = merged_.back();
      if (last.chunk == extent.chunk && last.first_block + last.count == extent.first_block &&
          last.chunk_block + last.count == extent.chunk_block) {
        last.count += extent.count;
        return;
      }
    }
    merged_.push_back(extent);
  }
  std::vector<PageExtent> take() { return std::move(merged_); }

 private:
  const std::vector<PageExtent>& old_;
  std::vector<PageExtent> merged_;
  size_t next_ = 0;
  unsigned from_ = 0;
};

}  // namespace

std::vector<PageExtent> merge_leaf(const std::vector<PageExtent>& old, uint64_t first_block,
                                   std::span<const BlockRun> updates) {
  LeafMerger merger(old);
  for (const BlockRun& update : updates) {
    const uint64_t begin = std::max(update.block, first_block) - first_block;
    const uint64_t end = std::min(update.block + update.count - first_block, kLeafBlocks);
    merger.copy_until(static_cast<unsigned>(begin));
    merger.skip_until(static_cast<unsigned>(end));
    if (!update.chunk.is_hole())
      merger.push({.first_block = static_cast<uint16_t>(begin),
                   .count = static_cast<uint16_t>(update.count),
                   .chunk_block = static_cast<uint16_t>(update.chunk_block),
                   .chunk = update.chunk});
  }
  merger.copy_until(kLeafBlocks);
  return merger.take();
}

}  // namespace squall::internal
