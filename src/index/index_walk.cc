// A walk reads every page once, most of them leaves and, in a large pool, most of them cold. So the
// leaves below one page are read a batch at a time and then visited in order.
#include <optional>
#include <utility>
#include <vector>

#include "index/index_page_reader.h"
#include "io/gate.h"

namespace squall {
namespace {

using internal::HeldPage;

constexpr size_t kLeavesAtOnce = 16;

class IndexWalker {
 public:
  IndexWalker(RecordStore& store, IndexVisitor& visitor) : store_(store), visitor_(visitor) {}

  Task<Result<void>> walk(Address address, unsigned level, uint64_t first_block);

 private:
  struct Leaf {
    Address address;
    uint64_t first_block;
    std::optional<Result<HeldPage>> page;
  };

  Task<Result<void>> walk_leaves(const PageView& parent);
  Task<Result<void>> visit(std::vector<Leaf>& batch);
  void visit_extents(const PageView& leaf);

  RecordStore& store_;
  IndexVisitor& visitor_;
};

Task<Result<void>> IndexWalker::walk(Address address, unsigned level, uint64_t first_block) {
  if (!visitor_.page(address, level, first_block)) co_return Result<void>();
  CO_TRY_ASSIGN(const HeldPage page,
                co_await internal::read_page(store_, address, level, first_block));
  CO_TRY(page.view.validate());
  if (level == 0) {
    visit_extents(page.view);
    co_return Result<void>();
  }
  CO_TRY(co_await visitor_.rest(1));
  if (level == 1) co_return co_await walk_leaves(page.view);
  const uint64_t slot_span = page_span_blocks(level - 1);
  for (unsigned slot = page.view.next_child(0); slot < kPageFanout;
       slot = page.view.next_child(slot + 1)) {
    CO_TRY(co_await walk(*page.view.child(slot), level - 1, first_block + slot * slot_span));
  }
  co_return Result<void>();
}

Task<Result<void>> IndexWalker::walk_leaves(const PageView& parent) {
  std::vector<Leaf> batch;
  for (unsigned slot = parent.next_child(0); slot < kPageFanout;
       slot = parent.next_child(slot + 1)) {
    const Leaf leaf{*parent.child(slot), parent.first_block() + slot * kLeafBlocks, {}};
    if (visitor_.page(leaf.address, 0, leaf.first_block)) batch.push_back(leaf);
    if (batch.size() < kLeavesAtOnce) continue;
    CO_TRY(co_await visit(batch));
    batch.clear();
  }
  co_return co_await visit(batch);
}

Task<Result<void>> IndexWalker::visit(std::vector<Leaf>& batch) {
  Gate gate;
  for (Leaf& leaf : batch) {
    spawn(internal::read_page(store_, leaf.address, 0, leaf.first_block),
          [&leaf, pass = gate.enter()](Result<HeldPage> page) { leaf.page = std::move(page); });
  }
  co_await gate.close();
  for (Leaf& leaf : batch) {
    CO_TRY_ASSIGN(const HeldPage page, std::move(*leaf.page));
    CO_TRY(page.view.validate());
    visit_extents(page.view);
  }
  if (!batch.empty()) CO_TRY(co_await visitor_.rest(batch.size()));
  co_return Result<void>();
}

void IndexWalker::visit_extents(const PageView& leaf) {
  for (unsigned i = 0; i < leaf.count(); ++i) {
    const PageExtent extent = *leaf.extent(i);  // validated by the caller
    visitor_.run({.block = leaf.first_block() + extent.first_block,
                  .count = extent.count,
                  .chunk = extent.chunk,
                  .chunk_block = extent.chunk_block});
  }
}

}  // namespace

Task<Result<void>> index_walk(RecordStore& store, IndexRoot root, IndexVisitor& visitor) {
  CO_TRY(internal::check_root(root));
  if (root.height == 0) co_return Result<void>();
  IndexWalker walker(store, visitor);
  co_return co_await walker.walk(root.address, root.height - 1u, 0);
}

}  // namespace squall
