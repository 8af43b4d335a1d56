#include "volume/pool_room.h"

#include <cerrno>

namespace squall {

namespace {
constexpr uint64_t kRefreshNs = 500'000'000;

// Data grows by an eighth at most on its way into the pool: headers, index pages, alignment.
uint64_t with_overhead(uint64_t bytes) {
  return bytes + bytes / 8;
}
}  // namespace

PoolRoom::Store& PoolRoom::store(const std::string& name) {
  if (first_store_.empty()) refresh();
  return stores_[name.empty() ? first_store_ : name];
}

void PoolRoom::refresh() {
  refreshed_ns_ = reactor_.now_ns();
  const auto found = segments_.stores();
  for (auto& [name, store] : stores_) {
    store.room_bytes = 0;
    store.problem = found ? "the pool has no such store" : found.error().message();
  }
  if (!found) return;
  if (first_store_.empty() && !found->empty()) first_store_ = found->front().name;
  for (const StoreInfo& info : *found) {
    Store& store = stores_[info.name];
    // Stores whose numbers are the same lie on one disk: what is dirty for one is taken from all.
    uint64_t dirty = 0;
    for (const StoreInfo& other : *found)
      if (other.total_bytes == info.total_bytes && other.available_bytes == info.available_bytes)
        dirty += stores_[other.name].dirty_bytes;
    const uint64_t taken = with_overhead(dirty) + reserve_bytes_;
    if (info.available && info.available_bytes > taken)
      store.room_bytes = info.available_bytes - taken;
    store.problem = info.available ? "" : info.problem;
  }
}

Result<void> PoolRoom::take(Store& store, uint64_t bytes) {
  if (!refreshed_ns_ || reactor_.now_ns() - *refreshed_ns_ > kRefreshNs) refresh();
  if (!store.problem.empty()) return fail_errno(EIO, "its store is away: {}", store.problem);
  const uint64_t need = with_overhead(bytes);
  if (store.room_bytes < need)
    return fail_errno(ENOSPC, "its store in the pool is full; remove volumes or add a store");
  store.room_bytes -= need;
  return {};
}

uint64_t PoolRoom::dirty_bytes() const {
  uint64_t total = 0;
  for (const auto& [name, store] : stores_) total += store.dirty_bytes;
  return total;
}

}  // namespace squall
