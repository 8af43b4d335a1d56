#include "index/index_page_reader.h"

#include <utility>

namespace squall::internal {

Result<void> check_root(IndexRoot root) {
  const bool is_empty = root.height == 0;
  if (root.height > kPageLevelMax + 1 || root.address.is_hole() != is_empty)
    return fail(ErrorKind::kCorrupt, "index root of height {} at {}: impossible", root.height,
                root.address.to_string());
  return {};
}

Result<HeldPage> hold_page(PayloadRef payload, Address address, unsigned level,
                           uint64_t first_block) {
  auto view = PageView::open(payload->bytes(), level, first_block);
  if (!view) return std::unexpected(view.error().wrap("read of " + address.to_string()));
  return HeldPage{std::move(payload), *view};
}

Task<Result<HeldPage>> read_page(RecordStore& store, Address address, unsigned level,
                                 uint64_t first_block) {
  PayloadRef payload = store.read_cached(address);
  if (!payload) {
    CO_TRY_ASSIGN(payload, co_await store.read(RecordKind::kPage, address));
  }
  co_return hold_page(std::move(payload), address, level, first_block);
}

}  // namespace squall::internal
