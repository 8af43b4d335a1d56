// Feeds arbitrary bytes to everything that reads a segment. An input's tail is taken as trailer and
// footer of a segment of the input's length. Checksums would stop nearly every mutation, so the
// record and the trailer are also tried with theirs made right.
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "base/hash.h"
#include "format/segment.h"

namespace {
using namespace squall;

void try_record(ConstBytes input) {
  (void)decode_record(input, 42);
  if (input.size() < kRecordHeaderBytes) return;
  // Checksum at 0, over everything from the magic number at 8 to the stored length at 20.
  std::vector<std::byte> record(input.begin(), input.end());
  store_le<uint32_t>(record.data() + 8, 0x43525153);
  const uint64_t bytes = kRecordHeaderBytes + uint64_t{load_le<uint32_t>(record.data() + 20)};
  if (bytes > record.size()) return;
  store_le(record.data(), checksum(ConstBytes(record).subspan(8, bytes - 8), 42));
  if (const auto view = decode_record(record, 42))
    if (view->payload.size() + kRecordHeaderBytes > record.size()) std::abort();
}

void try_footer(ConstBytes input) {
  if (input.size() < kSegmentTrailerBytes) return;
  const Uuid pool;
  std::vector<std::byte> segment(input.begin(), input.end());
  std::byte* trailer = segment.data() + segment.size() - kSegmentTrailerBytes;
  const uint64_t seed = segment_seed(pool_seed(pool), 1);
  const auto footer_offset = load_le<uint64_t>(trailer + 40);
  const auto footer_bytes = load_le<uint64_t>(trailer + 48);
  if (footer_offset <= segment.size() && footer_bytes <= segment.size() - footer_offset)
    store_le(trailer + 88,
             checksum(ConstBytes(segment).subspan(footer_offset, footer_bytes), seed));
  store_le(trailer + 504, checksum(ConstBytes(trailer, 504), seed));
  const auto decoded =
      decode_segment_trailer({trailer, kSegmentTrailerBytes}, pool, 1, segment.size());
  if (!decoded) return;
  // A trailer that was accepted names places within the segment.
  const auto footer = decode_segment_footer(
      *decoded, ConstBytes(segment).subspan(decoded->footer_offset, decoded->footer_bytes));
  if (footer && footer->records.size() != decoded->records) std::abort();
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const ConstBytes input(reinterpret_cast<const std::byte*>(data), size);
  (void)decode_segment_header(input);
  try_record(input);
  try_footer(input);
  return 0;
}
