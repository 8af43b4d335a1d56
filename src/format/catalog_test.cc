#include "format/catalog.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <functional>
#include <iterator>

#include "base/codec.h"
#include "base/hash.h"

namespace squall {
namespace {

VolumeHead sample_volume() {
  return {.id = 0x1122334455667788,
          .epoch = 9,
          .owner = *Uuid::parse("00112233-4455-4677-8899-aabbccddeeff"),
          .dirty = true,
          .root = Address::from_raw(0x0123456789abcdef),
          .root_height = 3,
          .size_bytes = 20ULL << 30,
          .journal_position = (7ULL << 40) + 5,
          .created_s = 1700000000,
          .cache_mode = 2,
          .durability = 1,
          .stateless = true,
          .shared = true,
          .parent = "debian@clean",
          .store = "nvme",
          .lost = true,
          .deduplicate = false};
}
SnapshotHead sample_snapshot() {
  return {.id = 77,
          .root = Address::from_raw(0x0123456789abcdef),
          .root_height = 2,
          .size_bytes = 4ULL << 30,
          .created_s = 1700000001,
          .source = "debian.qcow2",
          .store = "default",
          .deduplicate = false};
}
NodeHead sample_node() {
  return {.journal_id = *Uuid::parse("00112233-4455-4677-8899-aabbccddeeff"),
          .journal_generation = 12,
          .host_name = "host-a"};
}

template <class Decode>
void expect_every_damage_shows(const std::string& value, Decode decode) {
  for (size_t at = 0; at < value.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = value;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << bit));
      EXPECT_FALSE(decode(damaged)) << "byte " << at << " bit " << bit;
    }
  }
  for (size_t size = 0; size < value.size(); ++size)
    EXPECT_FALSE(decode(value.substr(0, size))) << size;
}

// The value with another body, its checksum made right.
std::string resealed(std::string value, const std::function<void(std::string&)>& change) {
  value.resize(value.size() - 8);
  change(value);
  ByteWriter w;
  w.put(checksum(as_bytes(value), 0x636174616c6f67));
  return value + w.text();
}

TEST(CatalogFormat, RoundTrips) {
  EXPECT_EQ(*decode_volume_head(encode(sample_volume())), sample_volume());
  EXPECT_EQ(*decode_snapshot_head(encode(sample_snapshot())), sample_snapshot());
  EXPECT_EQ(*decode_node_head(encode(sample_node())), sample_node());
  EXPECT_EQ(*decode_volume_head(encode(VolumeHead{})), VolumeHead{});
  EXPECT_EQ(*decode_snapshot_head(encode(SnapshotHead{})), SnapshotHead{});
  EXPECT_EQ(*decode_node_head(encode(NodeHead{})), NodeHead{});
}

TEST(CatalogFormat, AnyDamageShows) {
  expect_every_damage_shows(encode(sample_volume()), decode_volume_head);
  expect_every_damage_shows(encode(sample_snapshot()), decode_snapshot_head);
  expect_every_damage_shows(encode(sample_node()), decode_node_head);
}

TEST(CatalogFormat, OneKindIsNotTakenForAnother) {
  EXPECT_FALSE(decode_volume_head(encode(sample_snapshot())));
  EXPECT_FALSE(decode_snapshot_head(encode(sample_volume())));
  EXPECT_FALSE(decode_node_head(encode(sample_volume())));
}

TEST(CatalogFormat, ANewerMajorIsRefusedAndLaterFieldsAreSkipped) {
  const std::string major = resealed(encode(sample_volume()), [](std::string& v) { v[2] = 2; });
  ASSERT_FALSE(decode_volume_head(major));
  EXPECT_EQ(decode_volume_head(major).error().kind(), ErrorKind::kUnsupported);
  const std::string longer =
      resealed(encode(sample_volume()), [](std::string& v) { v += "more to come"; });
  ASSERT_TRUE(decode_volume_head(longer));
  EXPECT_EQ(*decode_volume_head(longer), sample_volume());
  const std::string newer_minor =
      resealed(encode(sample_volume()), [](std::string& v) { v[3] = 2; });
  ASSERT_FALSE(decode_volume_head(newer_minor));
  EXPECT_EQ(decode_volume_head(newer_minor).error().kind(), ErrorKind::kUnsupported);
}

TEST(CatalogFormat, ABodyThatIsCutShortIsRefusedThoughItsChecksumIsRight) {
  const size_t body = encode(sample_volume()).size() - 8;
  // Without its last byte, the flags, it is a value of 1.0.
  for (size_t size = 4; size + 1 < body; ++size)
    EXPECT_FALSE(decode_volume_head(resealed(encode(sample_volume()), [&](std::string& v) {
      v.resize(size);
    }))) << size;
}

TEST(CatalogFormat, UnknownModesAreRefused) {
  VolumeHead head = sample_volume();
  head.cache_mode = 5;
  EXPECT_FALSE(decode_volume_head(encode(head)));
  head = sample_volume();
  head.durability = 2;
  EXPECT_FALSE(decode_volume_head(encode(head)));
}

// Set SQUALL_WRITE_GOLDEN to make the files anew, after the format has changed on purpose.
std::string read_golden(const std::string& name) {
  std::ifstream file(SQUALL_SOURCE_DIR "/tests/golden/" + name, std::ios::binary);
  EXPECT_TRUE(file) << name;
  return {std::istreambuf_iterator<char>(file), {}};
}
void check_golden(const std::string& name, const std::string& expected) {
  if (std::getenv("SQUALL_WRITE_GOLDEN") != nullptr)
    std::ofstream(SQUALL_SOURCE_DIR "/tests/golden/" + name, std::ios::binary) << expected;
  EXPECT_TRUE(read_golden(name) == expected) << "the bytes of " << name << " have changed";
}

TEST(CatalogFormat, Golden) {
  check_golden("catalog_v1_1.volume", encode(sample_volume()));
  check_golden("catalog_v1_1.snapshot", encode(sample_snapshot()));
  check_golden("catalog_v1_0.node", encode(sample_node()));
}

TEST(CatalogFormat, ValuesWithoutFlagsAreRead) {
  VolumeHead volume = sample_volume();
  volume.lost = false;
  volume.deduplicate = true;
  const auto old_volume = decode_volume_head(read_golden("catalog_v1_0.volume"));
  ASSERT_TRUE(old_volume);
  EXPECT_EQ(*old_volume, volume);
  SnapshotHead snapshot = sample_snapshot();
  snapshot.deduplicate = true;
  const auto old_snapshot = decode_snapshot_head(read_golden("catalog_v1_0.snapshot"));
  ASSERT_TRUE(old_snapshot);
  EXPECT_EQ(*old_snapshot, snapshot);
}

}  // namespace
}  // namespace squall
