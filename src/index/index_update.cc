// An update works top-down by recursion over the levels (at most five) and writes bottom-up.
//
// Everything that can be said as "these blocks become a hole" is: the cut at the volume's size is a
// hole appended to the updates, and where a hole covers a page whole, the page is dropped unread. A
// page that comes out as it went in keeps its address, so that cut costs nothing where nothing lies
// beyond the size.
//
// Growing: levels above the old root exist only in the updater until they are written
// (is_above_root), so they too are written once. Shrinking: the new top page is found by following
// slot 0 down.
//
// Children of one page are updated a few at a time, so that a commit over a cold index waits for
// the device's queue rather than for one read after another.
#include <algorithm>
#include <span>
#include <utility>

#include "index/index_page_reader.h"
#include "index/leaf_merge.h"
#include "io/gate.h"

namespace squall {
namespace {

using Updates = std::span<const BlockRun>;

uint64_t end_of(const BlockRun& run) {
  return run.block + run.count;
}

unsigned height_for(uint64_t size_blocks) {
  unsigned height = 1;
  while (page_span_blocks(height - 1) < size_blocks) ++height;
  return height;
}

void check_update(const BlockRun& run, uint64_t previous_end) {
  CHECK(run.block >= previous_end && end_of(run) >= run.block);
  if (run.chunk.is_hole()) return;
  CHECK(run.count > 0 && run.chunk_block + run.count <= kChunkBlocksMax);
  CHECK(run.block / kLeafBlocks == (end_of(run) - 1) / kLeafBlocks);
}

// The updates cut at `size_blocks`, then a hole up to `reach`; adjacent holes made one, so that
// whether a hole covers a page can be seen from one run.
std::vector<BlockRun> normalise(const std::vector<BlockRun>& updates, uint64_t size_blocks,
                                uint64_t reach) {
  std::vector<BlockRun> result;
  result.reserve(updates.size() + 1);
  auto push = [&](const BlockRun& run) {
    const bool merges = !result.empty() && result.back().chunk.is_hole() && run.chunk.is_hole() &&
                        end_of(result.back()) == run.block;
    if (run.count == 0) return;
    if (merges)
      result.back().count += run.count;
    else
      result.push_back(run);
  };
  uint64_t previous_end = 0;
  for (BlockRun run : updates) {
    check_update(run, previous_end);
    previous_end = end_of(run);
    if (run.block >= size_blocks) continue;
    run.count = std::min(run.count, size_blocks - run.block);
    push(run);
  }
  push({.block = size_blocks, .count = reach - size_blocks, .chunk = {}, .chunk_block = 0});
  return result;
}

// True when [first, first + span) becomes a hole: holes being merged, by a single run.
bool drops(Updates updates, uint64_t first, uint64_t span) {
  return updates.size() == 1 && updates[0].chunk.is_hole() && updates[0].block <= first &&
         end_of(updates[0]) >= first + span;
}

Task<Result<Address>> a_hole() {
  co_return Address();
}

class IndexUpdater {
 public:
  IndexUpdater(RecordStore& store, IndexRoot root, const Placement& placement)
      : store_(store), root_(root), placement_(placement) {}

  // Lowers the root to `height` by following slot 0; what other slots held is cut off.
  Task<Result<void>> shrink_to(unsigned height);
  // The top page of a tree of `height`, at least the root's.
  Task<Result<Address>> update_root(unsigned height, Updates updates) {
    const Address old = root_.height == height ? root_.address : Address();
    return update_page(old, height - 1, 0, updates);
  }

 private:
  // One child that the updates touch.
  struct Job {
    unsigned slot;
    Updates updates;
    Result<Address> result;
  };

  // The page at `old` (or what is_above_root says) with `updates`, all of which touch it; a hole
  // when nothing is left.
  Task<Result<Address>> update_page(Address old, unsigned level, uint64_t base, Updates updates);
  Task<Result<Address>> update_leaf(Address old, uint64_t base, Updates updates);
  Task<Result<Address>> update_inner(Address old, unsigned level, uint64_t base, Updates updates);
  Task<Result<InnerPage>> load_inner(Address old, unsigned level, uint64_t base);
  std::vector<Job> split(unsigned level, uint64_t base, Updates updates) const;
  Task<void> run_jobs(const InnerPage& page, std::span<Job> jobs);
  // True for the page that the old root, not being a hole, hangs below: it is not in the store yet.
  bool is_above_root(unsigned level, uint64_t base) const {
    return base == 0 && level >= root_.height && !root_.address.is_hole();
  }

  RecordStore& store_;
  IndexRoot root_;
  const Placement& placement_;
};

Task<Result<void>> IndexUpdater::shrink_to(unsigned height) {
  while (root_.height > height) {
    CO_TRY_ASSIGN(const internal::HeldPage page,
                  co_await internal::read_page(store_, root_.address, root_.height - 1u, 0));
    CO_TRY_ASSIGN(root_.address, page.view.child(0));
    --root_.height;
    if (root_.address.is_hole()) root_ = {};
  }
  co_return Result<void>();
}

Task<Result<Address>> IndexUpdater::update_page(Address old, unsigned level, uint64_t base,
                                                Updates updates) {
  if (drops(updates, base, page_span_blocks(level))) return a_hole();
  const bool is_empty = old.is_hole() && !is_above_root(level, base);
  if (is_empty && std::ranges::all_of(updates, &Address::is_hole, &BlockRun::chunk))
    return a_hole();
  return level == 0 ? update_leaf(old, base, updates) : update_inner(old, level, base, updates);
}

Task<Result<Address>> IndexUpdater::update_leaf(Address old, uint64_t base, Updates updates) {
  uint64_t covered = 0;
  for (const BlockRun& run : updates)
    covered += std::min(end_of(run), base + kLeafBlocks) - std::max(run.block, base);
  LeafPage page{.first_block = base, .extents = {}};
  if (!old.is_hole() && covered < kLeafBlocks) {
    CO_TRY_ASSIGN(const internal::HeldPage held,
                  co_await internal::read_page(store_, old, 0, base));
    CO_TRY_ASSIGN(page, decode_leaf_page(held.payload->bytes()));
  }
  std::vector<PageExtent> merged = internal::merge_leaf(page.extents, base, updates);
  if (merged.empty()) co_return Address();
  if (merged == page.extents) co_return old;
  page.extents = std::move(merged);
  const std::vector<std::byte> bytes = encode_leaf_page(page);
  co_return co_await store_.append(RecordKind::kPage, bytes, placement_);
}

Task<Result<InnerPage>> IndexUpdater::load_inner(Address old, unsigned level, uint64_t base) {
  InnerPage page{.level = static_cast<uint8_t>(level), .first_block = base};
  if (is_above_root(level, base)) {
    if (level == root_.height) page.children[0] = root_.address;
  } else if (!old.is_hole()) {
    CO_TRY_ASSIGN(const internal::HeldPage held,
                  co_await internal::read_page(store_, old, level, base));
    CO_TRY_ASSIGN(page, decode_inner_page(held.payload->bytes()));
  }
  co_return page;
}

std::vector<IndexUpdater::Job> IndexUpdater::split(unsigned level, uint64_t base,
                                                   Updates updates) const {
  std::vector<Job> jobs;
  const uint64_t span = page_span_blocks(level - 1);
  const uint64_t page_end = base + page_span_blocks(level);
  // The page between this one and the old root must come to be, updated or not.
  if (is_above_root(level, base) && level > root_.height &&
      (updates.empty() || updates.front().block >= span))
    jobs.push_back({0, {}, Address()});
  while (!updates.empty() && updates.front().block < page_end) {
    uint64_t child = base;
    if (!jobs.empty()) child += (jobs.back().slot + 1) * span;
    child = std::max(child, round_down(updates.front().block, span));
    if (child >= page_end) break;
    const auto end = std::ranges::lower_bound(updates, child + span, {}, &BlockRun::block);
    const auto touching = static_cast<size_t>(end - updates.begin());
    jobs.push_back({static_cast<unsigned>((child - base) / span), updates.first(touching), {}});
    // The last one may reach into the next child.
    const bool reaches_on = end_of(updates[touching - 1]) > child + span;
    updates = updates.subspan(touching - (reaches_on ? 1 : 0));
  }
  return jobs;
}

Task<void> IndexUpdater::run_jobs(const InnerPage& page, std::span<Job> jobs) {
  // Bounds what is in flight below one page: 16 leaves, and 4 subtrees on each level above.
  const size_t at_once = page.level == 1 ? 16 : 4;
  const uint64_t span = page_span_blocks(page.level - 1u);
  for (; !jobs.empty(); jobs = jobs.subspan(std::min(at_once, jobs.size()))) {
    Gate gate;
    for (Job& job : jobs.first(std::min(at_once, jobs.size()))) {
      const uint64_t child = page.first_block + job.slot * span;
      spawn(
          update_page(page.children[job.slot], page.level - 1u, child, job.updates),
          [&job, pass = gate.enter()](Result<Address> result) { job.result = std::move(result); });
    }
    co_await gate.close();
  }
}

Task<Result<Address>> IndexUpdater::update_inner(Address old, unsigned level, uint64_t base,
                                                 Updates updates) {
  CO_TRY_ASSIGN(InnerPage page, co_await load_inner(old, level, base));
  std::vector<Job> jobs = split(level, base, updates);
  co_await run_jobs(page, jobs);
  bool has_changed = is_above_root(level, base);
  for (const Job& job : jobs) {
    if (!job.result) co_return std::unexpected(job.result.error());
    has_changed |= page.children[job.slot] != *job.result;
    page.children[job.slot] = *job.result;
  }
  if (!has_changed) co_return old;
  if (std::ranges::all_of(page.children, &Address::is_hole)) co_return Address();
  const std::vector<std::byte> bytes = encode_inner_page(page);
  co_return co_await store_.append(RecordKind::kPage, bytes, placement_);
}

}  // namespace

Task<Result<IndexRoot>> index_update(RecordStore& store, IndexRoot root, uint64_t size_blocks,
                                     const std::vector<BlockRun>& updates,
                                     const Placement& placement) {
  CO_TRY(internal::check_root(root));
  if (size_blocks > page_span_blocks(kPageLevelMax))
    co_return fail(ErrorKind::kInvalid, "index of {} blocks: {} are the most", size_blocks,
                   page_span_blocks(kPageLevelMax));
  if (size_blocks == 0) co_return IndexRoot();
  const unsigned height = height_for(size_blocks);
  const std::vector<BlockRun> all = normalise(updates, size_blocks, page_span_blocks(height - 1));
  IndexUpdater updater(store, root, placement);
  CO_TRY(co_await updater.shrink_to(height));
  CO_TRY_ASSIGN(const Address top, co_await updater.update_root(height, all));
  if (top.is_hole()) co_return IndexRoot();
  co_return IndexRoot{top, static_cast<uint8_t>(height)};
}

}  // namespace squall
