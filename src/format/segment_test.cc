#include "format/segment.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>

#include "base/random.h"

namespace squall {
namespace {

Uuid test_pool() {
  return *Uuid::parse("00112233-4455-4677-8899-aabbccddeeff");
}
constexpr SegmentId kSegment = 0x1'2345'6789;

std::vector<std::byte> payload_of(size_t bytes, uint64_t seed) {
  Random random(seed);
  std::vector<std::byte> payload(bytes);
  for (auto& byte : payload) byte = static_cast<std::byte>(random() | 1);
  return payload;
}

std::vector<std::byte> encode_record(RecordHeader header, ConstBytes payload, uint64_t seed) {
  header.raw_bytes = std::max<uint32_t>(header.raw_bytes, payload.size());
  header.stored_bytes = payload.size();
  std::vector<std::byte> bytes(header.sectors() * kSectorBytes);
  std::ranges::copy(payload, bytes.begin() + kRecordHeaderBytes);
  encode_record_header(header, seed, bytes);
  return bytes;
}

// A segment of two records, one sector apart, and its footer.
struct TinySegment {
  std::vector<std::byte> bytes;
  std::vector<RecordEntry> records;
  std::vector<std::byte> chunk = payload_of(5000, 1);
  std::vector<std::byte> page = payload_of(4096, 2);

  explicit TinySegment(const std::vector<Fingerprint>& fingerprints = {}) : bytes(4096) {
    encode_segment_header({.pool = test_pool(), .segment = kSegment, .created_s = 1700000000},
                          Bytes(bytes));
    add(RecordKind::kChunk, chunk);
    records.back().fingerprints = static_cast<uint16_t>(fingerprints.size());
    bytes.resize(bytes.size() + kSectorBytes);
    add(RecordKind::kPage, page);
    bytes.resize(round_up(bytes.size(), 4096));
    const auto footer =
        encode_segment_footer(test_pool(), kSegment, bytes.size(), records, fingerprints);
    bytes.insert(bytes.end(), footer.begin(), footer.end());
  }
  void add(RecordKind kind, ConstBytes payload) {
    const uint64_t sector = bytes.size() / kSectorBytes;
    const auto record = encode_record({.kind = kind}, payload,
                                      record_seed(pool_seed(test_pool()), kSegment, sector));
    records.push_back({.sector = static_cast<uint32_t>(sector),
                       .sectors = static_cast<uint16_t>(record.size() / kSectorBytes),
                       .kind = kind,
                       .raw_bytes = static_cast<uint32_t>(payload.size())});
    bytes.insert(bytes.end(), record.begin(), record.end());
  }
  Result<SegmentTrailer> trailer() const {
    return decode_segment_trailer(ConstBytes(bytes).last(kSegmentTrailerBytes), test_pool(),
                                  kSegment, bytes.size());
  }
};

TEST(Segment, HeaderRoundTrip) {
  const SegmentHeader header{.pool = test_pool(), .segment = kSegment, .created_s = 1700000000};
  std::vector<std::byte> bytes(kSegmentHeaderBytes);
  encode_segment_header(header, bytes);
  const auto decoded = decode_segment_header(bytes);
  ASSERT_TRUE(decoded);
  EXPECT_EQ(*decoded, header);
  for (size_t at : {0, 9, 20, 33, 41, 1000, 4095}) {
    auto damaged = bytes;
    damaged[at] ^= std::byte{1};
    EXPECT_FALSE(decode_segment_header(damaged)) << at;
  }
  EXPECT_FALSE(decode_segment_header(ConstBytes(bytes).first(4095)));
}

TEST(Segment, RecordRoundTripAtEverySize) {
  for (size_t bytes : {1, 463, 464, 465, 4096, 65535, 65536}) {
    const auto payload = payload_of(bytes, bytes);
    const auto record = encode_record({.kind = RecordKind::kPage, .key_id = 7}, payload, 42);
    const auto decoded = decode_record(record, 42);
    ASSERT_TRUE(decoded) << bytes;
    EXPECT_EQ(decoded->header.kind, RecordKind::kPage);
    EXPECT_EQ(decoded->header.key_id, 7);
    EXPECT_EQ(decoded->header.sectors() * kSectorBytes, record.size());
    EXPECT_TRUE(std::ranges::equal(decoded->payload, payload));
  }
}

TEST(Segment, AnyFlippedBitOfARecordShows) {
  const auto record = encode_record({}, payload_of(600, 3), 42);
  const size_t covered = kRecordHeaderBytes + 600;
  for (size_t at = 0; at < covered; ++at) {
    auto damaged = record;
    damaged[at] ^= std::byte{0x10};
    EXPECT_FALSE(decode_record(damaged, 42)) << at;
  }
}

TEST(Segment, RecordFailsAtAnotherPlace) {
  const uint64_t seed = pool_seed(test_pool());
  const auto record = encode_record({}, payload_of(100, 4), record_seed(seed, 5, 8));
  EXPECT_TRUE(decode_record(record, record_seed(seed, 5, 8)));
  EXPECT_FALSE(decode_record(record, record_seed(seed, 5, 9)));
  EXPECT_FALSE(decode_record(record, record_seed(seed, 6, 8)));
  Uuid other = test_pool();
  other.bytes[3] ^= std::byte{1};
  EXPECT_FALSE(decode_record(record, record_seed(pool_seed(other), 5, 8)));
}

TEST(Segment, FooterRoundTrip) {
  const TinySegment segment;
  const auto trailer = segment.trailer();
  ASSERT_TRUE(trailer) << trailer.error().message();
  EXPECT_TRUE(trailer->sealed);
  EXPECT_EQ(trailer->raw_bytes, 9096);
  EXPECT_EQ(segment.bytes.size() % 4096, 0);
  const auto footer = decode_segment_footer(
      *trailer, ConstBytes(segment.bytes).subspan(trailer->footer_offset, trailer->footer_bytes));
  ASSERT_TRUE(footer) << footer.error().message();
  EXPECT_EQ(footer->records, segment.records);
  EXPECT_TRUE(footer->fingerprints.empty());
}

TEST(Segment, FooterCarriesFingerprints) {
  std::vector<Fingerprint> fingerprints(2);
  fingerprints[0].fill(std::byte{0xaa});
  fingerprints[1].fill(std::byte{0xbb});
  const TinySegment segment(fingerprints);
  const auto trailer = segment.trailer();
  ASSERT_TRUE(trailer) << trailer.error().message();
  const auto footer = decode_segment_footer(
      *trailer, ConstBytes(segment.bytes).subspan(trailer->footer_offset, trailer->footer_bytes));
  ASSERT_TRUE(footer) << footer.error().message();
  EXPECT_EQ(footer->records, segment.records);
  EXPECT_EQ(footer->fingerprints, fingerprints);
}

TEST(Segment, TrailerOfAnotherSegmentOrLengthFails) {
  const TinySegment segment;
  const ConstBytes last = ConstBytes(segment.bytes).last(kSegmentTrailerBytes);
  const uint64_t size = segment.bytes.size();
  EXPECT_FALSE(decode_segment_trailer(last, test_pool(), kSegment + 1, size));
  EXPECT_FALSE(decode_segment_trailer(last, Uuid::generate(), kSegment, size));
  EXPECT_FALSE(decode_segment_trailer(last, test_pool(), kSegment, size + 4096));
  EXPECT_FALSE(decode_segment_trailer(last.first(511), test_pool(), kSegment, size));
}

TEST(Segment, LargestSegmentHoldsItsFooter) {
  EXPECT_EQ(footer_and_trailer_bytes(0, 0), 4096);
  EXPECT_EQ(footer_and_trailer_bytes(149, 0), 4096);
  EXPECT_EQ(footer_and_trailer_bytes(150, 0), 8192);
  EXPECT_GE(footer_and_trailer_bytes(100, 100), 100 * 44 + 512);
}

// Set SQUALL_WRITE_GOLDEN to make the file anew, after the format has changed on purpose.
TEST(Segment, Golden) {
  const std::string path = SQUALL_SOURCE_DIR "/tests/golden/segment_v1_0.bin";
  const TinySegment segment;
  const std::string expected(as_text(segment.bytes));
  if (std::getenv("SQUALL_WRITE_GOLDEN") != nullptr)
    std::ofstream(path, std::ios::binary) << expected;
  std::ifstream file(path, std::ios::binary);
  ASSERT_TRUE(file) << path;
  const std::string golden{std::istreambuf_iterator<char>(file), {}};
  EXPECT_TRUE(golden == expected) << "the bytes of a segment have changed";
}

}  // namespace
}  // namespace squall
