#include "pool/record_codec.h"

#include <gtest/gtest.h>

#include "base/random.h"

namespace squall {
namespace {

std::vector<std::byte> noise(size_t bytes, uint64_t seed) {
  Random random(seed);
  std::vector<std::byte> data(bytes);
  for (auto& byte : data) byte = static_cast<std::byte>(random());
  return data;
}
std::vector<std::byte> text(size_t bytes) {
  std::vector<std::byte> data(bytes);
  for (size_t i = 0; i < bytes; ++i) data[i] = static_cast<std::byte>("boot storm "[i % 11]);
  return data;
}

class RecordCodecTest : public ::testing::TestWithParam<Codec> {};
INSTANTIATE_TEST_SUITE_P(All, RecordCodecTest,
                         ::testing::Values(Codec::kNone, Codec::kLz4, Codec::kZstd),
                         [](const auto& info) { return std::string(to_string(info.param)); });

TEST_P(RecordCodecTest, RoundTrip) {
  RecordCodec codec(GetParam());
  for (size_t bytes : {1, 2, 464, 465, 1000, 4096, 65535, 65536}) {
    for (const auto& payload : {text(bytes), noise(bytes, bytes)}) {
      const auto encoded = codec.encode(payload);
      ASSERT_LE(encoded.stored.size(), bytes);
      std::vector<std::byte> decoded(bytes);
      ASSERT_TRUE(codec.decode(encoded.codec, encoded.stored, decoded));
      EXPECT_EQ(decoded, payload);
    }
  }
}

TEST_P(RecordCodecTest, StoresAsIsWhatDoesNotSaveASector) {
  RecordCodec codec(GetParam());
  EXPECT_EQ(codec.encode(noise(65536, 1)).codec, Codec::kNone);
  EXPECT_EQ(codec.encode(text(464)).codec, Codec::kNone);  // one sector either way
  EXPECT_EQ(codec.encode(text(465)).codec, GetParam());
  EXPECT_EQ(codec.encode(text(65536)).codec, GetParam());
}

TEST_P(RecordCodecTest, RefusesOtherLengths) {
  RecordCodec codec(GetParam());
  const auto encoded = codec.encode(text(5000));
  std::vector<std::byte> shorter(4999), longer(5001);
  EXPECT_FALSE(codec.decode(encoded.codec, encoded.stored, shorter));
  EXPECT_FALSE(codec.decode(encoded.codec, encoded.stored, longer));
}

TEST_P(RecordCodecTest, SurvivesNoise) {
  RecordCodec codec(GetParam());
  std::vector<std::byte> to(4096);
  for (uint64_t seed = 0; seed < 200; ++seed)
    (void)codec.decode(GetParam(), noise(seed * 20 + 1, seed), to);
}

}  // namespace
}  // namespace squall
