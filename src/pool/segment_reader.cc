#include "pool/segment_reader.h"

#include <algorithm>

#include "base/buffer.h"
#include "base/check.h"
#include "pool/fingerprint.h"
#include "pool/record_codec.h"

namespace squall {

namespace {
// Small, because a piece is decompressed and hashed in one go on the reactor's thread: a
// millisecond or two.
constexpr uint64_t kPieceBytes = kMiB;
constexpr uint64_t kMaxStoredBytes = kMaxRecordSectors * kSectorBytes;

Task<Result<void>> read_exactly(SegmentStore& segments, SegmentId id, Bytes to, uint64_t offset) {
  CO_TRY_ASSIGN(const size_t bytes, co_await segments.read(id, to, offset));
  if (bytes != to.size())
    co_return fail(ErrorKind::kCorrupt, "segment {} ends at offset {}, expected {}", id,
                   offset + bytes, offset + to.size());
  co_return Result<void>();
}

// Fills a SegmentScan, window after window.
class Scanner {
 public:
  Scanner(const Uuid& pool, SegmentId id) : pool_seed_(pool_seed(pool)), id_(id) {}

  // Looks for records that begin before `limit` in `window`, which lies at `base` of the segment;
  // both are offsets in the segment. Goes on where the last window's records ended.
  void look_at(ConstBytes window, uint64_t base, uint64_t limit) {
    scan_.blank = scan_.blank && is_zero(window);
    next_ = std::max(next_, base);
    while (next_ < limit) {
      const ConstBytes from = window.subspan(next_ - base);
      const uint64_t sector = next_ / kSectorBytes;
      if (const auto record = find_record(from, sector)) {
        add(*record, sector);
        next_ += record->header.sectors() * kSectorBytes;
        scan_.end_bytes = next_;
      } else {
        next_ += kSectorBytes;
      }
    }
  }
  SegmentScan take() { return std::move(scan_); }

 private:
  std::optional<RecordView> find_record(ConstBytes from, uint64_t sector) const {
    if (!has_record_magic(from)) return std::nullopt;
    auto record = decode_record(from, record_seed(pool_seed_, id_, sector));
    if (!record) return std::nullopt;
    return *record;
  }
  void add(const RecordView& record, uint64_t sector) {
    const RecordHeader& header = record.header;
    const size_t first = scan_.fingerprints.size();
    if (header.kind == RecordKind::kChunk) {
      const Bytes payload = Bytes(payload_).first(header.raw_bytes);
      if (codec_.decode(header.codec, record.payload, payload))
        fingerprinter_.append(payload, scan_.fingerprints);
    }
    scan_.records.push_back(
        {.sector = static_cast<uint32_t>(sector),
         .sectors = static_cast<uint16_t>(header.sectors()),
         .kind = header.kind,
         .codec = header.codec,
         .raw_bytes = header.raw_bytes,
         .first_fingerprint = static_cast<uint32_t>(first),
         .fingerprints = static_cast<uint16_t>(scan_.fingerprints.size() - first)});
  }

  uint64_t pool_seed_;
  SegmentId id_;
  RecordCodec codec_{Codec::kNone};
  Fingerprinter fingerprinter_;
  std::vector<std::byte> payload_ = std::vector<std::byte>(kMaxPayloadBytes);
  uint64_t next_ = kSegmentHeaderBytes;
  SegmentScan scan_;
};
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

Task<Result<FooterPart>> read_footer_part(SegmentStore& segments, SegmentTrailer trailer,
                                          uint64_t first, uint64_t count) {
  if (first >= trailer.records)
    co_return fail(ErrorKind::kNotFound, "the footer of segment {} has {} lines", trailer.segment,
                   trailer.records);
  count = std::min(count, trailer.records - first);
  AlignedBuffer table(count * kRecordEntryBytes);
  CO_TRY(co_await read_exactly(segments, trailer.segment, table.bytes(),
                               trailer.footer_offset + first * kRecordEntryBytes));
  FooterPart part;
  CO_TRY_ASSIGN(part.records, decode_record_entries(trailer, table.bytes()));
  uint64_t begin = trailer.fingerprints, end = 0;
  for (const RecordEntry& entry : part.records) {
    if (entry.fingerprints == 0) continue;
    begin = std::min<uint64_t>(begin, entry.first_fingerprint);
    end = std::max<uint64_t>(end, entry.first_fingerprint + entry.fingerprints);
  }
  if (begin >= end) co_return part;
  // Writers append them in the order of the lines.
  if (end - begin > count * (kMaxPayloadBytes / kBlockBytes))
    co_return fail(ErrorKind::kCorrupt, "the footer of segment {} has its fingerprints in disorder",
                   trailer.segment);
  AlignedBuffer section((end - begin) * kFingerprintBytes);
  CO_TRY(co_await read_exactly(
      segments, trailer.segment, section.bytes(),
      trailer.footer_offset + trailer.fingerprint_offset + begin * kFingerprintBytes));
  part.fingerprints = decode_fingerprints(section.bytes());
  part.first_fingerprint = begin;
  co_return part;
}

Task<Result<SegmentScan>> scan_segment(SegmentStore& segments, Uuid pool, SegmentId id,
                                       uint64_t segment_bytes, std::function<bool()> cancelled) {
  Scanner scanner(pool, id);
  // A record that begins in a piece may end behind it: each window reaches that much further.
  AlignedBuffer window(std::min(segment_bytes, kPieceBytes + kMaxStoredBytes));
  for (uint64_t base = 0; base < segment_bytes; base += kPieceBytes) {
    if (cancelled()) co_return fail(ErrorKind::kCancelled, "scan of segment {} stopped", id);
    const Bytes piece = window.bytes().first(std::min(window.size(), segment_bytes - base));
    CO_TRY(co_await read_exactly(segments, id, piece, base));
    scanner.look_at(piece, base, std::min(base + kPieceBytes, base + piece.size()));
  }
  co_return scanner.take();
}

Task<Result<void>> rewrite_segment_header(SegmentStore& segments, Uuid pool, SegmentId id) {
  AlignedBuffer bytes(kSegmentHeaderBytes);
  encode_segment_header({.pool = pool, .segment = id}, bytes.bytes());
  const iovec iov{bytes.data(), bytes.size()};
  CO_TRY(co_await segments.write(id, std::span(&iov, 1), 0));
  co_return co_await segments.sync(id);
}

Task<Result<void>> write_segment_footer(SegmentStore& segments, SegmentId id,
                                        uint64_t footer_offset, std::vector<std::byte> footer) {
  const Bytes trailer = Bytes(footer).last(kSegmentTrailerBytes);
  std::vector<std::byte> kept(trailer.begin(), trailer.end());
  std::ranges::fill(trailer, std::byte{0});
  const iovec all{footer.data(), footer.size()};
  CO_TRY(co_await segments.write(id, std::span(&all, 1), footer_offset));
  CO_TRY(co_await segments.sync(id));
  // The whole block that holds the trailer: writes are aligned to blocks.
  std::ranges::copy(kept, trailer.begin());
  const Bytes block = Bytes(footer).last(kBlockBytes);
  const iovec last{block.data(), block.size()};
  CO_TRY(co_await segments.write(id, std::span(&last, 1),
                                 footer_offset + footer.size() - kBlockBytes));
  co_return co_await segments.sync(id);
}

Task<Result<uint64_t>> seal_segment(SegmentStore& segments, Uuid pool, SegmentId id,
                                    SegmentScan scan) {
  CHECK(!scan.records.empty());
  const uint64_t footer_offset = round_up(scan.end_bytes, kBlockBytes);
  // Its writer may have left room for none: those of volumes that do not deduplicate.
  if (footer_offset + footer_and_trailer_bytes(scan.records.size(), scan.fingerprints.size()) >
      kMaxSegmentBytes) {
    scan.fingerprints.clear();
    for (RecordEntry& entry : scan.records) entry.first_fingerprint = entry.fingerprints = 0;
  }
  CO_TRY(co_await segments.truncate(id, scan.end_bytes));
  std::vector<std::byte> footer =
      encode_segment_footer(pool, id, footer_offset, scan.records, scan.fingerprints);
  const uint64_t sealed_bytes = footer_offset + footer.size();
  CO_TRY(co_await write_segment_footer(segments, id, footer_offset, std::move(footer)));
  co_return sealed_bytes;
}

}  // namespace squall
