#include "format/pool_identity.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

#include "base/hash.h"

namespace squall {
namespace {

PoolIdentity sample_identity() {
  return {.id = *Uuid::parse("00112233-4455-4677-8899-aabbccddeeff"),
          .default_codec = Codec::kLz4,
          .created_s = 1795219200};
}
StoreMarker sample_marker() {
  return {sample_identity().id, "nvme-0"};
}

std::string to_hex(ConstBytes bytes) {
  std::string hex;
  for (size_t i = 0; i < bytes.size(); ++i)
    hex += fmt::format("{:02x}{}", static_cast<unsigned>(bytes[i]), i % 16 == 15 ? "\n" : " ");
  return hex;
}
std::string golden(const char* name) {
  std::ifstream file(std::string(SQUALL_SOURCE_DIR "/tests/golden/") + name);
  return {std::istreambuf_iterator<char>(file), {}};
}

template <size_t kSize>
void fix_checksum(std::array<std::byte, kSize>& bytes) {
  store_le(bytes.data() + kSize - 8, checksum(ConstBytes(bytes).first(kSize - 8), 0));
}

TEST(PoolIdentityTest, RoundTripsAndMatchesTheGoldenFile) {
  const auto bytes = encode_pool_identity(sample_identity());
  EXPECT_EQ(*decode_pool_identity(bytes), sample_identity());
  EXPECT_EQ(to_hex(bytes), golden("pool_identity.v1.hex"));
}

TEST(StoreMarkerTest, RoundTripsAndMatchesTheGoldenFile) {
  const auto bytes = encode_store_marker(sample_marker());
  EXPECT_EQ(*decode_store_marker(bytes), sample_marker());
  EXPECT_EQ(to_hex(bytes), golden("store_marker.v1.hex"));
  const StoreMarker longest{sample_marker().pool, std::string(kStoreNameBytesMax, 'n')};
  EXPECT_EQ(*decode_store_marker(encode_store_marker(longest)), longest);
}

TEST(PoolIdentityTest, EveryFlippedBitIsFound) {
  const auto identity = encode_pool_identity(sample_identity());
  const auto marker = encode_store_marker(sample_marker());
  for (size_t bit = 0; bit < identity.size() * 8; ++bit) {
    auto bytes = identity;
    bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    EXPECT_FALSE(decode_pool_identity(bytes)) << bit;
  }
  for (size_t bit = 0; bit < marker.size() * 8; ++bit) {
    auto bytes = marker;
    bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    EXPECT_FALSE(decode_store_marker(bytes)) << bit;
  }
}

TEST(PoolIdentityTest, RefusesWrongSizesAndOtherFiles) {
  const auto identity = encode_pool_identity(sample_identity());
  for (size_t size = 0; size < identity.size(); ++size)
    EXPECT_EQ(decode_pool_identity(ConstBytes(identity).first(size)).error().kind(),
              ErrorKind::kCorrupt);
  EXPECT_EQ(decode_pool_identity(encode_store_marker(sample_marker())).error().kind(),
            ErrorKind::kCorrupt);
  EXPECT_EQ(decode_store_marker(identity).error().kind(), ErrorKind::kCorrupt);
}

TEST(PoolIdentityTest, ReadsCompatibleVersionsOnly) {
  constexpr size_t kMajorOffset = 8, kMinorOffset = 10, kOldestOffset = 12;
  auto newer = encode_pool_identity(sample_identity());
  store_le<uint16_t>(newer.data() + kMinorOffset, 7);
  fix_checksum(newer);
  EXPECT_EQ(*decode_pool_identity(newer), sample_identity());

  auto incompatible = newer;
  store_le<uint16_t>(incompatible.data() + kOldestOffset, 7);
  fix_checksum(incompatible);
  EXPECT_EQ(decode_pool_identity(incompatible).error().kind(), ErrorKind::kUnsupported);

  auto major = encode_pool_identity(sample_identity());
  store_le<uint16_t>(major.data() + kMajorOffset, kPoolMajor + 1);
  EXPECT_EQ(decode_pool_identity(major).error().kind(), ErrorKind::kUnsupported);
}

TEST(StoreMarkerTest, KnowsWhatAStoreMayBeCalled) {
  for (const char* good : {"a", "default", "nvme-0", "A.b_c-9"}) EXPECT_TRUE(is_store_name(good));
  for (const std::string& bad : {std::string(), std::string(".a"), std::string("-a"),
                                 std::string("a/b"), std::string("a b"), std::string(65, 'a')})
    EXPECT_FALSE(is_store_name(bad)) << bad;
}

}  // namespace
}  // namespace squall
