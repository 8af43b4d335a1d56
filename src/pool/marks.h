// Marks: which records of a set of sealed segments are reachable, and of a chunk which blocks. The
// bookkeeping of one garbage collection; no I/O. One reactor's thread.
//
// Memory: 7 bytes per record (4 place, 2 mask, 1 blocks), so about 23 MiB for 100 GiB of records of
// 32 KiB.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <unordered_set>
#include <vector>

#include "base/error.h"
#include "format/segment.h"

namespace squall {

struct ByteRange {
  uint64_t begin = 0;
  uint64_t end = 0;
  bool operator==(const ByteRange&) const = default;
};

// One segment's records in the order of their places.
class SegmentMarks {
 public:
  explicit SegmentMarks(const SegmentFooter& footer);

  size_t size() const { return places_.size(); }
  uint64_t sector(size_t i) const { return places_[i] >> 10; }
  uint64_t sectors(size_t i) const { return places_[i] >> 1 & 0x1ff; }
  uint64_t stored_bytes(size_t i) const { return sectors(i) * kSectorBytes; }
  bool is_page(size_t i) const { return (places_[i] & 1) != 0; }
  // A bit per block; of a page the lowest only. 0: nothing reaches the record.
  uint16_t live(size_t i) const { return live_[i]; }
  // Of what the record stores, how much is live: as many parts of it as blocks are.
  uint64_t live_bytes(size_t i) const;
  uint64_t footer_offset() const { return footer_offset_; }
  uint64_t segment_bytes() const { return segment_bytes_; }

  // The record at exactly that address, or size().
  size_t find(Address address, bool is_page) const;
  bool mark(size_t i, uint16_t blocks);  // false when they all were marked
  uint16_t all_blocks(size_t i) const;

  struct Totals {
    uint64_t records = 0;       // reachable
    uint64_t stored_bytes = 0;  // what those take
    uint64_t live_bytes = 0;    // the part of it that is
  };
  Totals totals() const;
  // What may be given back: runs of unreachable records with the gaps between them, aligned inward
  // to 4 KiB blocks; header and footer are never part of it.
  std::vector<ByteRange> dead_ranges() const;

 private:
  // sector 22 bits, sectors 9 bits, page 1 bit: ordered by sector.
  std::vector<uint32_t> places_;
  std::vector<uint16_t> live_;
  std::vector<uint8_t> blocks_;  // of a chunk; of a page 1
  uint64_t footer_offset_ = 0;
  uint64_t segment_bytes_ = 0;
};

class Marks {
 public:
  // `exists` knows the segments that are not part of the set: a reference to one that is nowhere is
  // damage.
  explicit Marks(std::function<bool(SegmentId)> exists) : exists_(std::move(exists)) {}

  void add_segment(const SegmentFooter& footer);
  const std::map<SegmentId, SegmentMarks>& segments() const { return segments_; }
  bool contains(Address address) const { return segments_.contains(address.segment()); }

  // True the first time. kCorrupt for an address at which the set has no page.
  Result<bool> mark_page(Address address);
  // kCorrupt for an address at which the set has no chunk with those blocks.
  Result<void> mark_blocks(Address chunk, uint64_t first_block, uint64_t count);
  // Marks a whole chunk; addresses outside the set are ignored.
  void mark_whole(Address chunk);
  // True for what may be referred to: marked, or not part of the set.
  bool is_live(Address address) const;

  uint64_t pages_marked() const { return pages_marked_; }

 private:
  SegmentMarks* find_segment(SegmentId segment);

  std::function<bool(SegmentId)> exists_;
  std::map<SegmentId, SegmentMarks> segments_;
  SegmentId last_id_ = 0;  // neighbours in an index lie in the same segment mostly
  SegmentMarks* last_ = nullptr;
  std::unordered_set<Address> newer_pages_;  // seen, in segments outside the set
  uint64_t pages_marked_ = 0;
};

}  // namespace squall
