// Journal files: arbitrary bytes as header, start, record, footer. Checksums would stop nearly
// every mutation, so record and footer are also tried with theirs made right. What decodes encodes
// to something that decodes to the same.
#include <cstdint>
#include <vector>

#include "base/check.h"
#include "base/hash.h"
#include "format/journal.h"

namespace {
using namespace squall;
using namespace squall::journal_format;
constexpr uint64_t kSeed = 42;

void try_header(ConstBytes input) {
  if (input.size() < kBlock) return;
  std::vector<std::byte> block(input.begin(), input.begin() + kBlock);
  store_le(block.data() + kBlock - 8,
           checksum(ConstBytes(block).first(kBlock - 8), load_le<uint64_t>(block.data())));
  std::vector<std::byte> again(kBlock);
  if (const auto header = decode_file_header(block)) {
    encode_file_header(*header, again);
    CHECK(*decode_file_header(again) == *header);
  }
  (void)is_torn_file_start(input.first(kBlock));
  if (const auto start = decode_file_start(input.first(kBlock), kSeed)) {
    encode_file_start(*start, kSeed, again);
    CHECK(*decode_file_start(again, kSeed) == *start);
  }
}

void check_record(ConstBytes bytes) {
  const auto record = decode_record(bytes, kSeed);
  if (!record) return;
  CHECK(durable_before(*record) <= record->sequence);
  if (record->durable_behind > 0) CHECK(may_be_durable_claim(bytes));
  CHECK(record->offset + record->length >= record->offset);
  if (record->type != RecordType::kWrite) return;
  CHECK(kRecordHeaderBytes + record->payload_bytes <= bytes.size());
  CHECK(record->payload_bytes == record->length);
}

void try_record(ConstBytes input) {
  check_record(input);
  if (input.size() < kRecordHeaderBytes) return;
  // The checksum at 56 covers the header before it, then the payload of a write.
  std::vector<std::byte> record(input.begin(), input.end());
  const uint64_t size = load_le<uint32_t>(record.data() + 8);
  uint64_t sum = checksum(ConstBytes(record).first(56), kSeed);
  if (size > 0 && size <= record.size() - kRecordHeaderBytes)
    sum = checksum(ConstBytes(record).subspan(kRecordHeaderBytes, size), sum);
  store_le(record.data() + 56, sum);
  check_record(record);
}

// The input's last block is the trailer, what lies before it the index.
void try_footer(ConstBytes input) {
  if (input.size() < kBlock) return;
  const ConstBytes index = input.first(input.size() - kBlock);
  if (const auto trailer = decode_trailer(input.last(kBlock), kSeed))
    (void)decode_index(*trailer, index, kSeed);
  Trailer trailer{.entries = index.size() / 56, .index_checksum = 0, .last_sequence = 1};
  trailer.index_checksum = checksum(index.first(trailer.entries * 56), kSeed);
  const auto entries = decode_index(trailer, index, kSeed);
  if (!entries) return;
  CHECK(entries->size() == trailer.entries);
  const auto footer = encode_footer(*entries, 1, kSeed);
  CHECK(*decode_index(*decode_trailer(ConstBytes(footer).last(kBlock), kSeed), footer, kSeed) ==
        *entries);
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const ConstBytes input = std::as_bytes(std::span(data, size));
  try_header(input);
  try_record(input);
  try_footer(input);
  return 0;
}
