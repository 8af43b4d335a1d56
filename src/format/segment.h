// The bytes of a segment: header, records, footer, trailer (docs/FORMAT.md, "Segments").
//
//   0        SegmentHeader, 4 KiB
//   4096     records, each on a 512-byte sector: RecordHeader, stored payload, zeros to the sector
//   footer   on a 4 KiB boundary: table of RecordEntry, then optional sections (fingerprints)
//   trailer  SegmentTrailer in the last sector; its end is a 4 KiB boundary
//
// Between records there may be sectors that belong to none: writers start every write on a 4 KiB
// boundary, so that a device with 4 KiB physical sectors which loses power in the middle of one
// cannot hurt what an earlier sync promised. A segment without a valid trailer was open when its
// writer died; its records are found by scanning.
//
// Checksums (XXH3-64) are seeded with the pool and the place: a valid structure found in the wrong
// pool, segment or sector does not verify. Pure: encode and decode only, no state, no I/O; safe
// from any thread. Lengths in decoded structures have been checked against their limits.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/uuid.h"
#include "format/address.h"

namespace squall {

enum class RecordKind : uint8_t { kChunk = 1, kPage = 2 };
enum class Codec : uint8_t { kNone = 0, kLz4 = 1, kZstd = 2 };

Result<Codec> parse_codec(std::string_view text);
std::string_view to_string(Codec codec);
std::string_view to_string(RecordKind kind);

constexpr uint16_t kSegmentMajor = 1;        // another major: not readable
constexpr uint16_t kSegmentMinor = 0;        // this writer's
constexpr uint16_t kSegmentMinorOldest = 0;  // a reader of this minor or newer can read it

constexpr uint64_t kSegmentHeaderBytes = 4096;
constexpr uint64_t kSegmentTrailerBytes = kSectorBytes;
constexpr uint64_t kRecordHeaderBytes = 48;
constexpr uint64_t kRecordEntryBytes = 24;
constexpr uint64_t kFingerprintBytes = 20;  // of SHA-256, one per 4 KiB block
constexpr uint64_t kMaxPayloadBytes = 64 * kKiB;
// What a record of `stored_bytes` of payload takes: header, payload, padding.
constexpr uint64_t record_sectors(uint64_t stored_bytes) {
  return (kRecordHeaderBytes + stored_bytes + kSectorBytes - 1) / kSectorBytes;
}
constexpr uint64_t kMaxRecordSectors = record_sectors(kMaxPayloadBytes);
static_assert(kMaxRecordSectors * kSectorBytes <= kMaxRecordBytes);

// Seeds. `pool_seed` stands for the pool's id.
uint64_t pool_seed(const Uuid& pool);
uint64_t segment_seed(uint64_t pool_seed, SegmentId segment);
uint64_t record_seed(uint64_t pool_seed, SegmentId segment, uint64_t sector);

struct SegmentHeader {
  Uuid pool;
  SegmentId segment = 0;
  int64_t created_s = 0;  // seconds since 1970
  bool operator==(const SegmentHeader&) const = default;
};
// `to` holds kSegmentHeaderBytes.
void encode_segment_header(const SegmentHeader& header, Bytes to);
// kCorrupt, or kUnsupported for a version that this build does not know. The checksum has no seed,
// so that a segment of another pool can be told from a damaged one.
Result<SegmentHeader> decode_segment_header(ConstBytes from);

struct RecordHeader {
  RecordKind kind = RecordKind::kChunk;
  Codec codec = Codec::kNone;
  uint16_t flags = 0;
  uint32_t raw_bytes = 0;     // payload, decompressed: 1 to kMaxPayloadBytes
  uint32_t stored_bytes = 0;  // payload as it lies on disk: 1 to raw_bytes
  uint64_t key_id = 0;        // reserved for encryption, with the tag
  std::array<std::byte, 16> tag{};
  uint64_t sectors() const { return record_sectors(stored_bytes); }
  bool operator==(const RecordHeader&) const = default;
};
// Writes the header in front of the payload, which must already lie at kRecordHeaderBytes in `to`
// (at least header and payload long): the checksum covers both.
void encode_record_header(const RecordHeader& header, uint64_t seed, Bytes to);
// Cheap test before decode_record: could a record begin here?
bool has_record_magic(ConstBytes from);
struct RecordView {
  RecordHeader header;
  ConstBytes payload;  // stored form, within `from`
};
// Verifies the record that begins at `from`'s first byte; `from` may extend beyond its end.
Result<RecordView> decode_record(ConstBytes from, uint64_t seed);

// One line of a footer's table.
struct RecordEntry {
  uint32_t sector = 0;
  uint16_t sectors = 0;
  RecordKind kind = RecordKind::kChunk;
  Codec codec = Codec::kNone;
  uint32_t raw_bytes = 0;
  uint32_t first_fingerprint = 0;  // index into the fingerprint section
  uint16_t fingerprints = 0;       // one per 4 KiB block of the payload, or 0: not deduplicated
  bool operator==(const RecordEntry&) const = default;
};

struct SegmentTrailer {
  bool sealed = true;
  Uuid pool;
  SegmentId segment = 0;
  uint64_t footer_offset = 0;  // bytes; also the end of the record area, rounded up to 4 KiB
  uint64_t footer_bytes = 0;   // from footer_offset to the trailer, padding included
  uint32_t records = 0;        // the record table lies at footer_offset
  uint32_t fingerprints = 0;
  uint64_t fingerprint_offset = 0;  // bytes from footer_offset; 0 when there are none
  uint64_t raw_bytes = 0;           // payloads together, decompressed
  uint64_t stored_bytes = 0;        // records together, as they lie on disk
  uint64_t footer_checksum = 0;     // over footer_bytes, seeded with the segment
  bool operator==(const SegmentTrailer&) const = default;
};

using Fingerprint = std::array<std::byte, kFingerprintBytes>;

struct SegmentFooter {
  SegmentTrailer trailer;
  std::vector<RecordEntry> records;       // ascending by sector, not overlapping
  std::vector<Fingerprint> fingerprints;  // empty: none were taken
};

// Footer and trailer together, for so many records and fingerprints; a multiple of 4 KiB.
uint64_t footer_and_trailer_bytes(uint64_t records, uint64_t fingerprints);

// The bytes from `footer_offset` (a multiple of 4 KiB, at or beyond the last record's end) to the
// segment's end. Sums and counts in the trailer are computed.
std::vector<std::byte> encode_segment_footer(const Uuid& pool, SegmentId segment,
                                             uint64_t footer_offset,
                                             const std::vector<RecordEntry>& records,
                                             const std::vector<Fingerprint>& fingerprints);

// A part of a footer, for readers who need few lines of a long one. The footer's checksum does not
// cover a part: what is decoded is plausible, not verified. `table` is as many whole lines as the
// result has, the first of them at any place of the table.
Result<std::vector<RecordEntry>> decode_record_entries(const SegmentTrailer& trailer,
                                                       ConstBytes table);
std::vector<Fingerprint> decode_fingerprints(ConstBytes section);

// `last_sector` are the last kSegmentTrailerBytes of a segment of `segment_bytes`.
Result<SegmentTrailer> decode_segment_trailer(ConstBytes last_sector, const Uuid& pool,
                                              SegmentId segment, uint64_t segment_bytes);
// Whether a sector that holds no valid trailer held one before it was damaged: it has the magic
// number or names the pool where a trailer does. A trailer never lands in part, so no crash leaves
// such a sector.
bool looks_like_segment_trailer(ConstBytes last_sector, const Uuid& pool);
// `footer` are the trailer's footer_bytes from its footer_offset on.
Result<SegmentFooter> decode_segment_footer(const SegmentTrailer& trailer, ConstBytes footer);

}  // namespace squall
