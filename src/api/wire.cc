// Each type is described once, by a describe() that visits its fields by name; the encoder and the
// decoder are such visitors. The field names are the members' names.
#include "api/wire.h"

#include <boost/json.hpp>
#include <concepts>
#include <limits>
#include <set>
#include <vector>

#include "api/types.h"

namespace squall::wire {

namespace json = boost::json;

namespace {

// The fields of every type.

void describe(auto& v, ImageInfo& x) {
  v("name", x.name);
  v("id", x.id);
  v("size_bytes", x.size_bytes);
  v("created_s", x.created_s);
  v("source", x.source);
  v("store", x.store);
  v("deduplicate", x.deduplicate);
}

void describe(auto& v, SnapshotInfo& x) {
  v("volume", x.volume);
  v("name", x.name);
  v("id", x.id);
  v("size_bytes", x.size_bytes);
  v("created_s", x.created_s);
}

void describe(auto& v, VolumeInfo& x) {
  v("name", x.name);
  v("id", x.id);
  v("size_bytes", x.size_bytes);
  v("created_s", x.created_s);
  v("parent", x.parent);
  v("cache", x.cache);
  v("durability", x.durability);
  v("stateless", x.stateless);
  v("shared", x.shared);
  v("store", x.store);
  v("deduplicate", x.deduplicate);
  v("epoch", x.epoch);
  v("snapshots", x.snapshots);
  v("open", x.open);
  v("dirty_bytes", x.dirty_bytes);
  v("lost", x.lost);
  v("bytes_read", x.bytes_read);
  v("bytes_written", x.bytes_written);
}

void describe(auto& v, CreateVolume& x) {
  v("name", x.name);
  v("count", x.count);
  v("from", x.from);
  v("size_bytes", x.size_bytes);
  v("cache", x.cache);
  v("durability", x.durability);
  v("stateless", x.stateless);
  v("shared", x.shared);
  v("store", x.store);
  v("deduplicate", x.deduplicate);
}

void describe(auto& v, ImportSession& x) {
  v("id", x.id);
  v("disk", x.disk);
}

void describe(auto& v, NodeInfo& x) {
  v("name", x.name);
  v("state", x.state);
  v("version", x.version);
  v("pid", x.pid);
  v("started_s", x.started_s);
  v("home", x.home);
  v("control_socket", x.control_socket);
  v("nbd_socket", x.nbd_socket);
  v("nbd_listen", x.nbd_listen);
}

void describe(auto& v, SpaceStatus& x) {
  v("name", x.name);
  v("path", x.path);
  v("total_bytes", x.total_bytes);
  v("used_bytes", x.used_bytes);
  v("available_bytes", x.available_bytes);
  v("used_percent", x.used_percent);
  v("level", x.level);
  v("advice", x.advice);
}

void describe(auto& v, ScrubStatus& x) {
  v("enabled", x.enabled);
  v("running", x.running);
  v("percent", x.percent);
  v("began_s", x.began_s);
  v("ended_s", x.ended_s);
  v("read_bytes", x.read_bytes);
  v("faults", x.faults);
  v("lines", x.lines);
}

void describe(auto& v, CollectionReport& x) {
  v("started_s", x.started_s);
  v("duration_ms", x.duration_ms);
  v("segments", x.segments);
  v("removed_segments", x.removed_segments);
  v("unreadable_segments", x.unreadable_segments);
  v("records", x.records);
  v("live_records", x.live_records);
  v("freed_records", x.freed_records);
  v("live_bytes", x.live_bytes);
  v("held_bytes", x.held_bytes);
  v("freed_bytes", x.freed_bytes);
  v("moved_bytes", x.moved_bytes);
}

void describe(auto& v, CollectorStatus& x) {
  v("running", x.running);
  v("phase", x.phase);
  v("percent", x.percent);
  v("ticket", x.ticket);
  v("ended", x.ended);
  v("error", x.error);
  v("last", x.last);
}

void describe(auto& v, GcStarted& x) {
  v("ticket", x.ticket);
}

void describe(auto& v, StatusInfo& x) {
  v("node", x.node);
  v("pool", x.pool);
  v("pool_id", x.pool_id);
  v("stores", x.stores);
  v("host_disks", x.host_disks);
  v("pool_segments", x.pool_segments);
  v("pool_bytes", x.pool_bytes);
  v("pool_allocated_bytes", x.pool_allocated_bytes);
  v("images", x.images);
  v("volumes", x.volumes);
  v("open_volumes", x.open_volumes);
  v("lost_volumes", x.lost_volumes);
  v("damaged_journal_reads", x.damaged_journal_reads);
  v("dirty_bytes", x.dirty_bytes);
  v("bytes_read", x.bytes_read);
  v("bytes_written", x.bytes_written);
  v("memory_bytes", x.memory_bytes);
  v("cache_bytes", x.cache_bytes);
  v("cache_hits", x.cache_hits);
  v("cache_misses", x.cache_misses);
  v("cache_evictions", x.cache_evictions);
  v("damaged", x.damaged);
  v("scrub", x.scrub);
  v("gc", x.gc);
  v("dedup_blocks_seen", x.dedup_blocks_seen);
  v("dedup_blocks_shared", x.dedup_blocks_shared);
  v("dedup_bytes_saved", x.dedup_bytes_saved);
  v("dedup_misses", x.dedup_misses);
  v("dedup_index_entries", x.dedup_index_entries);
  v("dedup_index_bytes", x.dedup_index_bytes);
  v("dedup_index_rate", x.dedup_index_rate);
  v("dedup_index_complete", x.dedup_index_complete);
}

void describe(auto& v, AffectedRange& x) {
  v("object", x.object);
  v("offset", x.offset);
  v("length", x.length);
}

void describe(auto& v, Fault& x) {
  v("kind", x.kind);
  v("object", x.object);
  v("segment", x.segment);
  v("offset", x.offset);
  v("length", x.length);
  v("problem", x.problem);
  v("advice", x.advice);
  v("affected", x.affected);
  v("affected_left_out", x.affected_left_out);
}

void describe(auto& v, CheckProgress& x) {
  v("phase", x.phase);
  v("percent", x.percent);
  v("read_bytes", x.read_bytes);
  v("faults", x.faults);
}

void describe(auto& v, CheckReport& x) {
  v("faults", x.faults);
  v("faults_left_out", x.faults_left_out);
  v("roots", x.roots);
  v("pages", x.pages);
  v("segments", x.segments);
  v("unsealed_segments", x.unsealed_segments);
  v("records", x.records);
  v("read_bytes", x.read_bytes);
  v("actions", x.actions);
}

void describe(auto& v, CheckStatus& x) {
  v("id", x.id);
  v("done", x.done);
  v("progress", x.progress);
  v("error", x.error);
  v("report", x.report);
}

void describe(auto& v, CheckRequest& x) {
  v("rate_bytes_per_s", x.rate_bytes_per_s);
}

void describe(auto& v, CheckStarted& x) {
  v("id", x.id);
}

void describe(auto& v, CreateImageRequest& x) {
  v("name", x.name);
  v("from", x.from);
}

void describe(auto& v, ImportRequest& x) {
  v("name", x.name);
  v("size_bytes", x.size_bytes);
  v("source", x.source);
  v("store", x.store);
  v("deduplicate", x.deduplicate);
}

void describe(auto& v, ResizeRequest& x) {
  v("size_bytes", x.size_bytes);
}

void describe(auto& v, RollbackRequest& x) {
  v("snapshot", x.snapshot);
}

void describe(auto& v, TakeoverRequest& x) {
  v("lose_data", x.lose_data);
}

void describe(auto& v, CreateSnapshotRequest& x) {
  v("name", x.name);
}

void describe(auto&, EmptyRequest&) {}

void describe(auto& v, ErrorBody& x) {
  v("kind", x.kind);
  v("message", x.message);
}

// Encoding.

// The length of the UTF-8 sequence that `text` begins with; 0 when it is none.
size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t length = lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
  if (length == 0 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  // Overlong forms, surrogates, beyond U+10FFFF.
  if ((lead == 0xe0 && byte(1) < 0xa0) || (lead == 0xed && byte(1) >= 0xa0) ||
      (lead == 0xf0 && byte(1) < 0x90) || (lead == 0xf4 && byte(1) >= 0x90)) {
    return 0;
  }
  return length;
}

// JSON is UTF-8; file names and what clients send may be anything. Other bytes become '?'.
std::string valid_utf8(std::string_view text) {
  std::string valid;
  valid.reserve(text.size());
  while (!text.empty()) {
    const size_t length = utf8_length(text);
    if (length == 0) {
      valid += '?';
    } else {
      valid += text.substr(0, length);
    }
    text.remove_prefix(std::max<size_t>(length, 1));
  }
  return valid;
}

template <class T>
json::value to_json(const T& value);
template <class T>
json::value to_json(const std::vector<T>& values);

struct Encoder {
  json::object object;
  template <class T>
  void operator()(std::string_view name, const T& value) {
    object[name] = to_json(value);
  }
};

template <class T>
json::value to_json(const std::vector<T>& values) {
  json::array array;
  array.reserve(values.size());
  for (const T& value : values) array.push_back(to_json(value));
  return array;
}

template <class T>
json::value to_json(const T& value) {
  if constexpr (std::same_as<T, CacheMode> || std::same_as<T, Durability> ||
                std::same_as<T, FaultKind>) {
    return json::value(to_string(value));
  } else if constexpr (std::same_as<T, std::string>) {
    return json::value(valid_utf8(value));
  } else if constexpr (std::is_arithmetic_v<T>) {
    return json::value(value);
  } else {
    Encoder encoder;
    T copy = value;  // describe() serves decoding too, hence wants it writable
    describe(encoder, copy);
    return std::move(encoder.object);
  }
}

// Decoding.

Result<void> from_json(const json::value& value, bool& to, UnknownFields) {
  if (!value.is_bool()) return fail(ErrorKind::kInvalid, "must be true or false");
  to = value.get_bool();
  return {};
}

Result<void> from_json(const json::value& value, std::string& to, UnknownFields) {
  if (!value.is_string()) return fail(ErrorKind::kInvalid, "must be a string");
  to = value.get_string();
  return {};
}

Result<void> from_json(const json::value& value, std::integral auto& to, UnknownFields) {
  using T = std::remove_reference_t<decltype(to)>;
  boost::system::error_code error;
  to = value.to_number<T>(error);
  if (error || value.is_double()) {
    return fail(ErrorKind::kInvalid, "must be a whole number from {} to {}",
                std::numeric_limits<T>::min(), std::numeric_limits<T>::max());
  }
  return {};
}

Result<void> from_json(const json::value& value, CacheMode& to, UnknownFields) {
  if (!value.is_string()) return fail(ErrorKind::kInvalid, "must be a string");
  TRY_ASSIGN(to, parse_cache_mode(value.get_string()));
  return {};
}

Result<void> from_json(const json::value& value, Durability& to, UnknownFields) {
  if (!value.is_string()) return fail(ErrorKind::kInvalid, "must be a string");
  TRY_ASSIGN(to, parse_durability(value.get_string()));
  return {};
}

Result<void> from_json(const json::value& value, FaultKind& to, UnknownFields) {
  if (!value.is_string()) return fail(ErrorKind::kInvalid, "must be a string");
  TRY_ASSIGN(to, parse_fault_kind(value.get_string()));
  return {};
}

template <class T>
Result<void> from_json(const json::value& value, T& to, UnknownFields unknown);
template <class T>
Result<void> from_json(const json::value& value, std::vector<T>& to, UnknownFields unknown);

struct Decoder {
  const json::object& object;
  UnknownFields unknown;
  std::set<std::string_view> known{};
  Result<void> result{};

  template <class T>
  void operator()(std::string_view name, T& to) {
    known.insert(name);
    const json::value* value = object.if_contains(name);
    if (value == nullptr || !result) return;
    if (auto field = from_json(*value, to, unknown); !field) {
      result = std::unexpected(field.error().wrap(fmt::format("field '{}'", name)));
    }
  }
};

template <class T>
Result<void> from_json(const json::value& value, T& to, UnknownFields unknown) {
  if (!value.is_object()) return fail(ErrorKind::kInvalid, "must be a JSON object");
  Decoder decoder{value.get_object(), unknown};
  describe(decoder, to);
  TRY(std::move(decoder.result));
  if (unknown == UnknownFields::kReject) {
    for (const auto& field : value.get_object()) {
      if (!decoder.known.contains(field.key())) {
        return fail(ErrorKind::kInvalid, "unknown field '{}'", std::string_view(field.key()));
      }
    }
  }
  return {};
}

template <class T>
Result<void> from_json(const json::value& value, std::vector<T>& to, UnknownFields unknown) {
  if (!value.is_array()) return fail(ErrorKind::kInvalid, "must be a JSON array");
  to.clear();
  for (const json::value& element : value.get_array()) {
    TRY(from_json(element, to.emplace_back(), unknown));
  }
  return {};
}

}  // namespace

template <class T>
std::string encode(const T& value) {
  return json::serialize(to_json(value));
}

template <class T>
Result<T> decode(std::string_view text, UnknownFields unknown) {
  boost::system::error_code error;
  const json::value value = json::parse(text, error);
  if (error) return fail(ErrorKind::kInvalid, "not valid JSON: {}", error.message());
  T result{};
  TRY(from_json(value, result, unknown));
  return result;
}

ErrorKind parse_error_kind(std::string_view text) {
  for (int i = 0; i <= static_cast<int>(ErrorKind::kInternal); ++i) {
    const auto kind = static_cast<ErrorKind>(i);
    if (to_string(kind) == text) return kind;
  }
  return ErrorKind::kInternal;
}

#define SQUALL_WIRE_TYPE(T)                 \
  template std::string encode<T>(const T&); \
  template Result<T> decode<T>(std::string_view, UnknownFields)

SQUALL_WIRE_TYPE(ImageInfo);
SQUALL_WIRE_TYPE(std::vector<ImageInfo>);
SQUALL_WIRE_TYPE(SnapshotInfo);
SQUALL_WIRE_TYPE(std::vector<SnapshotInfo>);
SQUALL_WIRE_TYPE(VolumeInfo);
SQUALL_WIRE_TYPE(std::vector<VolumeInfo>);
SQUALL_WIRE_TYPE(CreateVolume);
SQUALL_WIRE_TYPE(ImportSession);
SQUALL_WIRE_TYPE(NodeInfo);
SQUALL_WIRE_TYPE(std::vector<NodeInfo>);
SQUALL_WIRE_TYPE(StatusInfo);
SQUALL_WIRE_TYPE(CollectionReport);
SQUALL_WIRE_TYPE(CollectorStatus);
SQUALL_WIRE_TYPE(GcStarted);
SQUALL_WIRE_TYPE(CheckRequest);
SQUALL_WIRE_TYPE(CheckStarted);
SQUALL_WIRE_TYPE(CheckStatus);
SQUALL_WIRE_TYPE(CheckReport);
SQUALL_WIRE_TYPE(CreateImageRequest);
SQUALL_WIRE_TYPE(ImportRequest);
SQUALL_WIRE_TYPE(ResizeRequest);
SQUALL_WIRE_TYPE(RollbackRequest);
SQUALL_WIRE_TYPE(TakeoverRequest);
SQUALL_WIRE_TYPE(CreateSnapshotRequest);
SQUALL_WIRE_TYPE(EmptyRequest);
SQUALL_WIRE_TYPE(ErrorBody);

}  // namespace squall::wire
