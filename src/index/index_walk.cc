#include "index/index_page_reader.h"

namespace squall {
namespace {

void visit_leaf(const PageView& leaf, IndexVisitor& visitor) {
  for (unsigned i = 0; i < leaf.count(); ++i) {
    const PageExtent extent = *leaf.extent(i);  // validated by the caller
    visitor.run({.block = leaf.first_block() + extent.first_block,
                 .count = extent.count,
                 .chunk = extent.chunk,
                 .chunk_block = extent.chunk_block});
  }
}

Task<Result<void>> walk_page(RecordStore& store, Address address, unsigned level,
                             uint64_t first_block, IndexVisitor& visitor) {
  if (!visitor.page(address, level, first_block)) co_return Result<void>();
  CO_TRY_ASSIGN(const internal::HeldPage page,
                co_await internal::read_page(store, address, level, first_block));
  CO_TRY(page.view.validate());
  if (level == 0) {
    visit_leaf(page.view, visitor);
    co_return Result<void>();
  }
  const uint64_t slot_span = page_span_blocks(level - 1);
  for (unsigned slot = page.view.next_child(0); slot < kPageFanout;
       slot = page.view.next_child(slot + 1)) {
    CO_TRY(co_await walk_page(store, *page.view.child(slot), level - 1,
                              first_block + slot * slot_span, visitor));
  }
  co_return Result<void>();
}

}  // namespace

Task<Result<void>> index_walk(RecordStore& store, IndexRoot root, IndexVisitor& visitor) {
  CO_TRY(internal::check_root(root));
  if (root.height == 0) co_return Result<void>();
  co_return co_await walk_page(store, root.address, root.height - 1u, 0, visitor);
}

}  // namespace squall
