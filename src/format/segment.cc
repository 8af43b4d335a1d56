#include "format/segment.h"

#include <algorithm>

#include "base/hash.h"

namespace squall {

namespace {
constexpr uint64_t kHeaderMagic = 0x5244484745535153;   // "SQSEGHDR"
constexpr uint64_t kTrailerMagic = 0x444e454745535153;  // "SQSEGEND"
constexpr uint32_t kRecordMagic = 0x43525153;           // "SQRC"
constexpr uint16_t kTrailerSealed = 1;
constexpr uint64_t kAlignment = 4096;
constexpr uint64_t kMaxRecordsPerSegment = kMaxSegmentBytes / kSectorBytes;

// Byte offsets of the fields. A version is three 16-bit numbers: major, minor, oldest minor.
namespace header_at {
constexpr size_t kMagic = 0, kVersion = 8, kPool = 16, kSegment = 32, kCreated = 40,
                 kChecksum = kSegmentHeaderBytes - 8;
}
namespace record_at {
constexpr size_t kChecksum = 0, kMagic = 8, kKind = 12, kCodec = 13, kFlags = 14, kRaw = 16,
                 kStored = 20, kKeyId = 24, kTag = 32;
static_assert(kTag + 16 == kRecordHeaderBytes);
}  // namespace record_at
namespace entry_at {
constexpr size_t kSector = 0, kSectors = 4, kKind = 6, kCodec = 7, kRaw = 8, kFirst = 12,
                 kCount = 16, kReserved = 18;
static_assert(kReserved + 6 == kRecordEntryBytes);
}  // namespace entry_at
namespace trailer_at {
constexpr size_t kMagic = 0, kVersion = 8, kFlags = 14, kPool = 16, kSegment = 32,
                 kFooterOffset = 40, kFooterBytes = 48, kRecords = 56, kFingerprints = 60,
                 kFingerprintOffset = 64, kRawBytes = 72, kStoredBytes = 80, kFooterChecksum = 88,
                 kChecksum = kSegmentTrailerBytes - 8;
}

bool is_known_kind(uint8_t kind) {
  return kind == static_cast<uint8_t>(RecordKind::kChunk) ||
         kind == static_cast<uint8_t>(RecordKind::kPage);
}
bool is_known_codec(uint8_t codec) {
  return codec <= static_cast<uint8_t>(Codec::kZstd);
}

Result<void> check_version(const std::byte* at, size_t version_at, std::string_view what) {
  const auto major = load_le<uint16_t>(at + version_at);
  const auto minor_oldest = load_le<uint16_t>(at + version_at + 4);
  if (major != kSegmentMajor || minor_oldest > kSegmentMinor)
    return fail(ErrorKind::kUnsupported,
                "{} has format version {} (readable from {}.{} on); this build reads {}.{}", what,
                major, major, minor_oldest, kSegmentMajor, kSegmentMinor);
  return {};
}
void store_version(std::byte* at, size_t version_at) {
  store_le(at + version_at, kSegmentMajor);
  store_le(at + version_at + 2, kSegmentMinor);
  store_le(at + version_at + 4, kSegmentMinorOldest);
}

uint64_t fingerprint_offset_of(uint64_t records) {
  return round_up(records * kRecordEntryBytes, 8);
}
}  // namespace

Result<Codec> parse_codec(std::string_view text) {
  if (text == "none") return Codec::kNone;
  if (text == "lz4") return Codec::kLz4;
  if (text == "zstd") return Codec::kZstd;
  return fail(ErrorKind::kInvalid, "codec '{}' is not one of none, lz4, zstd", text);
}
std::string_view to_string(Codec codec) {
  switch (codec) {
    case Codec::kNone:
      return "none";
    case Codec::kLz4:
      return "lz4";
    case Codec::kZstd:
      return "zstd";
  }
  return "unknown";
}
std::string_view to_string(RecordKind kind) {
  switch (kind) {
    case RecordKind::kChunk:
      return "chunk";
    case RecordKind::kPage:
      return "index page";
  }
  return "unknown";
}

uint64_t pool_seed(const Uuid& pool) {
  return checksum(pool.bytes, 0);
}
uint64_t segment_seed(uint64_t pool_seed, SegmentId segment) {
  return mix(pool_seed, segment);
}
uint64_t record_seed(uint64_t pool_seed, SegmentId segment, uint64_t sector) {
  return mix(segment_seed(pool_seed, segment), sector);
}

void encode_segment_header(const SegmentHeader& header, Bytes to) {
  CHECK(to.size() == kSegmentHeaderBytes);
  std::byte* at = to.data();
  std::memset(at, 0, to.size());
  store_le(at + header_at::kMagic, kHeaderMagic);
  store_version(at, header_at::kVersion);
  std::ranges::copy(header.pool.bytes, at + header_at::kPool);
  store_le(at + header_at::kSegment, header.segment);
  store_le(at + header_at::kCreated, header.created_s);
  store_le(at + header_at::kChecksum, checksum(to.first(header_at::kChecksum), 0));
}

Result<SegmentHeader> decode_segment_header(ConstBytes from) {
  if (from.size() < kSegmentHeaderBytes)
    return fail(ErrorKind::kCorrupt, "segment header is cut short");
  const std::byte* at = from.data();
  if (load_le<uint64_t>(at + header_at::kMagic) != kHeaderMagic)
    return fail(ErrorKind::kCorrupt, "segment header has no magic number");
  if (load_le<uint64_t>(at + header_at::kChecksum) != checksum(from.first(header_at::kChecksum), 0))
    return fail(ErrorKind::kCorrupt, "segment header fails its checksum");
  TRY(check_version(at, header_at::kVersion, "segment"));
  SegmentHeader header;
  std::copy_n(at + header_at::kPool, header.pool.bytes.size(), header.pool.bytes.begin());
  header.segment = load_le<uint64_t>(at + header_at::kSegment);
  header.created_s = load_le<int64_t>(at + header_at::kCreated);
  return header;
}

void encode_record_header(const RecordHeader& header, uint64_t seed, Bytes to) {
  const uint64_t bytes = kRecordHeaderBytes + header.stored_bytes;
  CHECK(to.size() >= bytes);
  CHECK(header.raw_bytes > 0 && header.raw_bytes <= kMaxPayloadBytes);
  CHECK(header.stored_bytes > 0 && header.stored_bytes <= header.raw_bytes);
  std::byte* at = to.data();
  store_le(at + record_at::kMagic, kRecordMagic);
  store_le(at + record_at::kKind, static_cast<uint8_t>(header.kind));
  store_le(at + record_at::kCodec, static_cast<uint8_t>(header.codec));
  store_le(at + record_at::kFlags, header.flags);
  store_le(at + record_at::kRaw, header.raw_bytes);
  store_le(at + record_at::kStored, header.stored_bytes);
  store_le(at + record_at::kKeyId, header.key_id);
  std::ranges::copy(header.tag, at + record_at::kTag);
  store_le(at + record_at::kChecksum,
           checksum(to.subspan(record_at::kMagic, bytes - record_at::kMagic), seed));
}

bool has_record_magic(ConstBytes from) {
  return from.size() >= kRecordHeaderBytes &&
         load_le<uint32_t>(from.data() + record_at::kMagic) == kRecordMagic;
}

Result<RecordView> decode_record(ConstBytes from, uint64_t seed) {
  if (!has_record_magic(from)) return fail(ErrorKind::kCorrupt, "no record begins here");
  const std::byte* at = from.data();
  const auto raw_bytes = load_le<uint32_t>(at + record_at::kRaw);
  const auto stored_bytes = load_le<uint32_t>(at + record_at::kStored);
  if (raw_bytes == 0 || raw_bytes > kMaxPayloadBytes || stored_bytes == 0 ||
      stored_bytes > raw_bytes || kRecordHeaderBytes + stored_bytes > from.size())
    return fail(ErrorKind::kCorrupt, "record has impossible lengths (raw {}, stored {})", raw_bytes,
                stored_bytes);
  const ConstBytes covered =
      from.subspan(record_at::kMagic, kRecordHeaderBytes + stored_bytes - record_at::kMagic);
  if (load_le<uint64_t>(at + record_at::kChecksum) != checksum(covered, seed))
    return fail(ErrorKind::kCorrupt, "record fails its checksum");
  const auto kind = load_le<uint8_t>(at + record_at::kKind);
  const auto codec = load_le<uint8_t>(at + record_at::kCodec);
  if (!is_known_kind(kind) || !is_known_codec(codec))
    return fail(ErrorKind::kUnsupported, "record has kind {} and codec {}, unknown to this build",
                kind, codec);
  RecordView view;
  view.header = {.kind = static_cast<RecordKind>(kind),
                 .codec = static_cast<Codec>(codec),
                 .flags = load_le<uint16_t>(at + record_at::kFlags),
                 .raw_bytes = raw_bytes,
                 .stored_bytes = stored_bytes,
                 .key_id = load_le<uint64_t>(at + record_at::kKeyId)};
  std::copy_n(at + record_at::kTag, view.header.tag.size(), view.header.tag.begin());
  if (view.header.codec == Codec::kNone && raw_bytes != stored_bytes)
    return fail(ErrorKind::kCorrupt, "uncompressed record has two lengths (raw {}, stored {})",
                raw_bytes, stored_bytes);
  view.payload = from.subspan(kRecordHeaderBytes, stored_bytes);
  return view;
}

namespace {
void encode_entry(const RecordEntry& entry, std::byte* at) {
  store_le(at + entry_at::kSector, entry.sector);
  store_le(at + entry_at::kSectors, entry.sectors);
  store_le(at + entry_at::kKind, static_cast<uint8_t>(entry.kind));
  store_le(at + entry_at::kCodec, static_cast<uint8_t>(entry.codec));
  store_le(at + entry_at::kRaw, entry.raw_bytes);
  store_le(at + entry_at::kFirst, entry.first_fingerprint);
  store_le(at + entry_at::kCount, entry.fingerprints);
}

// `next_sector`: the first that no earlier entry takes; `end_sector`: of the record area.
Result<RecordEntry> decode_entry(const std::byte* at, uint64_t next_sector, uint64_t end_sector,
                                 uint64_t fingerprints) {
  const auto kind = load_le<uint8_t>(at + entry_at::kKind);
  const auto codec = load_le<uint8_t>(at + entry_at::kCodec);
  if (!is_known_kind(kind) || !is_known_codec(codec))
    return fail(ErrorKind::kUnsupported, "footer names kind {} and codec {}, unknown to this build",
                kind, codec);
  const RecordEntry entry{.sector = load_le<uint32_t>(at + entry_at::kSector),
                          .sectors = load_le<uint16_t>(at + entry_at::kSectors),
                          .kind = static_cast<RecordKind>(kind),
                          .codec = static_cast<Codec>(codec),
                          .raw_bytes = load_le<uint32_t>(at + entry_at::kRaw),
                          .first_fingerprint = load_le<uint32_t>(at + entry_at::kFirst),
                          .fingerprints = load_le<uint16_t>(at + entry_at::kCount)};
  if (entry.sector < next_sector || entry.sectors == 0 || entry.sectors > kMaxRecordSectors ||
      uint64_t{entry.sector} + entry.sectors > end_sector || entry.raw_bytes == 0 ||
      entry.raw_bytes > kMaxPayloadBytes ||
      uint64_t{entry.first_fingerprint} + entry.fingerprints > fingerprints)
    return fail(ErrorKind::kCorrupt, "footer has an impossible record (sector {}, {} sectors)",
                entry.sector, entry.sectors);
  return entry;
}
}  // namespace

uint64_t footer_and_trailer_bytes(uint64_t records, uint64_t fingerprints) {
  const uint64_t sections = fingerprint_offset_of(records) + fingerprints * kFingerprintBytes;
  return round_up(sections + kSegmentTrailerBytes, kAlignment);
}

std::vector<std::byte> encode_segment_footer(const Uuid& pool, SegmentId segment,
                                             uint64_t footer_offset,
                                             const std::vector<RecordEntry>& records,
                                             const std::vector<Fingerprint>& fingerprints) {
  CHECK(footer_offset % kAlignment == 0 && footer_offset >= kSegmentHeaderBytes);
  std::vector<std::byte> bytes(footer_and_trailer_bytes(records.size(), fingerprints.size()));
  uint64_t raw_bytes = 0, stored_bytes = 0;
  for (size_t i = 0; i < records.size(); ++i) {
    encode_entry(records[i], bytes.data() + i * kRecordEntryBytes);
    raw_bytes += records[i].raw_bytes;
    stored_bytes += records[i].sectors * kSectorBytes;
  }
  std::byte* to = bytes.data() + fingerprint_offset_of(records.size());
  for (const Fingerprint& fingerprint : fingerprints) to = std::ranges::copy(fingerprint, to).out;

  const Bytes footer = Bytes(bytes).first(bytes.size() - kSegmentTrailerBytes);
  const Bytes trailer = Bytes(bytes).last(kSegmentTrailerBytes);
  const uint64_t seed = segment_seed(pool_seed(pool), segment);
  std::byte* at = trailer.data();
  store_le(at + trailer_at::kMagic, kTrailerMagic);
  store_version(at, trailer_at::kVersion);
  store_le(at + trailer_at::kFlags, kTrailerSealed);
  std::ranges::copy(pool.bytes, at + trailer_at::kPool);
  store_le(at + trailer_at::kSegment, segment);
  store_le(at + trailer_at::kFooterOffset, footer_offset);
  store_le<uint64_t>(at + trailer_at::kFooterBytes, footer.size());
  store_le(at + trailer_at::kRecords, static_cast<uint32_t>(records.size()));
  store_le(at + trailer_at::kFingerprints, static_cast<uint32_t>(fingerprints.size()));
  if (!fingerprints.empty())
    store_le(at + trailer_at::kFingerprintOffset, fingerprint_offset_of(records.size()));
  store_le(at + trailer_at::kRawBytes, raw_bytes);
  store_le(at + trailer_at::kStoredBytes, stored_bytes);
  store_le(at + trailer_at::kFooterChecksum, checksum(footer, seed));
  store_le(at + trailer_at::kChecksum, checksum(trailer.first(trailer_at::kChecksum), seed));
  return bytes;
}

namespace {
// Whether the places that a verified trailer names fit each other and the segment.
bool is_consistent(const SegmentTrailer& trailer, uint64_t segment_bytes) {
  const uint64_t table_bytes = trailer.records * kRecordEntryBytes;
  const uint64_t fingerprint_bytes = trailer.fingerprints * kFingerprintBytes;
  return segment_bytes <= kMaxSegmentBytes && trailer.footer_offset <= segment_bytes &&
         trailer.footer_bytes <= segment_bytes && trailer.footer_offset >= kSegmentHeaderBytes &&
         trailer.footer_offset % kAlignment == 0 &&
         trailer.footer_offset + trailer.footer_bytes + kSegmentTrailerBytes == segment_bytes &&
         trailer.records <= kMaxRecordsPerSegment && table_bytes <= trailer.footer_bytes &&
         (trailer.fingerprints == 0 ||
          (trailer.fingerprint_offset >= table_bytes &&
           trailer.fingerprint_offset <= trailer.footer_bytes &&
           fingerprint_bytes <= trailer.footer_bytes - trailer.fingerprint_offset));
}
}  // namespace

Result<SegmentTrailer> decode_segment_trailer(ConstBytes last_sector, const Uuid& pool,
                                              SegmentId segment, uint64_t segment_bytes) {
  if (last_sector.size() != kSegmentTrailerBytes)
    return fail(ErrorKind::kCorrupt, "segment {} has no trailer", segment);
  const std::byte* at = last_sector.data();
  if (load_le<uint64_t>(at + trailer_at::kMagic) != kTrailerMagic)
    return fail(ErrorKind::kCorrupt, "segment {} has no trailer", segment);
  const uint64_t seed = segment_seed(pool_seed(pool), segment);
  if (load_le<uint64_t>(at + trailer_at::kChecksum) !=
      checksum(last_sector.first(trailer_at::kChecksum), seed))
    return fail(ErrorKind::kCorrupt, "the trailer of segment {} fails its checksum", segment);
  TRY(check_version(at, trailer_at::kVersion, fmt::format("the footer of segment {}", segment)));
  SegmentTrailer trailer{
      .sealed = (load_le<uint16_t>(at + trailer_at::kFlags) & kTrailerSealed) != 0,
      .pool = pool,
      .segment = load_le<uint64_t>(at + trailer_at::kSegment),
      .footer_offset = load_le<uint64_t>(at + trailer_at::kFooterOffset),
      .footer_bytes = load_le<uint64_t>(at + trailer_at::kFooterBytes),
      .records = load_le<uint32_t>(at + trailer_at::kRecords),
      .fingerprints = load_le<uint32_t>(at + trailer_at::kFingerprints),
      .fingerprint_offset = load_le<uint64_t>(at + trailer_at::kFingerprintOffset),
      .raw_bytes = load_le<uint64_t>(at + trailer_at::kRawBytes),
      .stored_bytes = load_le<uint64_t>(at + trailer_at::kStoredBytes),
      .footer_checksum = load_le<uint64_t>(at + trailer_at::kFooterChecksum)};
  if (trailer.segment != segment || !is_consistent(trailer, segment_bytes))
    return fail(ErrorKind::kCorrupt, "the trailer of segment {} contradicts itself", segment);
  return trailer;
}

Result<std::vector<RecordEntry>> decode_record_entries(const SegmentTrailer& trailer,
                                                       ConstBytes table) {
  std::vector<RecordEntry> records;
  records.reserve(table.size() / kRecordEntryBytes);
  uint64_t next_sector = kSegmentHeaderBytes / kSectorBytes;
  for (; table.size() >= kRecordEntryBytes; table = table.subspan(kRecordEntryBytes)) {
    TRY_ASSIGN(const RecordEntry entry,
               decode_entry(table.data(), next_sector, trailer.footer_offset / kSectorBytes,
                            trailer.fingerprints));
    next_sector = entry.sector + entry.sectors;
    records.push_back(entry);
  }
  return records;
}

std::vector<Fingerprint> decode_fingerprints(ConstBytes section) {
  std::vector<Fingerprint> fingerprints(section.size() / kFingerprintBytes);
  const std::byte* from = section.data();
  for (Fingerprint& fingerprint : fingerprints) {
    std::copy_n(from, fingerprint.size(), fingerprint.begin());
    from += fingerprint.size();
  }
  return fingerprints;
}

bool looks_like_segment_trailer(ConstBytes last_sector, const Uuid& pool) {
  if (last_sector.size() != kSegmentTrailerBytes) return false;
  return load_le<uint64_t>(last_sector.data() + trailer_at::kMagic) == kTrailerMagic ||
         std::ranges::equal(last_sector.subspan(trailer_at::kPool, pool.bytes.size()), pool.bytes);
}

Result<SegmentFooter> decode_segment_footer(const SegmentTrailer& trailer, ConstBytes footer) {
  const uint64_t seed = segment_seed(pool_seed(trailer.pool), trailer.segment);
  if (footer.size() != trailer.footer_bytes || checksum(footer, seed) != trailer.footer_checksum)
    return fail(ErrorKind::kCorrupt, "the footer of segment {} fails its checksum",
                trailer.segment);
  const uint64_t table_bytes = trailer.records * kRecordEntryBytes;
  SegmentFooter result{.trailer = trailer};
  TRY_ASSIGN(result.records, decode_record_entries(trailer, footer.first(table_bytes)));
  if (trailer.fingerprints != 0)  // without any their place means nothing
    result.fingerprints = decode_fingerprints(
        footer.subspan(trailer.fingerprint_offset, trailer.fingerprints * kFingerprintBytes));
  return result;
}

}  // namespace squall
