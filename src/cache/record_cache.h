// RecordCache: decompressed records in memory, one copy for all volumes of a host, within an exact
// budget. Replacement is S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi: "FIFO queues are all you need for
// cache eviction", SOSP 2023): newcomers wait in a small queue, those read again there move to the
// main queue, the others leave only their address behind in a ghost queue, by which a quick return
// is recognised. So a scan passes through the small queue and leaves the working set alone.
//
// The budget counts payloads at the cost their owner states, this cache's entries (ghosts too) and
// its hash table. A payload that is still held by a reader after its eviction is the reader's.
// Addresses are never reused, so nothing here is ever stale. One reactor's thread; find and insert
// take constant time, amortised over evictions.
#pragma once

#include <cstdint>
#include <vector>

#include "cache/payload.h"
#include "format/address.h"

namespace squall {

struct RecordCacheStats {
  uint64_t hits = 0;
  uint64_t misses = 0;
  uint64_t insertions = 0;
  uint64_t evictions = 0;  // payloads that had to make room
  uint64_t bytes = 0;      // all that the budget counts
  uint64_t entries = 0;    // payloads held
};

class RecordCache {
 public:
  // A budget too small for any bookkeeping (a few KiB) gives a cache that holds nothing.
  explicit RecordCache(size_t budget_bytes);
  ~RecordCache();
  RecordCache(const RecordCache&) = delete;
  RecordCache& operator=(const RecordCache&) = delete;

  // Null when it is not here.
  PayloadRef find(Address address);
  // `cost_bytes`: what the payload occupies in memory. Replaces an earlier payload of the address.
  // What would not fit even alone is not kept.
  void insert(Address address, PayloadRef payload, size_t cost_bytes);
  void erase(Address address);
  void clear();
  RecordCacheStats stats() const { return stats_; }

 private:
  enum class Place : uint8_t { kSmall, kMain, kGhost };
  struct Entry;
  // A FIFO linked through its entries: in at the head, out at the tail.
  struct Queue {
    Entry* head = nullptr;
    Entry* tail = nullptr;
    uint64_t bytes = 0;
    uint64_t entries = 0;
  };

  size_t bucket_of(Address address) const;
  Entry* find_entry(Address address) const;
  Queue& queue(Place place) { return queues_[static_cast<size_t>(place)]; }
  void push(Entry& entry, Place place);
  void unlink(Entry& entry);
  void move(Entry& entry, Place place);
  void destroy(Entry& entry);
  void make_room(size_t bytes);
  void evict_from_small();
  void evict_from_main();
  void trim_ghosts();

  const size_t budget_bytes_;
  std::vector<Entry*> buckets_;
  Queue queues_[3];
  RecordCacheStats stats_;
};

}  // namespace squall
