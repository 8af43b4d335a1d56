#include "format/catalog.h"

#include "base/codec.h"
#include "base/hash.h"

namespace squall {

namespace {
constexpr uint8_t kMajor = 1;
constexpr uint8_t kMinor = 1;  // what this build reads
constexpr uint8_t kOldestCompatibleMinor = 0;
constexpr uint64_t kSeed = 0x636174616c6f67;  // "catalog"
// The flags, which values of 1.0 did not have.
constexpr uint8_t kLost = 1;
constexpr uint8_t kNotDeduplicated = 2;
enum Kind : uint16_t { kVolume = 1, kSnapshot = 2, kNode = 3 };

ByteWriter begin(Kind kind) {
  ByteWriter w;
  w.put<uint16_t>(kind).put(kMajor).put(kOldestCompatibleMinor);
  return w;
}
std::string finish(ByteWriter& w) {
  w.put(checksum(as_bytes(w.text()), kSeed));
  return w.take();
}

// The body of a value of `kind`.
Result<ConstBytes> open(std::string_view value, Kind kind, std::string_view what) {
  const ConstBytes bytes = as_bytes(value);
  if (bytes.size() < 12 || load_le<uint16_t>(bytes.data()) != kind)
    return fail(ErrorKind::kCorrupt, "catalog value is not a {}", what);
  const ConstBytes covered = bytes.first(bytes.size() - 8);
  if (load_le<uint64_t>(bytes.data() + covered.size()) != checksum(covered, kSeed))
    return fail(ErrorKind::kCorrupt, "catalog value of a {} fails its checksum", what);
  if (static_cast<uint8_t>(bytes[2]) != kMajor || static_cast<uint8_t>(bytes[3]) > kMinor)
    return fail(ErrorKind::kUnsupported, "{} has format {}.{}, this build knows {}.{}", what,
                static_cast<int>(bytes[2]), static_cast<int>(bytes[3]), kMajor, kMinor);
  return covered.subspan(4);
}

uint8_t get_flags(ByteReader& r) {
  return r.ok() && r.left() > 0 ? r.get<uint8_t>() : 0;
}

template <class T>
Result<T> checked(const ByteReader& r, T&& head, std::string_view what) {
  if (!r.ok()) return fail(ErrorKind::kCorrupt, "catalog value of a {} is cut short", what);
  return std::forward<T>(head);
}
}  // namespace

std::string encode(const VolumeHead& h) {
  ByteWriter w = begin(kVolume);
  w.put(h.id).put(h.epoch).put(h.owner).put<uint8_t>(h.dirty);
  w.put(h.root.raw()).put(h.root_height).put(h.size_bytes).put(h.journal_position);
  w.put(h.created_s).put(h.cache_mode).put(h.durability);
  w.put<uint8_t>(h.stateless).put<uint8_t>(h.shared);
  w.put_string(h.parent).put_string(h.store);
  w.put<uint8_t>((h.lost ? kLost : 0) | (h.deduplicate ? 0 : kNotDeduplicated));
  return finish(w);
}

Result<VolumeHead> decode_volume_head(std::string_view value) {
  TRY_ASSIGN(const ConstBytes body, open(value, kVolume, "volume"));
  ByteReader r(body);
  VolumeHead h;
  h.id = r.get<uint64_t>();
  h.epoch = r.get<uint64_t>();
  h.owner = r.get_uuid();
  h.dirty = r.get<uint8_t>() != 0;
  h.root = Address::from_raw(r.get<uint64_t>());
  h.root_height = r.get<uint8_t>();
  h.size_bytes = r.get<uint64_t>();
  h.journal_position = r.get<uint64_t>();
  h.created_s = r.get<int64_t>();
  h.cache_mode = r.get<uint8_t>();
  h.durability = r.get<uint8_t>();
  h.stateless = r.get<uint8_t>() != 0;
  h.shared = r.get<uint8_t>() != 0;
  h.parent = r.get_string();
  h.store = r.get_string();
  const uint8_t flags = get_flags(r);
  h.lost = (flags & kLost) != 0;
  h.deduplicate = (flags & kNotDeduplicated) == 0;
  if (h.cache_mode > 4 || h.durability > 1)
    return fail(ErrorKind::kUnsupported, "volume has a cache mode or durability not known here");
  return checked(r, std::move(h), "volume");
}

std::string encode(const SnapshotHead& h) {
  ByteWriter w = begin(kSnapshot);
  w.put(h.id).put(h.root.raw()).put(h.root_height).put(h.size_bytes).put(h.created_s);
  w.put_string(h.source).put_string(h.store);
  w.put<uint8_t>(h.deduplicate ? 0 : kNotDeduplicated);
  return finish(w);
}

Result<SnapshotHead> decode_snapshot_head(std::string_view value) {
  TRY_ASSIGN(const ConstBytes body, open(value, kSnapshot, "snapshot or image"));
  ByteReader r(body);
  SnapshotHead h;
  h.id = r.get<uint64_t>();
  h.root = Address::from_raw(r.get<uint64_t>());
  h.root_height = r.get<uint8_t>();
  h.size_bytes = r.get<uint64_t>();
  h.created_s = r.get<int64_t>();
  h.source = r.get_string();
  h.store = r.get_string();
  h.deduplicate = (get_flags(r) & kNotDeduplicated) == 0;
  return checked(r, std::move(h), "snapshot or image");
}

std::string encode(const NodeHead& h) {
  ByteWriter w = begin(kNode);
  w.put(h.journal_id).put(h.journal_generation).put_string(h.host_name);
  return finish(w);
}

Result<NodeHead> decode_node_head(std::string_view value) {
  TRY_ASSIGN(const ConstBytes body, open(value, kNode, "node"));
  ByteReader r(body);
  NodeHead h;
  h.journal_id = r.get_uuid();
  h.journal_generation = r.get<uint64_t>();
  h.host_name = r.get_string();
  return checked(r, std::move(h), "node");
}

}  // namespace squall
