// Nothing is ever removed from a table in place. Entries of a segment that went, and those that a
// higher rate no longer samples, are dead at once (is_live) and lie about until an insertion passes
// by that can use their slot, or until their table is rebuilt because it is full. So neither
// removing a segment nor doubling the rate has to touch every entry, which would hold up the
// reactor's thread for tens of milliseconds.
//
// The parts of a fingerprint: byte 0 chooses the table, bytes 8 to 11 are the tag that is kept. The
// tag's high bits choose the slot and its low bits the sample, so that an entry can tell by itself
// where it belongs and whether it is still in the sample. Forty bits tell fingerprints apart: with
// a full budget of 64 MiB one look-up in 250,000 finds what belongs to another (in 2,000 at a rate
// of 128), and costs a look at a footer.
#include "pool/sparse_index.h"

#include <algorithm>
#include <bit>
#include <ranges>

#include "base/check.h"

namespace squall {

namespace {
constexpr uint64_t kFirstSlots = 16;
constexpr unsigned kRecordBits = 22;
static_assert(kMaxSegmentBytes / kSectorBytes <= uint64_t{1} << kRecordBits);

uint32_t tag_of(const Fingerprint& fingerprint) {
  return load_le<uint32_t>(fingerprint.data() + 8);
}
size_t shard_of(const Fingerprint& fingerprint) {
  return std::to_integer<size_t>(fingerprint[0]);
}
uint64_t home_of(uint32_t tag, uint64_t slots) {
  return (tag * slots) >> 32;
}
uint64_t fill_max(uint64_t slots) {
  return slots - slots / 8;
}
uint64_t pack(SparseIndex::Place place) {
  return place.segment << kRecordBits | place.record;
}
SparseIndex::Place unpack(uint64_t packed) {
  return {packed >> kRecordBits, static_cast<uint32_t>(packed & ((1U << kRecordBits) - 1))};
}
}  // namespace

SparseIndex::SparseIndex(Config config)
    : slots_max_(std::max(kFirstSlots, config.budget_bytes / kShards / kSlotBytes)),
      rate_(config.first_rate) {
  CHECK(std::has_single_bit(rate_));
}

bool SparseIndex::is_sampled(const Fingerprint& fingerprint) const {
  return (tag_of(fingerprint) & (rate_ - 1)) == 0;
}

bool SparseIndex::is_live(uint32_t tag, uint64_t place) const {
  return (tag & (rate_ - 1)) == 0 && segments_.contains(unpack(place).segment);
}

void SparseIndex::insert(const Fingerprint& fingerprint, Place place) {
  if (!is_sampled(fingerprint)) return;
  segments_.insert(place.segment);
  Shard& shard = shards_[shard_of(fingerprint)];
  const uint32_t tag = tag_of(fingerprint);
  while (!store(shard, tag, pack(place))) make_room(shard);
}

// False when it would take a free slot of a table that is full.
bool SparseIndex::store(Shard& shard, uint32_t tag, uint64_t place) const {
  if (shard.slots() == 0) return false;
  std::optional<uint64_t> dead;
  uint64_t slot = home_of(tag, shard.slots());
  while (shard.places[slot] != 0 && shard.tags[slot] != tag) {
    if (!dead && !is_live(shard.tags[slot], shard.places[slot])) dead = slot;
    slot = slot + 1 == shard.slots() ? 0 : slot + 1;
  }
  if (shard.places[slot] == 0) {
    if (dead) {
      slot = *dead;
    } else if (shard.used == fill_max(shard.slots())) {
      return false;
    } else {
      ++shard.used;
    }
  }
  shard.tags[slot] = tag;
  shard.places[slot] = place;
  return true;
}

void SparseIndex::make_room(Shard& shard) {
  const uint64_t live =
      std::ranges::count_if(std::views::iota(uint64_t{0}, shard.slots()), [&](uint64_t slot) {
        return shard.places[slot] != 0 && is_live(shard.tags[slot], shard.places[slot]);
      });
  // An eighth of the slots comes free at least, so that the next rebuild is not soon.
  if (shard.slots() < slots_max_ && live >= shard.slots() / 2)
    return rebuild(shard, std::clamp(2 * shard.slots(), kFirstSlots, slots_max_));
  if (live > fill_max(shard.slots()) - shard.slots() / 8) rate_ *= 2;
  rebuild(shard, shard.slots());
}

void SparseIndex::rebuild(Shard& shard, uint64_t slots) {
  Shard fresh;
  fresh.tags.resize(slots);
  fresh.places.resize(slots);
  for (uint64_t slot = 0; slot < shard.slots(); ++slot)
    if (shard.places[slot] != 0 && is_live(shard.tags[slot], shard.places[slot]))
      CHECK(store(fresh, shard.tags[slot], shard.places[slot]));
  shard = std::move(fresh);
}

std::optional<SparseIndex::Place> SparseIndex::find(const Fingerprint& fingerprint) const {
  const Shard& shard = shards_[shard_of(fingerprint)];
  const uint32_t tag = tag_of(fingerprint);
  if (!is_sampled(fingerprint) || shard.slots() == 0) return std::nullopt;
  uint64_t slot = home_of(tag, shard.slots());
  for (; shard.places[slot] != 0; slot = slot + 1 == shard.slots() ? 0 : slot + 1) {
    if (shard.tags[slot] != tag) continue;
    if (!is_live(tag, shard.places[slot])) return std::nullopt;
    return unpack(shard.places[slot]);
  }
  return std::nullopt;
}

SparseIndex::Stats SparseIndex::stats() const {
  Stats stats{.rate = rate_};
  for (const Shard& shard : shards_) {
    stats.entries += shard.used;
    stats.bytes += shard.slots() * kSlotBytes;
  }
  return stats;
}

}  // namespace squall
