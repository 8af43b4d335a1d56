#include "format/journal.h"

#include <algorithm>

#include "base/check.h"
#include "base/codec.h"
#include "base/hash.h"

namespace squall::journal_format {

namespace {
constexpr uint64_t kFileMagic = 0x314c4e524a515351;     // "QSQJRNL1"
constexpr uint32_t kRecordMagic = 0x4352514a;           // "JQRC"
constexpr uint64_t kStartMagic = 0x315453524e4a5153;    // "SQJNRST1"
constexpr uint64_t kTrailerMagic = 0x315854494e4a5153;  // "SQJNITX1"
constexpr uint64_t kEntryBytes = 56;
constexpr size_t kRecordChecksumOffset = 56;

void copy_with_checksum(std::string_view body, uint64_t seed, Bytes out) {
  CHECK(body.size() + 8 <= out.size());
  std::memset(out.data(), 0, out.size());
  std::memcpy(out.data(), body.data(), body.size());
  store_le(out.data() + out.size() - 8, checksum(out.first(out.size() - 8), seed));
}

bool checksum_matches(ConstBytes block, uint64_t seed) {
  return load_le<uint64_t>(block.data() + block.size() - 8) ==
         checksum(block.first(block.size() - 8), seed);
}

uint64_t record_checksum(ConstBytes header, ConstBytes payload, uint64_t seed) {
  const uint64_t of_header = checksum(header.first(kRecordChecksumOffset), seed);
  return payload.empty() ? of_header : checksum(payload, of_header);
}
}  // namespace

uint64_t file_seed(const FileHeader& header) {
  const uint64_t journal = checksum(header.journal_id.bytes, 0x6a6f75726e616c);
  return mix(mix(journal, header.generation), header.file_number);
}

void encode_file_header(const FileHeader& h, Bytes out) {
  CHECK(out.size() == kBlock);
  ByteWriter w;
  w.put(kFileMagic).put(kMajor).put(kOldestCompatibleMinor).put(uint32_t{0});
  w.put(h.journal_id).put(h.generation).put(h.file_number).put(h.file_bytes);
  copy_with_checksum(w.text(), kFileMagic, out);
}

Result<FileHeader> decode_file_header(ConstBytes block) {
  if (block.size() != kBlock || load_le<uint64_t>(block.data()) != kFileMagic)
    return fail(ErrorKind::kCorrupt, "not a journal file");
  if (!checksum_matches(block, kFileMagic))
    return fail(ErrorKind::kCorrupt, "journal file header fails its checksum");
  ByteReader r(block);
  r.get<uint64_t>();
  const auto major = r.get<uint16_t>();
  const auto oldest = r.get<uint16_t>();
  if (major != kMajor || oldest > kMinor)
    return fail(ErrorKind::kUnsupported, "journal format {}.{} is not the {}.{} this build knows",
                major, oldest, kMajor, kMinor);
  r.get<uint32_t>();
  FileHeader h;
  h.journal_id = r.get_uuid();
  h.generation = r.get<uint64_t>();
  h.file_number = r.get<uint64_t>();
  h.file_bytes = r.get<uint64_t>();
  return h;
}

void encode_file_start(const FileStart& start, uint64_t seed, Bytes out) {
  CHECK(out.size() == kBlock);
  ByteWriter w;
  w.put(kStartMagic).put(start.first_sequence).put(start.previous_last_sequence);
  copy_with_checksum(w.text(), mix(seed, kStartMagic), out);
}

std::optional<FileStart> decode_file_start(ConstBytes block, uint64_t seed) {
  if (block.size() != kBlock || load_le<uint64_t>(block.data()) != kStartMagic) return std::nullopt;
  if (!checksum_matches(block, mix(seed, kStartMagic))) return std::nullopt;
  return FileStart{load_le<uint64_t>(block.data() + 8), load_le<uint64_t>(block.data() + 16)};
}

bool is_torn_file_start(ConstBytes block) {
  constexpr uint64_t kSector = 512;
  return block.size() < kBlock || is_zero(block.first(kSector)) || is_zero(block.last(kSector));
}

void encode_record_header(const RecordHeader& h, ConstBytes payload, uint64_t seed, Bytes out) {
  CHECK(out.size() == kRecordHeaderBytes);
  std::byte* p = out.data();
  store_le<uint32_t>(p, kRecordMagic);
  store_le<uint32_t>(p + 4, static_cast<uint8_t>(h.type));
  store_le<uint32_t>(p + 8, h.payload_bytes);
  store_le<uint32_t>(p + 12, h.durable_behind);
  store_le(p + 16, h.sequence);
  store_le(p + 24, h.volume_id);
  store_le(p + 32, h.epoch);
  store_le(p + 40, h.offset);
  store_le(p + 48, h.length);
  const ConstBytes covered = h.type == RecordType::kPad ? ConstBytes{} : payload;
  store_le(p + kRecordChecksumOffset, record_checksum(out, covered, seed));
}

std::optional<RecordHeader> decode_record(ConstBytes bytes, uint64_t seed) {
  if (bytes.size() < kRecordHeaderBytes) return std::nullopt;
  const std::byte* p = bytes.data();
  if (load_le<uint32_t>(p) != kRecordMagic) return std::nullopt;
  const auto type = load_le<uint32_t>(p + 4);
  if (type < 1 || type > 3) return std::nullopt;
  RecordHeader h;
  h.type = static_cast<RecordType>(type);
  h.payload_bytes = load_le<uint32_t>(p + 8);
  h.durable_behind = load_le<uint32_t>(p + 12);
  h.sequence = load_le<uint64_t>(p + 16);
  h.volume_id = load_le<uint64_t>(p + 24);
  h.epoch = load_le<uint64_t>(p + 32);
  h.offset = load_le<uint64_t>(p + 40);
  h.length = load_le<uint64_t>(p + 48);
  ConstBytes payload;
  if (h.type == RecordType::kWrite) {
    if (h.payload_bytes > kMaxPayloadBytes || h.payload_bytes != h.length) return std::nullopt;
    if (h.payload_bytes > bytes.size() - kRecordHeaderBytes) return std::nullopt;
    payload = bytes.subspan(kRecordHeaderBytes, h.payload_bytes);
  } else if (h.type == RecordType::kZero && h.payload_bytes != 0) {
    return std::nullopt;
  }
  const auto stored = load_le<uint64_t>(p + kRecordChecksumOffset);
  if (stored != record_checksum(bytes.first(kRecordHeaderBytes), payload, seed))
    return std::nullopt;
  if (h.length > ~uint64_t{0} - h.offset) return std::nullopt;
  return h;
}

bool may_be_durable_claim(ConstBytes bytes) {
  return bytes.size() >= kRecordHeaderBytes && load_le<uint32_t>(bytes.data()) == kRecordMagic &&
         load_le<uint32_t>(bytes.data() + 12) != 0;
}

uint64_t footer_bytes(uint64_t entries) {
  return round_up(entries * kEntryBytes, kBlock) + kBlock;
}

std::vector<std::byte> encode_footer(const std::vector<IndexEntry>& entries, uint64_t last_sequence,
                                     uint64_t seed) {
  std::vector<std::byte> image(footer_bytes(entries.size()));
  std::byte* p = image.data();
  for (const IndexEntry& e : entries) {
    store_le(p, e.record.sequence);
    store_le(p + 8, e.record.volume_id);
    store_le(p + 16, e.record.epoch);
    store_le(p + 24, e.record.offset);
    store_le(p + 32, e.record.length);
    store_le(p + 40, e.position);
    store_le<uint32_t>(p + 48, e.record.payload_bytes);
    store_le<uint32_t>(p + 52, static_cast<uint8_t>(e.record.type));
    p += kEntryBytes;
  }
  const ConstBytes index(image.data(), entries.size() * kEntryBytes);
  ByteWriter w;
  w.put(kTrailerMagic).put(uint64_t{entries.size()}).put(checksum(index, seed)).put(last_sequence);
  copy_with_checksum(w.text(), mix(seed, kTrailerMagic), Bytes(image).last(kBlock));
  return image;
}

std::optional<Trailer> decode_trailer(ConstBytes last_block, uint64_t seed) {
  if (last_block.size() != kBlock || load_le<uint64_t>(last_block.data()) != kTrailerMagic)
    return std::nullopt;
  if (!checksum_matches(last_block, mix(seed, kTrailerMagic))) return std::nullopt;
  Trailer t;
  t.entries = load_le<uint64_t>(last_block.data() + 8);
  t.index_checksum = load_le<uint64_t>(last_block.data() + 16);
  t.last_sequence = load_le<uint64_t>(last_block.data() + 24);
  return t;
}

Result<std::vector<IndexEntry>> decode_index(const Trailer& trailer, ConstBytes index,
                                             uint64_t seed) {
  if (trailer.entries > index.size() / kEntryBytes)
    return fail(ErrorKind::kCorrupt, "journal index is shorter than its trailer says");
  const ConstBytes covered = index.first(trailer.entries * kEntryBytes);
  if (checksum(covered, seed) != trailer.index_checksum)
    return fail(ErrorKind::kCorrupt, "journal index fails its checksum");
  std::vector<IndexEntry> entries(trailer.entries);
  const std::byte* p = covered.data();
  for (IndexEntry& e : entries) {
    e.record.sequence = load_le<uint64_t>(p);
    e.record.volume_id = load_le<uint64_t>(p + 8);
    e.record.epoch = load_le<uint64_t>(p + 16);
    e.record.offset = load_le<uint64_t>(p + 24);
    e.record.length = load_le<uint64_t>(p + 32);
    e.position = load_le<uint64_t>(p + 40);
    e.record.payload_bytes = load_le<uint32_t>(p + 48);
    const auto type = load_le<uint32_t>(p + 52);
    if (type < 1 || type > 2 || e.record.length > ~uint64_t{0} - e.record.offset)
      return fail(ErrorKind::kCorrupt, "journal index entry {} is malformed", e.record.sequence);
    e.record.type = static_cast<RecordType>(type);
    p += kEntryBytes;
  }
  return entries;
}

}  // namespace squall::journal_format
