// The two small files that say what a directory is: DIR/squall-pool (PoolIdentity: this is the pool
// with that id) and STORE/squall-store (StoreMarker: this directory holds the segments of store
// NAME of that pool). Both are fixed-size, little-endian, checksummed, replaced as a whole. Pure;
// see docs/FORMAT.md, "Pool identity and store marker".
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "base/bytes.h"
#include "base/error.h"
#include "base/uuid.h"
#include "format/segment.h"

namespace squall {

// A reader of (major, minor) reads what has the same major and an oldest compatible minor that is
// not above its own.
constexpr uint16_t kPoolMajor = 1;
constexpr uint16_t kPoolMinor = 0;
constexpr uint16_t kPoolOldestCompatibleMinor = 0;

constexpr size_t kPoolIdentityBytes = 64;
constexpr size_t kStoreMarkerBytes = 128;
constexpr size_t kStoreNameBytesMax = 64;

struct PoolIdentity {
  Uuid id;
  Codec default_codec = Codec::kLz4;  // what new records are compressed with
  int64_t created_s = 0;              // since 1970
  bool operator==(const PoolIdentity&) const = default;
};

struct StoreMarker {
  Uuid pool;
  std::string name;
  bool operator==(const StoreMarker&) const = default;
};

// 1 to 64 of [A-Za-z0-9._-], not starting with '.' or '-'.
bool is_store_name(std::string_view name);

std::array<std::byte, kPoolIdentityBytes> encode_pool_identity(const PoolIdentity& identity);
// kCorrupt: not such a file, or damaged. kUnsupported: of a version that this build cannot read.
Result<PoolIdentity> decode_pool_identity(ConstBytes bytes);

// The name must be a store name.
std::array<std::byte, kStoreMarkerBytes> encode_store_marker(const StoreMarker& marker);
Result<StoreMarker> decode_store_marker(ConstBytes bytes);

}  // namespace squall
