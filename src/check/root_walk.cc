#include "check/root_walk.h"

#include <algorithm>

#include "io/gate.h"

namespace squall {

namespace {
constexpr size_t kPagesAtOnce = 16;

// Whether an index may hold this address at all.
bool is_plausible(Address address) {
  return !address.is_hole() && address.sectors() > 0 && address.sectors() <= kMaxRecordSectors &&
         address.offset_bytes() >= kSegmentHeaderBytes;
}

uint64_t place_of(unsigned level, uint64_t first_block) {
  return first_block << 3 | level;
}
static_assert(kPageLevelMax < 8);

// A page in memory.
struct ReadPage {
  std::vector<std::byte> bytes;
  PageView view;
};

Task<Result<ReadPage>> read_page(SegmentChecker& reader, Address address, unsigned level,
                                 uint64_t first_block) {
  CO_TRY_ASSIGN(VerifiedRecord record, co_await reader.read(address));
  if (record.kind != RecordKind::kPage)
    co_return fail(ErrorKind::kCorrupt, "the record there is a {}, not an index page",
                   to_string(record.kind));
  ReadPage page{.bytes = std::move(record.payload)};
  CO_TRY_ASSIGN(page.view, PageView::open(page.bytes, level, first_block));
  CO_TRY(page.view.validate());
  co_return page;
}

template <class Visit>  // void(unsigned slot, Address child)
void for_each_child(const PageView& page, Visit visit) {
  for (unsigned slot = page.next_child(0); slot < kPageFanout; slot = page.next_child(slot + 1))
    visit(slot, *page.child(slot));  // validated
}
}  // namespace

struct RootMarker::Page {
  Address address;
  unsigned level = 0;
  uint64_t first_block = 0;
  std::optional<Result<ReadPage>> read;
};

Task<Result<void>> RootMarker::mark(IndexRoot root) {
  if (root.height == 0) co_return Result<void>();
  std::vector<Page> pages;
  if (is_new(root.address, root.height - 1u, 0)) {
    use(root.address, RecordKind::kPage, 0);
    pages.push_back({root.address, root.height - 1u, 0, {}});
  }
  co_return co_await visit(std::move(pages));
}

// Reads `pages` and all that lies below them, depth first, several at a time.
Task<Result<void>> RootMarker::visit(std::vector<Page> pages) {
  while (!pages.empty()) {
    std::vector<Page> batch;
    while (!pages.empty() && batch.size() < kPagesAtOnce) {
      batch.push_back(std::move(pages.back()));
      pages.pop_back();
    }
    Gate gate;
    for (Page& page : batch)
      spawn(read_page(reader_, page.address, page.level, page.first_block),
            [&page, pass = gate.enter()](Result<ReadPage> read) { page.read = std::move(read); });
    co_await gate.close();
    for (Page& page : batch) {
      if (*page.read) {
        visit_content(page, pages);
      } else if ((*page.read).error().kind() == ErrorKind::kCancelled) {
        co_return std::unexpected((*page.read).error());
      } else {
        bad_.insert_or_assign(page.address, BadRecord{(*page.read).error().message(), 0, true});
      }
    }
  }
  co_return Result<void>();
}

void RootMarker::visit_content(const Page& page, std::vector<Page>& below) {
  const PageView& view = (*page.read)->view;
  if (page.level > 0) {
    const uint64_t span = page_span_blocks(page.level - 1);
    for_each_child(view, [&](unsigned slot, Address child) {
      if (!is_new(child, page.level - 1, page.first_block + slot * span)) return;
      use(child, RecordKind::kPage, 0);
      below.push_back({child, page.level - 1, page.first_block + slot * span, {}});
    });
    return;
  }
  for (unsigned i = 0; i < view.count(); ++i) {
    const PageExtent extent = *view.extent(i);  // validated
    use(extent.chunk, RecordKind::kChunk, extent.chunk_block + extent.count);
  }
}

bool RootMarker::is_new(Address page, unsigned level, uint64_t first_block) {
  const auto [seen, is_first] = seen_.emplace(page, place_of(level, first_block));
  if (!is_first && seen->second != place_of(level, first_block))
    bad_.insert_or_assign(page, BadRecord{"one index page serves two places", 0, true});
  return is_first;
}

void RootMarker::use(Address address, RecordKind kind, uint64_t blocks) {
  if (is_plausible(address))
    uses_[address.segment()].push_back({.sector = static_cast<uint32_t>(address.sector()),
                                        .sectors = static_cast<uint16_t>(address.sectors()),
                                        .kind = kind,
                                        .blocks = static_cast<uint8_t>(blocks)});
  else
    bad_.insert_or_assign(address, BadRecord{"there can be no record at such an address", 0,
                                             kind == RecordKind::kPage});
}

Task<Result<std::vector<DamageFinder::Hit>>> DamageFinder::find(IndexRoot root) {
  if (root.height == 0) co_return Hits();
  co_return co_await visit(root.address, root.height - 1u, 0);
}

Task<Result<DamageFinder::Hits>> DamageFinder::visit(Address address, unsigned level,
                                                     uint64_t first_block) {
  if (const auto clean = clean_.find(address);
      clean != clean_.end() && clean->second == place_of(level, first_block))
    co_return Hits();
  if (const auto known = with_hits_.find(address); known != with_hits_.end())
    co_return known->second;
  Hits hits;
  auto page = co_await read_page(reader_, address, level, first_block);
  if (!page) {
    if (page.error().kind() == ErrorKind::kCancelled) co_return std::unexpected(page.error());
    bad_.insert_or_assign(address, BadRecord{page.error().message(), 0, true});
    // Not remembered as such: a later root's page may be read again, and be gone for good reason.
    co_return Hits({Hit{address, first_block, page_span_blocks(level)}});
  }
  if (level > 0) {
    std::vector<std::pair<Address, uint64_t>> children;
    const uint64_t span = page_span_blocks(level - 1);
    for_each_child(page->view, [&](unsigned slot, Address child) {
      children.emplace_back(child, first_block + slot * span);
    });
    for (const auto& [child, block] : children) {
      CO_TRY_ASSIGN(const Hits below, co_await visit(child, level - 1, block));
      hits.insert(hits.end(), below.begin(), below.end());
    }
  } else {
    for (unsigned i = 0; i < page->view.count(); ++i) {
      const PageExtent extent = *page->view.extent(i);
      const auto bad = bad_.find(extent.chunk);
      if (bad == bad_.end() || extent.chunk_block + extent.count <= bad->second.good_blocks)
        continue;
      hits.push_back({extent.chunk, first_block + extent.first_block, extent.count});
    }
  }
  if (hits.empty())
    clean_.emplace(address, place_of(level, first_block));
  else
    with_hits_.emplace(address, hits);
  co_return hits;
}

}  // namespace squall
