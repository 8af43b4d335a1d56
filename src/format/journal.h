// Bytes of the journal's files. Pure encode and decode.
//
//   file   = header (4 KiB), start (4 KiB), records... [index footer]
//   record = RecordHeader (64 bytes), payload, padding to 8 bytes
//   footer = index entries, starting at a 4 KiB boundary; the last 4 KiB of the file hold the
//            trailer that names them. A trailer is written only after every record of the file is
//            durable, so a valid one spares start-up the scan.
//
// Every checksum is seeded with the journal's id, the generation and the file's number, so what a
// recycled file held before, or what a dead daemon's late write brings, is never taken for a
// record.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/uuid.h"

namespace squall::journal_format {

constexpr uint16_t kMajor = 1;
constexpr uint16_t kMinor = 1;  // 1: records say what was durable before them
constexpr uint16_t kOldestCompatibleMinor = 0;
constexpr uint64_t kBlock = 4096;
constexpr uint64_t kFirstRecord = 2 * kBlock;  // offset in the file
constexpr uint64_t kRecordHeaderBytes = 64;
constexpr uint64_t kMaxPayloadBytes = 1 << 20;
// A sequence number is generation << 40 | counter: later generations always compare higher.
constexpr unsigned kGenerationShift = 40;

// Durable before the file is used, so that the numbers of the files in use have no gap.
struct FileHeader {
  Uuid journal_id;
  uint64_t generation = 0;
  uint64_t file_number = 0;  // consecutive over the journal's life
  uint64_t file_bytes = 0;
  bool operator==(const FileHeader&) const = default;
};

// Written when the file becomes the current one; a file without it holds nothing.
struct FileStart {
  uint64_t first_sequence = 0;  // no record of this file is lower
  // The last sequence that counts in the files before this one. Records beyond it there are
  // remnants that were never acknowledged.
  uint64_t previous_last_sequence = 0;
  bool operator==(const FileStart&) const = default;
};

enum class RecordType : uint8_t {
  kWrite = 1,  // payload is the range's content
  kZero = 2,   // the range reads as zeros (zero and trim alike)
  kPad = 3,    // nothing: skip `payload_bytes`
};

struct RecordHeader {
  RecordType type = RecordType::kPad;
  uint32_t payload_bytes = 0;
  uint64_t sequence = 0;
  uint64_t volume_id = 0;
  uint64_t epoch = 0;
  uint64_t offset = 0;  // of the range in the volume, bytes
  uint64_t length = 0;  // of the range, bytes
  // When this one was written, every record at or below `sequence - durable_behind` was durable; 0
  // says nothing. What tells damage to durable records from the torn end of the log.
  uint32_t durable_behind = 0;
  bool operator==(const RecordHeader&) const = default;
};

// The last record that `header` says was durable before it; 0: it says nothing.
constexpr uint64_t durable_before(const RecordHeader& header) {
  const uint64_t behind = header.durable_behind;
  return behind == 0 || behind > header.sequence ? 0 : header.sequence - behind;
}

struct IndexEntry {
  RecordHeader record;    // without durable_behind: a footer itself says that all is durable
  uint64_t position = 0;  // of the record header in the file
  bool operator==(const IndexEntry&) const = default;
};

constexpr uint64_t record_bytes(uint64_t payload_bytes) {
  return kRecordHeaderBytes + round_up(payload_bytes, 8);
}

// Seeds every checksum of a file but its header's.
uint64_t file_seed(const FileHeader& header);

void encode_file_header(const FileHeader& header, Bytes out);  // out: kBlock bytes
Result<FileHeader> decode_file_header(ConstBytes block);
void encode_file_start(const FileStart& start, uint64_t seed, Bytes out);  // out: kBlock bytes
std::optional<FileStart> decode_file_start(ConstBytes block, uint64_t seed);
// Whether a start that does not decode is one whose writing (into zeros, or zeros over it) a power
// cut tore: its first or its last sector is still zeros. Anything else is damage.
bool is_torn_file_start(ConstBytes block);

// Encodes into `out` (kRecordHeaderBytes), the checksum covering header and payload.
void encode_record_header(const RecordHeader& header, ConstBytes payload, uint64_t seed, Bytes out);
// The header at the start of `bytes` when header and payload (both within `bytes`) are whole and
// match; nullopt otherwise. A pad's payload is not covered and may lie beyond.
std::optional<RecordHeader> decode_record(ConstBytes bytes, uint64_t seed);
// Cheaply: whether decode_record might find a record there that says what was durable before it.
bool may_be_durable_claim(ConstBytes bytes);

// Space a footer with `entries` entries needs at the end of a file.
uint64_t footer_bytes(uint64_t entries);
// Footer image to be written so that it ends at the end of the file.
std::vector<std::byte> encode_footer(const std::vector<IndexEntry>& entries, uint64_t last_sequence,
                                     uint64_t seed);

struct Trailer {
  uint64_t entries = 0;
  uint64_t index_checksum = 0;
  uint64_t last_sequence = 0;
};
std::optional<Trailer> decode_trailer(ConstBytes last_block, uint64_t seed);
Result<std::vector<IndexEntry>> decode_index(const Trailer& trailer, ConstBytes index,
                                             uint64_t seed);

}  // namespace squall::journal_format
