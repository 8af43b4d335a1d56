#include "pool/segment_reader.h"

#include <algorithm>

#include "base/buffer.h"

namespace squall {

namespace {
constexpr uint64_t kPieceBytes = 4 * kMiB;
constexpr uint64_t kMaxStoredBytes = kMaxRecordSectors * kSectorBytes;

Task<Result<void>> read_exactly(SegmentStore& segments, SegmentId id, Bytes to, uint64_t offset) {
  CO_TRY_ASSIGN(const size_t bytes, co_await segments.read(id, to, offset));
  if (bytes != to.size())
    co_return fail(ErrorKind::kCorrupt, "segment {} ends at offset {}, expected {}", id,
                   offset + bytes, offset + to.size());
  co_return Result<void>();
}

// Looks for records in `window`, which lies at `base` of the segment, from `at` on (an offset in
// the segment) and before `limit`. Returns where to go on.
uint64_t scan_window(ConstBytes window, uint64_t base, uint64_t at, uint64_t limit,
                     uint64_t pool_seed, SegmentId id, SegmentScan& scan) {
  while (at < limit) {
    const uint64_t sector = at / kSectorBytes;
    const ConstBytes from = window.subspan(at - base);
    if (!has_record_magic(from)) {
      at += kSectorBytes;
      continue;
    }
    const auto record = decode_record(from, record_seed(pool_seed, id, sector));
    if (!record) {
      at += kSectorBytes;
      continue;
    }
    const RecordHeader& header = record->header;
    scan.records.push_back({.sector = static_cast<uint32_t>(sector),
                            .sectors = static_cast<uint16_t>(header.sectors()),
                            .kind = header.kind,
                            .codec = header.codec,
                            .raw_bytes = header.raw_bytes});
    at += header.sectors() * kSectorBytes;
    scan.end_bytes = at;
  }
  return at;
}
}  // namespace

Task<Result<SegmentTrailer>> read_segment_trailer(SegmentStore& segments, Uuid pool, SegmentId id,
                                                  uint64_t segment_bytes) {
  if (segment_bytes < kSegmentHeaderBytes + kSegmentTrailerBytes)
    co_return fail(ErrorKind::kCorrupt, "segment {} has no trailer", id);
  AlignedBuffer sector(kSegmentTrailerBytes);
  CO_TRY(co_await read_exactly(segments, id, sector.bytes(), segment_bytes - kSegmentTrailerBytes));
  co_return decode_segment_trailer(sector.bytes(), pool, id, segment_bytes);
}

Task<Result<SegmentFooter>> read_segment_footer(SegmentStore& segments, SegmentTrailer trailer) {
  // At most kMaxSegmentBytes: decode_segment_trailer has compared it with the segment's length.
  AlignedBuffer footer(trailer.footer_bytes);
  CO_TRY(co_await read_exactly(segments, trailer.segment, footer.bytes(), trailer.footer_offset));
  co_return decode_segment_footer(trailer, footer.bytes());
}

Task<Result<SegmentScan>> scan_segment(SegmentStore& segments, Uuid pool, SegmentId id,
                                       uint64_t segment_bytes, std::function<bool()> cancelled) {
  SegmentScan scan;
  const uint64_t seed = pool_seed(pool);
  // A record that begins in a piece may end behind it: each window reaches that much further.
  AlignedBuffer window(std::min(segment_bytes, kPieceBytes + kMaxStoredBytes));
  uint64_t at = kSegmentHeaderBytes;
  for (uint64_t base = 0; base < segment_bytes; base += kPieceBytes) {
    if (cancelled()) co_return fail(ErrorKind::kCancelled, "scan of segment {} stopped", id);
    const Bytes piece = window.bytes().first(std::min(window.size(), segment_bytes - base));
    CO_TRY(co_await read_exactly(segments, id, piece, base));
    scan.blank = scan.blank && is_zero(piece);
    const uint64_t limit = std::min(base + kPieceBytes, base + piece.size());
    at = scan_window(piece, base, std::max(at, base), limit, seed, id, scan);
  }
  co_return scan;
}

}  // namespace squall
