// FooterSlice: a neighbourhood of a segment's footer in memory: some lines of its table with their
// fingerprints, to be searched by fingerprint. Trusts nothing: lines that cannot be are left out.
// One thread's.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "pool/segment_reader.h"

namespace squall {

class FooterSlice {
 public:
  static constexpr uint64_t kRecords = 128;  // lines: 8 MiB of disk content in full chunks

  struct Content {
    FooterPart part;
    std::string open_in;  // the store whose writer still adds to the segment; empty: it is sealed
  };
  // A run of blocks of the chunk that line `record` of the slice describes.
  struct Run {
    uint32_t record = 0;
    uint32_t chunk_block = 0;
    uint32_t count = 0;
  };

  FooterSlice(SegmentId segment, Content content);

  // The longest run of blocks with the fingerprints that `wanted` begins with; none: count 0.
  Run longest_run(std::span<const Fingerprint> wanted) const;
  Address address(uint32_t record) const;
  uint32_t blocks_of(uint32_t record) const { return part_.records[record].fingerprints; }
  size_t records() const { return part_.records.size(); }
  // Its chunk turned out to be gone: it is not found again.
  void drop(uint32_t record) { part_.records[record].fingerprints = 0; }
  // What lies in an open segment is made durable by those who append to the same store only: to
  // others it is not there.
  bool is_for(std::string_view store) const { return open_in_.empty() || open_in_ == store; }
  // Whether line `record` of the slice might be there by now, had it been loaded later.
  bool may_have_grown_to(uint64_t record) const {
    return !open_in_.empty() && record >= part_.records.size();
  }
  uint64_t memory_bytes() const;

 private:
  struct Block {
    uint16_t record = 0;
    uint16_t next = 0;  // with the same hash, 1-based; 0: none
  };
  uint64_t first_block(uint32_t record) const {
    return part_.records[record].first_fingerprint - part_.first_fingerprint;
  }

  SegmentId segment_;
  FooterPart part_;
  std::string open_in_;
  std::vector<Block> blocks_;    // parallel to the fingerprints
  std::vector<uint16_t> heads_;  // by hash; 1-based places in blocks_
};

}  // namespace squall
