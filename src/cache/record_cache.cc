// An entry lives in one hash chain and one queue, both linked through it; a ghost is an entry whose
// payload is gone. The hash table has a fixed size, derived from the budget, so that no insertion
// ever pays for growing it: with payloads of 4 to 64 KiB its chains stay short.
//
// Bytes move with entries: a queue's `bytes` are the sum of its entries' charges, and
// stats_.bytes is the table plus the three queues.
#include "cache/record_cache.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace squall {
namespace {

constexpr size_t kBytesPerBucket = 16 * kKiB;
constexpr size_t kBucketsMin = 16;
constexpr size_t kBudgetMin = 4 * kKiB;
constexpr uint8_t kFrequencyMax = 3;
constexpr uint8_t kFrequencyToStay = 2;  // in the small queue; the paper's "more than one"
constexpr size_t kAllocationBytes = 16;  // what malloc adds to a block

}  // namespace

struct RecordCache::Entry {
  Address address;
  PayloadRef payload;
  size_t cost_bytes = 0;
  Entry* chain_next = nullptr;
  Entry* newer = nullptr;
  Entry* older = nullptr;
  Place place = Place::kSmall;
  uint8_t frequency = 0;

  uint64_t charge() const { return sizeof(Entry) + kAllocationBytes + cost_bytes; }
};

RecordCache::RecordCache(size_t budget_bytes) : budget_bytes_(budget_bytes) {
  if (budget_bytes < kBudgetMin) return;
  buckets_.resize(std::max(kBucketsMin, std::bit_floor(budget_bytes / kBytesPerBucket)));
  stats_.bytes = buckets_.size() * sizeof(Entry*);
}

RecordCache::~RecordCache() {
  clear();
}

size_t RecordCache::bucket_of(Address address) const {
  const size_t hash = std::hash<Address>{}(address);
  return (hash >> 32) & (buckets_.size() - 1);  // the product's high bits are the mixed ones
}

RecordCache::Entry* RecordCache::find_entry(Address address) const {
  if (buckets_.empty()) return nullptr;
  Entry* entry = buckets_[bucket_of(address)];
  while (entry != nullptr && entry->address != address) entry = entry->chain_next;
  return entry;
}

PayloadRef RecordCache::find(Address address) {
  Entry* entry = find_entry(address);
  if (entry == nullptr || entry->place == Place::kGhost) {
    ++stats_.misses;
    return nullptr;
  }
  ++stats_.hits;
  entry->frequency = std::min<uint8_t>(entry->frequency + 1, kFrequencyMax);
  return entry->payload;
}

void RecordCache::insert(Address address, PayloadRef payload, size_t cost_bytes) {
  CHECK(payload != nullptr && !address.is_hole());
  Entry* known = find_entry(address);
  const bool returns = known != nullptr && known->place != Place::kSmall;
  if (known != nullptr) destroy(*known);
  const size_t needed = sizeof(Entry) + kAllocationBytes + cost_bytes;
  const size_t table_bytes = buckets_.size() * sizeof(Entry*);
  if (buckets_.empty() || needed > budget_bytes_ - table_bytes) return;
  make_room(needed);
  auto* entry =
      new Entry{.address = address, .payload = std::move(payload), .cost_bytes = cost_bytes};
  Entry*& bucket = buckets_[bucket_of(address)];
  entry->chain_next = std::exchange(bucket, entry);
  push(*entry, returns ? Place::kMain : Place::kSmall);
  ++stats_.insertions;
}

void RecordCache::erase(Address address) {
  if (Entry* entry = find_entry(address)) destroy(*entry);
}

void RecordCache::clear() {
  for (Queue& queue : queues_)
    while (queue.tail != nullptr) destroy(*queue.tail);
}

void RecordCache::push(Entry& entry, Place place) {
  Queue& to = queue(place);
  entry.place = place;
  entry.newer = nullptr;
  entry.older = to.head;
  (to.head != nullptr ? to.head->newer : to.tail) = &entry;
  to.head = &entry;
  to.bytes += entry.charge();
  ++to.entries;
  stats_.bytes += entry.charge();
  stats_.entries += place != Place::kGhost;
}

void RecordCache::unlink(Entry& entry) {
  Queue& from = queue(entry.place);
  (entry.newer != nullptr ? entry.newer->older : from.head) = entry.older;
  (entry.older != nullptr ? entry.older->newer : from.tail) = entry.newer;
  from.bytes -= entry.charge();
  --from.entries;
  stats_.bytes -= entry.charge();
  stats_.entries -= entry.place != Place::kGhost;
}

void RecordCache::move(Entry& entry, Place place) {
  unlink(entry);
  if (place == Place::kGhost) {
    entry.payload = nullptr;
    entry.cost_bytes = 0;
  }
  push(entry, place);
}

void RecordCache::destroy(Entry& entry) {
  unlink(entry);
  Entry** link = &buckets_[bucket_of(entry.address)];
  while (*link != &entry) link = &(*link)->chain_next;
  *link = entry.chain_next;
  delete &entry;
}

void RecordCache::make_room(size_t bytes) {
  while (stats_.bytes + bytes > budget_bytes_) {
    const bool small_is_full = queue(Place::kSmall).bytes >= budget_bytes_ / 10;
    if (queue(Place::kSmall).entries > 0 && (small_is_full || queue(Place::kMain).entries == 0))
      evict_from_small();
    else if (queue(Place::kMain).entries > 0)
      evict_from_main();
    else
      destroy(*queue(Place::kGhost).tail);
  }
}

void RecordCache::evict_from_small() {
  Entry& oldest = *queue(Place::kSmall).tail;
  if (oldest.frequency >= kFrequencyToStay) {
    oldest.frequency = 0;
    move(oldest, Place::kMain);
    return;
  }
  move(oldest, Place::kGhost);
  ++stats_.evictions;
  trim_ghosts();
}

void RecordCache::evict_from_main() {
  Entry& oldest = *queue(Place::kMain).tail;
  if (oldest.frequency > 0) {
    --oldest.frequency;
    move(oldest, Place::kMain);
    return;
  }
  destroy(oldest);
  ++stats_.evictions;
}

// The paper keeps as many ghosts as the main queue has room for; here, where sizes differ, as many
// as there are payloads, which bounds them by the budget too.
void RecordCache::trim_ghosts() {
  while (queue(Place::kGhost).entries > stats_.entries) destroy(*queue(Place::kGhost).tail);
}

}  // namespace squall
