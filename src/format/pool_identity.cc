#include "format/pool_identity.h"

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "base/check.h"
#include "base/hash.h"

namespace squall {
namespace {

constexpr uint64_t kPoolMagic = 0x4c4f4f504c555153;   // "SQULPOOL"
constexpr uint64_t kStoreMagic = 0x524f54534c555153;  // "SQULSTOR"

// What both files begin with.
struct Header {
  uint64_t magic;
  uint16_t major;
  uint16_t minor;
  uint16_t oldest_compatible_minor;
  uint8_t default_codec;  // pool identity only
  uint8_t name_bytes;     // store marker only
  std::byte pool[16];
};
struct IdentityLayout {
  Header header;
  int64_t created_s;
  std::byte reserved[16];
  uint64_t checksum;  // of all bytes before it, seed 0
};
struct MarkerLayout {
  Header header;
  char name[kStoreNameBytesMax];  // padded with zeros
  std::byte reserved[24];
  uint64_t checksum;
};
static_assert(sizeof(Header) == 32);
static_assert(sizeof(IdentityLayout) == kPoolIdentityBytes);
static_assert(sizeof(MarkerLayout) == kStoreMarkerBytes);
static_assert(offsetof(IdentityLayout, checksum) == kPoolIdentityBytes - 8);
static_assert(offsetof(MarkerLayout, checksum) == kStoreMarkerBytes - 8);

void put_header(std::byte* to, uint64_t magic, const Uuid& pool) {
  store_le(to + offsetof(Header, magic), magic);
  store_le(to + offsetof(Header, major), kPoolMajor);
  store_le(to + offsetof(Header, minor), kPoolMinor);
  store_le(to + offsetof(Header, oldest_compatible_minor), kPoolOldestCompatibleMinor);
  std::memcpy(to + offsetof(Header, pool), pool.bytes.data(), pool.bytes.size());
}

void put_checksum(Bytes bytes) {
  const ConstBytes body = bytes.first(bytes.size() - 8);
  store_le(bytes.data() + body.size(), checksum(body, 0));
}

// Checks all that both files share; returns the pool's id.
Result<Uuid> check_header(ConstBytes bytes, size_t size, uint64_t magic, std::string_view what) {
  if (bytes.size() < sizeof(Header))
    return fail(ErrorKind::kCorrupt, "{}: {} bytes hold no header", what, bytes.size());
  const std::byte* from = bytes.data();
  if (load_le<uint64_t>(from + offsetof(Header, magic)) != magic)
    return fail(ErrorKind::kCorrupt, "{}: wrong magic number", what);
  const auto major = load_le<uint16_t>(from + offsetof(Header, major));
  const auto oldest = load_le<uint16_t>(from + offsetof(Header, oldest_compatible_minor));
  // Before size and checksum: another major version may have others.
  if (major != kPoolMajor || oldest > kPoolMinor)
    return fail(ErrorKind::kUnsupported,
                "{}: format {}.{} is needed to read it, this build has {}.{}; use a newer squalld",
                what, major, oldest, kPoolMajor, kPoolMinor);
  if (bytes.size() != size)
    return fail(ErrorKind::kCorrupt, "{}: {} bytes instead of {}", what, bytes.size(), size);
  if (load_le<uint64_t>(from + size - 8) != checksum(bytes.first(size - 8), 0))
    return fail(ErrorKind::kCorrupt, "{}: wrong checksum", what);
  Uuid pool;
  std::memcpy(pool.bytes.data(), from + offsetof(Header, pool), pool.bytes.size());
  return pool;
}

}  // namespace

bool is_store_name(std::string_view name) {
  constexpr std::string_view kAllowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
  return !name.empty() && name.size() <= kStoreNameBytesMax && name[0] != '.' && name[0] != '-' &&
         name.find_first_not_of(kAllowed) == std::string_view::npos;
}

std::array<std::byte, kPoolIdentityBytes> encode_pool_identity(const PoolIdentity& identity) {
  std::array<std::byte, kPoolIdentityBytes> bytes{};
  put_header(bytes.data(), kPoolMagic, identity.id);
  store_le(bytes.data() + offsetof(Header, default_codec),
           static_cast<uint8_t>(identity.default_codec));
  store_le(bytes.data() + offsetof(IdentityLayout, created_s), identity.created_s);
  put_checksum(bytes);
  return bytes;
}

Result<PoolIdentity> decode_pool_identity(ConstBytes bytes) {
  PoolIdentity identity;
  TRY_ASSIGN(identity.id, check_header(bytes, kPoolIdentityBytes, kPoolMagic, "pool identity"));
  const auto codec = load_le<uint8_t>(bytes.data() + offsetof(Header, default_codec));
  if (codec > static_cast<uint8_t>(Codec::kZstd))
    return fail(ErrorKind::kUnsupported,
                "pool identity: codec {} is unknown to this build; use a newer squalld", codec);
  identity.default_codec = static_cast<Codec>(codec);
  identity.created_s = load_le<int64_t>(bytes.data() + offsetof(IdentityLayout, created_s));
  return identity;
}

std::array<std::byte, kStoreMarkerBytes> encode_store_marker(const StoreMarker& marker) {
  CHECK(is_store_name(marker.name));
  std::array<std::byte, kStoreMarkerBytes> bytes{};
  put_header(bytes.data(), kStoreMagic, marker.pool);
  store_le(bytes.data() + offsetof(Header, name_bytes), static_cast<uint8_t>(marker.name.size()));
  std::memcpy(bytes.data() + offsetof(MarkerLayout, name), marker.name.data(), marker.name.size());
  put_checksum(bytes);
  return bytes;
}

Result<StoreMarker> decode_store_marker(ConstBytes bytes) {
  StoreMarker marker;
  TRY_ASSIGN(marker.pool, check_header(bytes, kStoreMarkerBytes, kStoreMagic, "store marker"));
  const size_t name_bytes = load_le<uint8_t>(bytes.data() + offsetof(Header, name_bytes));
  if (name_bytes > kStoreNameBytesMax)
    return fail(ErrorKind::kCorrupt, "store marker: name of {} bytes", name_bytes);
  marker.name = as_text(bytes.subspan(offsetof(MarkerLayout, name), name_bytes));
  if (!is_store_name(marker.name)) return fail(ErrorKind::kCorrupt, "store marker: invalid name");
  return marker;
}

}  // namespace squall
