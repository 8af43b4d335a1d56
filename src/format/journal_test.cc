#include "format/journal.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>

#include "base/hash.h"
#include "base/random.h"

namespace squall::journal_format {
namespace {

using Image = std::vector<std::byte>;

FileHeader sample_header() {
  return {.journal_id = *Uuid::parse("00112233-4455-4677-8899-aabbccddeeff"),
          .generation = 7,
          .file_number = 12,
          .file_bytes = 64 * 1024};
}
constexpr FileStart kStart{(uint64_t{7} << kGenerationShift) + 1,
                           (uint64_t{6} << kGenerationShift) + 345};

Image payload_of(size_t bytes) {
  Random random(bytes);
  Image payload(bytes);
  for (auto& byte : payload) byte = static_cast<std::byte>(random());
  return payload;
}

Image encoded(const RecordHeader& header, ConstBytes payload, uint64_t seed) {
  Image bytes(record_bytes(payload.size()));
  encode_record_header(header, payload, seed, Bytes(bytes).first(kRecordHeaderBytes));
  std::ranges::copy(payload, bytes.begin() + kRecordHeaderBytes);
  return bytes;
}

RecordHeader write_record(uint64_t counter, uint64_t length) {
  return {.type = RecordType::kWrite,
          .payload_bytes = static_cast<uint32_t>(length),
          .sequence = kStart.first_sequence + counter,
          .volume_id = 3,
          .epoch = 5,
          .offset = counter * 65536,
          .length = length};
}
RecordHeader zero_record(uint64_t counter) {
  return {.type = RecordType::kZero,
          .sequence = kStart.first_sequence + counter,
          .volume_id = 4,
          .epoch = 1,
          .offset = 512,
          .length = uint64_t{1} << 40};
}
RecordHeader pad_record(uint32_t bytes) {
  return {.type = RecordType::kPad, .payload_bytes = bytes};
}

// A whole file: header, start, three records, a pad, footer.
struct TinyFile {
  FileHeader header = sample_header();
  uint64_t seed = file_seed(header);
  Image bytes;
  std::vector<IndexEntry> entries;

  TinyFile() : bytes(header.file_bytes) {
    encode_file_header(header, Bytes(bytes).first(kBlock));
    encode_file_start(kStart, seed, Bytes(bytes).subspan(kBlock, kBlock));
    uint64_t at = kFirstRecord;
    at = add(at, write_record(0, 512), payload_of(512));
    at = add(at, zero_record(1), {});
    encode_record_header(pad_record(448), {}, seed, Bytes(bytes).subspan(at, kRecordHeaderBytes));
    at += kRecordHeaderBytes + 448;
    at = add(at, write_record(3, 1001), payload_of(1001));
    const Image footer = encode_footer(entries, entries.back().record.sequence, seed);
    std::ranges::copy(footer, bytes.end() - static_cast<ptrdiff_t>(footer.size()));
  }
  uint64_t add(uint64_t at, const RecordHeader& record, ConstBytes payload) {
    const Image image = encoded(record, payload, seed);
    std::ranges::copy(image, bytes.begin() + static_cast<ptrdiff_t>(at));
    entries.push_back({record, at});
    return at + image.size();
  }
};

template <class Decodes>
void expect_every_flip_shows(const Image& intact, Decodes decodes) {
  for (size_t at = 0; at < intact.size(); ++at) {
    Image damaged = intact;
    damaged[at] ^= std::byte{0x20};
    EXPECT_FALSE(decodes(damaged)) << "byte " << at;
  }
}

TEST(JournalFormat, FileHeaderRoundTripAndDamage) {
  Image block(kBlock);
  encode_file_header(sample_header(), block);
  ASSERT_TRUE(decode_file_header(block));
  EXPECT_EQ(*decode_file_header(block), sample_header());
  expect_every_flip_shows(block, [](ConstBytes b) { return decode_file_header(b).has_value(); });
  for (size_t size = 0; size < kBlock; ++size)
    EXPECT_FALSE(decode_file_header(ConstBytes(block).first(size))) << size;
}

TEST(JournalFormat, AnotherMajorOrAnIncompatibleMinorIsRefusedAsSuch) {
  for (const size_t at : {8, 10}) {
    Image block(kBlock);
    encode_file_header(sample_header(), block);
    block[at] = std::byte{2};
    const uint64_t magic = load_le<uint64_t>(block.data());
    store_le(block.data() + kBlock - 8, checksum(ConstBytes(block).first(kBlock - 8), magic));
    ASSERT_FALSE(decode_file_header(block));
    EXPECT_EQ(decode_file_header(block).error().kind(), ErrorKind::kUnsupported) << at;
  }
}

TEST(JournalFormat, FileStartRoundTripAndDamage) {
  Image block(kBlock);
  encode_file_start(kStart, 42, block);
  EXPECT_EQ(decode_file_start(block, 42), kStart);
  EXPECT_FALSE(decode_file_start(block, 43));
  expect_every_flip_shows(block, [](ConstBytes b) { return decode_file_start(b, 42).has_value(); });
  for (size_t size = 0; size < kBlock; ++size)
    EXPECT_FALSE(decode_file_start(ConstBytes(block).first(size), 42)) << size;
}

TEST(JournalFormat, RecordRoundTripAtManySizes) {
  for (const size_t size : {1UL, 7UL, 8UL, 511UL, 512UL, 4096UL, 65537UL, kMaxPayloadBytes}) {
    const RecordHeader header = write_record(9, size);
    const Image bytes = encoded(header, payload_of(size), 42);
    EXPECT_EQ(bytes.size() % 8, 0);
    ASSERT_TRUE(decode_record(bytes, 42)) << size;
    EXPECT_EQ(*decode_record(bytes, 42), header);
    EXPECT_FALSE(decode_record(bytes, 43));
  }
  EXPECT_EQ(decode_record(encoded(zero_record(2), {}, 42), 42), zero_record(2));
  // A pad's payload may lie beyond the bytes at hand.
  EXPECT_EQ(decode_record(encoded(pad_record(12345), {}, 42), 42), pad_record(12345));
}

TEST(JournalFormat, AnyFlippedByteOfARecordShows) {
  const Image write = encoded(write_record(1, 600), payload_of(600), 42);
  const Image zero = encoded(zero_record(1), {}, 42);
  const Image pad = encoded(pad_record(100), {}, 42);
  for (const Image& record : {write, zero, pad})
    expect_every_flip_shows(record, [](ConstBytes b) { return decode_record(b, 42).has_value(); });
  for (size_t size = 0; size < write.size(); ++size)
    EXPECT_FALSE(decode_record(ConstBytes(write).first(size), 42)) << size;
}

TEST(JournalFormat, RecordsThatMakeNoSenseAreRefusedThoughTheirChecksumIsRight) {
  const Image payload = payload_of(16);
  RecordHeader header = write_record(1, 16);
  header.length = 15;
  EXPECT_FALSE(decode_record(encoded(header, payload, 42), 42));
  header = write_record(1, 16);
  header.offset = ~uint64_t{0} - 8;
  EXPECT_FALSE(decode_record(encoded(header, payload, 42), 42));
  header = zero_record(1);
  header.payload_bytes = 16;
  EXPECT_FALSE(decode_record(encoded(header, {}, 42), 42));
  header = write_record(1, 16);
  header.type = static_cast<RecordType>(4);
  EXPECT_FALSE(decode_record(encoded(header, payload, 42), 42));
}

TEST(JournalFormat, SeedsDifferByJournalGenerationAndFile) {
  const uint64_t seed = file_seed(sample_header());
  FileHeader other = sample_header();
  ++other.generation;
  EXPECT_NE(file_seed(other), seed);
  other = sample_header();
  ++other.file_number;
  EXPECT_NE(file_seed(other), seed);
  other = sample_header();
  other.journal_id.bytes[15] ^= std::byte{1};
  EXPECT_NE(file_seed(other), seed);
}

TEST(JournalFormat, FooterRoundTripAtManySizes) {
  for (const size_t count : {0UL, 1UL, 72UL, 73UL, 74UL, 1000UL}) {
    std::vector<IndexEntry> entries;
    for (size_t i = 0; i < count; ++i)
      entries.push_back({i % 3 == 0 ? zero_record(i) : write_record(i, 4096), kFirstRecord + i});
    const Image footer = encode_footer(entries, kStart.first_sequence + count, 42);
    EXPECT_EQ(footer.size(), footer_bytes(count));
    EXPECT_EQ(footer.size() % kBlock, 0);
    const auto trailer = decode_trailer(ConstBytes(footer).last(kBlock), 42);
    ASSERT_TRUE(trailer) << count;
    EXPECT_EQ(trailer->entries, count);
    EXPECT_EQ(trailer->last_sequence, kStart.first_sequence + count);
    const auto decoded = decode_index(*trailer, footer, 42);
    ASSERT_TRUE(decoded) << count;
    EXPECT_EQ(*decoded, entries);
  }
}

TEST(JournalFormat, AnyDamageToAFooterShows) {
  const TinyFile file;
  const Image footer = encode_footer(file.entries, 99, 42);
  const size_t index = footer.size() - kBlock;
  const Image last(footer.begin() + static_cast<ptrdiff_t>(index), footer.end());
  expect_every_flip_shows(last, [](ConstBytes b) { return decode_trailer(b, 42).has_value(); });
  EXPECT_FALSE(decode_trailer(last, 43));
  for (size_t size = 0; size < kBlock; ++size)
    EXPECT_FALSE(decode_trailer(ConstBytes(last).first(size), 42)) << size;
  const Trailer trailer = *decode_trailer(last, 42);
  const Image entries(footer.begin(),
                      footer.begin() + static_cast<ptrdiff_t>(56 * file.entries.size()));
  expect_every_flip_shows(entries,
                          [&](ConstBytes b) { return decode_index(trailer, b, 42).has_value(); });
  for (size_t size = 0; size < entries.size(); ++size)
    EXPECT_FALSE(decode_index(trailer, ConstBytes(entries).first(size), 42)) << size;
}

TEST(JournalFormat, ARecordSaysWhatWasDurableBeforeIt) {
  RecordHeader header = write_record(9, 64);
  EXPECT_EQ(durable_before(header), 0);
  header.durable_behind = 4;
  EXPECT_EQ(durable_before(header), header.sequence - 4);
  Image bytes = encoded(header, payload_of(64), 42);
  EXPECT_EQ(decode_record(bytes, 42), header);
  EXPECT_TRUE(may_be_durable_claim(bytes));
  header.sequence = 3;  // nonsense with a right checksum
  EXPECT_EQ(durable_before(header), 0);
  bytes = encoded(write_record(9, 64), payload_of(64), 42);
  EXPECT_FALSE(may_be_durable_claim(bytes));
}

TEST(JournalFormat, ATornStartIsToldFromADamagedOne) {
  Image block(kBlock);
  EXPECT_TRUE(is_torn_file_start(block));
  encode_file_start(kStart, 42, block);
  EXPECT_FALSE(is_torn_file_start(block));
  Image torn = block;
  std::fill_n(torn.begin(), 512, std::byte{0});
  EXPECT_TRUE(is_torn_file_start(torn));
  torn = block;
  std::fill_n(torn.end() - 512, 512, std::byte{0});
  EXPECT_TRUE(is_torn_file_start(torn));
  block[9] ^= std::byte{1};
  EXPECT_FALSE(is_torn_file_start(block));
}

// One record of version 1.1, in hexadecimal: the bytes that 1.0 had as zeros.
TEST(JournalFormat, GoldenRecordOfVersion1_1) {
  RecordHeader header = write_record(9, 8);
  header.durable_behind = 0x01020304;
  const Image bytes = encoded(header, payload_of(8), 42);
  std::string hex;
  for (const std::byte byte : bytes) hex += fmt::format("{:02x}", static_cast<unsigned>(byte));
  const std::string path = SQUALL_SOURCE_DIR "/tests/golden/journal_record_v1_1.hex";
  if (std::getenv("SQUALL_WRITE_GOLDEN") != nullptr) std::ofstream(path) << hex << "\n";
  std::ifstream stream(path);
  ASSERT_TRUE(stream) << path;
  std::string golden;
  stream >> golden;
  EXPECT_EQ(hex, golden);
}

// Set SQUALL_WRITE_GOLDEN to make the file anew, after the format has changed on purpose.
TEST(JournalFormat, Golden) {
  const std::string path = SQUALL_SOURCE_DIR "/tests/golden/journal_v1_0.bin";
  const TinyFile file;
  const std::string expected(as_text(file.bytes));
  if (std::getenv("SQUALL_WRITE_GOLDEN") != nullptr)
    std::ofstream(path, std::ios::binary) << expected;
  std::ifstream stream(path, std::ios::binary);
  ASSERT_TRUE(stream) << path;
  const std::string golden{std::istreambuf_iterator<char>(stream), {}};
  EXPECT_TRUE(golden == expected) << "the bytes of a journal file have changed";
  ASSERT_EQ(golden.size(), expected.size());
  const ConstBytes bytes = as_bytes(golden);
  EXPECT_EQ(*decode_file_header(bytes.first(kBlock)), file.header);
  EXPECT_EQ(decode_file_start(bytes.subspan(kBlock, kBlock), file.seed), kStart);
  for (const IndexEntry& entry : file.entries)
    EXPECT_EQ(decode_record(bytes.subspan(entry.position), file.seed), entry.record);
}

}  // namespace
}  // namespace squall::journal_format
