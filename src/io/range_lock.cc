#include "io/range_lock.h"

#include <algorithm>
#include <iterator>
#include <limits>

#include "base/check.h"

namespace squall {

RangeLock::~RangeLock() {
  CHECK(entries_.empty());
}

RangeLock::Awaiter RangeLock::lock(uint64_t offset, uint64_t length, bool exclusive) {
  // "To the end" may be asked for with any large length.
  const uint64_t end = offset + std::min(length, std::numeric_limits<uint64_t>::max() - offset);
  entries_.push_back({offset, end, exclusive, false, {}});
  auto entry = std::prev(entries_.end());
  entry->granted = !blocked(entry);
  return {*this, entry};
}

bool RangeLock::blocked(Iterator entry) {
  for (auto other = entries_.begin(); other != entry; ++other) {
    const bool overlap = other->begin < entry->end && entry->begin < other->end;
    if (overlap && (other->exclusive || entry->exclusive)) return true;
  }
  return false;
}

void RangeLock::release(Iterator entry) {
  auto next = entries_.erase(entry);
  for (; next != entries_.end(); ++next) {
    if (next->granted || blocked(next)) continue;
    next->granted = true;
    if (next->waiter) reactor_.post([h = next->waiter] { h.resume(); });
  }
}

}  // namespace squall
