#include "format/log_part.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

namespace squall {
namespace {

LogPartHeader sample_header() {
  return {.pool = *Uuid::parse("00112233-4455-4677-8899-aabbccddeeff"),
          .volume = 42,
          .part = 3,
          .epoch = 9};
}

// A part as its writer leaves it: one frame after the other, each durable before the next.
std::vector<std::byte> make_part(const std::vector<std::string>& texts) {
  const auto header = encode_log_part_header(sample_header());
  std::vector<std::byte> bytes(header.begin(), header.end());
  for (const std::string& text : texts) {
    const uint64_t offset = bytes.size();
    const auto frame = encode_log_frame_header(sample_header(), offset, offset, as_bytes(text));
    bytes.resize(offset + log_frame_bytes(text.size()));
    std::memcpy(bytes.data() + offset, frame.data(), frame.size());
    std::memcpy(bytes.data() + offset + frame.size(), text.data(), text.size());
  }
  return bytes;
}

std::vector<std::string> texts_of(const LogPartContent& content) {
  std::vector<std::string> texts;
  for (const ConstBytes payload : content.payloads) texts.emplace_back(as_text(payload));
  return texts;
}

using Texts = std::vector<std::string>;
const Texts kTexts = {"first", "", "the third one", "four"};

TEST(LogPartTest, RoundTripsAndMatchesTheGoldenFile) {
  const auto bytes = make_part(kTexts);
  const auto content = decode_log_part(bytes);
  ASSERT_TRUE(content);
  EXPECT_EQ(content->header, sample_header());
  EXPECT_EQ(texts_of(*content), kTexts);

  std::string hex;
  for (size_t i = 0; i < bytes.size(); ++i)
    hex += fmt::format("{:02x}{}", static_cast<unsigned>(bytes[i]), i % 16 == 15 ? "\n" : " ");
  hex.back() = '\n';
  std::ifstream file(SQUALL_SOURCE_DIR "/tests/golden/log_part.v1.hex");
  EXPECT_EQ(hex, std::string(std::istreambuf_iterator<char>(file), {}));
}

TEST(LogPartTest, EveryCutLeavesAPrefixOfTheAppends) {
  const auto bytes = make_part(kTexts);
  for (size_t size = 0; size < bytes.size(); ++size) {
    const auto content = decode_log_part(ConstBytes(bytes).first(size));
    if (size < kLogPartHeaderBytes) {
      EXPECT_FALSE(content);
      continue;
    }
    ASSERT_TRUE(content) << size;
    const Texts texts = texts_of(*content);
    EXPECT_LT(texts.size(), kTexts.size() + (bytes.size() - size < 8));
    EXPECT_TRUE(std::equal(texts.begin(), texts.end(), kTexts.begin()));
  }
}

TEST(LogPartTest, DamageToADurableAppendIsReportedAndToTheLastLeftOut) {
  const auto intact = make_part(kTexts);
  const uint64_t last = intact.size() - log_frame_bytes(kTexts.back().size());
  for (size_t bit = 0; bit < intact.size() * 8; ++bit) {
    auto bytes = intact;
    bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    const auto content = decode_log_part(bytes);
    if (bit / 8 >= last) {
      ASSERT_TRUE(content) << bit;
      EXPECT_GE(content->payloads.size(), kTexts.size() - 1);
    } else if (content) {
      EXPECT_EQ(texts_of(*content), kTexts) << bit;  // padding between frames
    } else if (bit / 8 >= kLogPartHeaderBytes) {
      EXPECT_EQ(content.error().kind(), ErrorKind::kCorrupt);
    }
  }
}

TEST(LogPartTest, AFrameOfAnotherPlaceIsNone) {
  const auto one = make_part({"same", "same"});
  auto moved = one;
  const uint64_t first = kLogPartHeaderBytes, length = log_frame_bytes(4);
  std::memcpy(moved.data() + first + length, one.data() + first, length);
  EXPECT_EQ(texts_of(*decode_log_part(moved)), Texts{"same"});

  auto header = sample_header();
  ++header.part;
  const auto other = encode_log_part_header(header);
  std::memcpy(moved.data(), other.data(), other.size());
  EXPECT_TRUE(decode_log_part(moved)->payloads.empty());
}

}  // namespace
}  // namespace squall
