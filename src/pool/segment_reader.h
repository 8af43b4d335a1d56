// Segments as such: reading trailer and footer, and making both again from the records where they
// are missing or damaged. Plain functions over a SegmentStore, which outlives the task; one
// reactor's thread.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/task.h"
#include "engine/segment_store.h"
#include "format/segment.h"

namespace squall {

// kCorrupt when there is none that is valid: the segment was not sealed, or its end is damaged.
Task<Result<SegmentTrailer>> read_segment_trailer(SegmentStore& segments, Uuid pool, SegmentId id,
                                                  uint64_t segment_bytes);
Task<Result<SegmentFooter>> read_segment_footer(SegmentStore& segments, SegmentTrailer trailer);

// The lines from `first` on, at most `count` of them, with the fingerprints they name; kNotFound
// where there are none. Plausible, not verified: the footer's checksum does not cover a part.
struct FooterPart {
  std::vector<RecordEntry> records;
  std::vector<Fingerprint> fingerprints;
  uint64_t first_fingerprint = 0;  // the number, in the segment, of the first of them

  std::span<const Fingerprint> fingerprints_of(uint64_t line) const {
    const RecordEntry& entry = records[line];
    if (entry.fingerprints == 0) return {};
    return std::span(fingerprints)
        .subspan(entry.first_fingerprint - first_fingerprint, entry.fingerprints);
  }
};
Task<Result<FooterPart>> read_footer_part(SegmentStore& segments, SegmentTrailer trailer,
                                          uint64_t first, uint64_t count);

// All that a footer says, found by reading the records.
struct SegmentScan {
  std::vector<RecordEntry> records;  // ascending; chunks with their fingerprints
  std::vector<Fingerprint> fingerprints;
  uint64_t end_bytes = 0;  // of the last record; 0 when there is none
  bool blank = true;       // not a byte that is not zero
};
// Finds every valid record by reading everything, in pieces. Goes on behind damage: what one rotten
// sector hides is only its own record. Ends early with kCancelled when `cancelled` says so between
// two pieces.
Task<Result<SegmentScan>> scan_segment(SegmentStore& segments, Uuid pool, SegmentId id,
                                       uint64_t segment_bytes, std::function<bool()> cancelled);

// Writes a segment's header anew, durably; when the segment was created is not known any more (0).
Task<Result<void>> rewrite_segment_header(SegmentStore& segments, Uuid pool, SegmentId id);
// Writes what encode_segment_footer gave to where the segment's records end, in two steps: the
// trailer only after all before it is durable, so that no crash leaves a trailer without its
// footer.
Task<Result<void>> write_segment_footer(SegmentStore& segments, SegmentId id,
                                        uint64_t footer_offset, std::vector<std::byte> footer);

// Seals a segment as its scan found it: cuts off what lies behind the last record, an old footer
// included, writes the footer and makes it durable. Returns the new length. The scan
// has found a record.
Task<Result<uint64_t>> seal_segment(SegmentStore& segments, Uuid pool, SegmentId id,
                                    SegmentScan scan);

}  // namespace squall
