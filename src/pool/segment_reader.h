// Segments as such: reading trailer and footer, and making both again from the records where they
// are missing or damaged. Plain functions over a SegmentStore, which outlives the task; one
// reactor's thread.
#pragma once

#include <functional>
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

// Seals a segment as its scan found it: cuts off what lies behind the last record, an old footer
// included, writes the footer and makes it durable. The scan has found a record.
Task<Result<void>> seal_segment(SegmentStore& segments, Uuid pool, SegmentId id, SegmentScan scan);

}  // namespace squall
