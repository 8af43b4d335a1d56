// SparseIndex: a sample of the pool's fingerprints and the footer line where each was seen last. It
// predicts which places of which segments resemble incoming data (Lillibridge et al.: "Sparse
// Indexing", FAST 2009). A hint: what it forgets costs savings, what it says is checked by others.
//
// A fingerprint is in the sample when its low bits say so, one of `rate` on average. Memory stays
// within the budget: when it is full the rate doubles, and entries that are no longer in the sample
// give way to new ones. An entry takes 12 bytes; tables are between 7/16 and 7/8 full while they
// grow, and there are 256 of them, so that growing one takes a fraction of a millisecond. Pure; one
// thread's; every operation takes constant time, amortised.
#pragma once

#include <array>
#include <optional>
#include <unordered_set>
#include <vector>

#include "format/segment.h"

namespace squall {

class SparseIndex {
 public:
  struct Config {
    uint64_t budget_bytes = 64 * kMiB;
    uint32_t first_rate = 1;  // a power of two
  };
  struct Place {
    SegmentId segment = 0;
    uint32_t record = 0;  // its line in the segment's table
    bool operator==(const Place&) const = default;
  };
  struct Stats {
    uint64_t entries = 0;  // that take memory, those that wait to be replaced included
    uint64_t bytes = 0;
    uint32_t rate = 1;
  };

  explicit SparseIndex(Config config);

  bool is_sampled(const Fingerprint& fingerprint) const;
  // Does nothing for what is not in the sample. A fingerprint's newest place replaces the others.
  void insert(const Fingerprint& fingerprint, Place place);
  std::optional<Place> find(const Fingerprint& fingerprint) const;
  void remove_segment(SegmentId segment) { segments_.erase(segment); }
  Stats stats() const;

 private:
  static constexpr size_t kShards = 256;
  static constexpr uint64_t kSlotBytes = sizeof(uint32_t) + sizeof(uint64_t);

  // A hash table with linear probing. A slot is free while its place is 0.
  struct Shard {
    std::vector<uint32_t> tags;
    std::vector<uint64_t> places;
    uint64_t used = 0;
    uint64_t slots() const { return places.size(); }
  };
  bool is_live(uint32_t tag, uint64_t place) const;
  bool store(Shard& shard, uint32_t tag, uint64_t place) const;
  void make_room(Shard& shard);
  void rebuild(Shard& shard, uint64_t slots);

  uint64_t slots_max_;  // of a shard
  uint32_t rate_;
  std::array<Shard, kShards> shards_;
  std::unordered_set<SegmentId> segments_;  // whose entries count
};

}  // namespace squall
