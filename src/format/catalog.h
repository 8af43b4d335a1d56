// Values of the catalog: one head per volume, snapshot, image and node. Pure encode and decode.
// Every value is: kind (2 bytes), major and oldest compatible minor (1 byte each), body, XXH3
// checksum (8 bytes). A reader accepts bytes after the fields it knows (a newer minor).
#pragma once

#include <string>
#include <string_view>

#include "base/error.h"
#include "base/uuid.h"
#include "format/address.h"

namespace squall {

struct VolumeHead {
  uint64_t id = 0;     // never reused
  uint64_t epoch = 0;  // raised by every new lease
  Uuid owner;          // journal id of the lease's holder; nil: nobody
  bool dirty = false;  // the owner's journal may hold what the pool does not
  Address root;        // of the block index
  uint8_t root_height = 0;
  uint64_t size_bytes = 0;
  uint64_t journal_position = 0;  // replay skips records at or below
  int64_t created_s = 0;
  uint8_t cache_mode = 0;  // CacheMode
  uint8_t durability = 0;  // Durability
  bool stateless = false;
  bool shared = false;
  std::string parent;
  std::string store;
  bool lost = false;  // acknowledged data is gone for good: EIO until a rollback
  bool deduplicate = true;
  bool operator==(const VolumeHead&) const = default;
};

// A snapshot of a volume, and an image.
struct SnapshotHead {
  uint64_t id = 0;
  Address root;
  uint8_t root_height = 0;
  uint64_t size_bytes = 0;
  int64_t created_s = 0;
  std::string source;  // images: what it was made from
  std::string store;
  bool deduplicate = true;  // clones inherit it
  bool operator==(const SnapshotHead&) const = default;
};

struct NodeHead {
  Uuid journal_id;
  uint64_t journal_generation = 0;
  std::string host_name;
  bool operator==(const NodeHead&) const = default;
};

std::string encode(const VolumeHead& head);
std::string encode(const SnapshotHead& head);
std::string encode(const NodeHead& head);
Result<VolumeHead> decode_volume_head(std::string_view value);
Result<SnapshotHead> decode_snapshot_head(std::string_view value);
Result<NodeHead> decode_node_head(std::string_view value);

}  // namespace squall
