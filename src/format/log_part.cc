#include "format/log_part.h"

#include <cstddef>
#include <cstring>
#include <optional>

#include "base/check.h"
#include "base/hash.h"

namespace squall {
namespace {

constexpr uint64_t kPartMagic = 0x474f4c504c555153;  // "SQULPLOG"
constexpr uint32_t kFrameMagic = 0x4d524653;         // "SFRM"

struct HeaderLayout {
  uint64_t magic;
  uint16_t major;
  uint16_t minor;
  uint16_t oldest_compatible_minor;
  uint16_t reserved;
  std::byte pool[16];
  uint64_t volume;
  uint64_t part;
  uint64_t epoch;
  uint64_t checksum;  // of the bytes before it, seed 0
};
struct FrameLayout {
  uint32_t magic;
  uint32_t payload_bytes;
  uint64_t durable_bytes;
  uint64_t checksum;  // of the bytes before it and the payload, seeded with the frame's place
};
static_assert(sizeof(HeaderLayout) == kLogPartHeaderBytes);
static_assert(sizeof(FrameLayout) == kLogFrameHeaderBytes);
static_assert(kLogPartHeaderBytes % kLogFrameAlignment == 0);

uint64_t frame_checksum(const LogPartHeader& part, uint64_t offset, ConstBytes header,
                        ConstBytes payload) {
  uint64_t seed = checksum(part.pool.bytes, part.volume);
  seed = mix(mix(seed, part.part), offset);
  return checksum(payload, checksum(header.first(offsetof(FrameLayout, checksum)), seed));
}

struct Frame {
  uint64_t durable_bytes;
  ConstBytes payload;
};

// The frame at `offset`, or nothing when there is no whole and valid one.
std::optional<Frame> decode_frame(const LogPartHeader& part, ConstBytes bytes, uint64_t offset) {
  if (bytes.size() - offset < kLogFrameHeaderBytes) return std::nullopt;
  const ConstBytes header = bytes.subspan(offset, kLogFrameHeaderBytes);
  if (load_le<uint32_t>(header.data() + offsetof(FrameLayout, magic)) != kFrameMagic)
    return std::nullopt;
  const auto length = load_le<uint32_t>(header.data() + offsetof(FrameLayout, payload_bytes));
  if (length > kMaxLogPayloadBytes || length > bytes.size() - offset - kLogFrameHeaderBytes)
    return std::nullopt;
  const ConstBytes payload = bytes.subspan(offset + kLogFrameHeaderBytes, length);
  if (load_le<uint64_t>(header.data() + offsetof(FrameLayout, checksum)) !=
      frame_checksum(part, offset, header, payload))
    return std::nullopt;
  return Frame{load_le<uint64_t>(header.data() + offsetof(FrameLayout, durable_bytes)), payload};
}

// True when a valid frame behind `offset` was written after what lies at `offset` was durable.
bool was_durable(const LogPartHeader& part, ConstBytes bytes, uint64_t offset) {
  for (uint64_t at = offset + kLogFrameAlignment; at < bytes.size(); at += kLogFrameAlignment)
    if (const auto frame = decode_frame(part, bytes, at); frame && frame->durable_bytes > offset)
      return true;
  return false;
}

}  // namespace

std::array<std::byte, kLogPartHeaderBytes> encode_log_part_header(const LogPartHeader& header) {
  std::array<std::byte, kLogPartHeaderBytes> bytes{};
  std::byte* to = bytes.data();
  store_le(to + offsetof(HeaderLayout, magic), kPartMagic);
  store_le(to + offsetof(HeaderLayout, major), kLogMajor);
  store_le(to + offsetof(HeaderLayout, minor), kLogMinor);
  store_le(to + offsetof(HeaderLayout, oldest_compatible_minor), kLogOldestCompatibleMinor);
  std::memcpy(to + offsetof(HeaderLayout, pool), header.pool.bytes.data(), 16);
  store_le(to + offsetof(HeaderLayout, volume), header.volume);
  store_le(to + offsetof(HeaderLayout, part), header.part);
  store_le(to + offsetof(HeaderLayout, epoch), header.epoch);
  const size_t body = offsetof(HeaderLayout, checksum);
  store_le(to + body, checksum(ConstBytes(bytes).first(body), 0));
  return bytes;
}

Result<LogPartHeader> decode_log_part_header(ConstBytes bytes) {
  if (bytes.size() < kLogPartHeaderBytes)
    return fail(ErrorKind::kCorrupt, "log part: {} bytes hold no header", bytes.size());
  const std::byte* from = bytes.data();
  if (load_le<uint64_t>(from + offsetof(HeaderLayout, magic)) != kPartMagic)
    return fail(ErrorKind::kCorrupt, "log part: wrong magic number");
  const auto major = load_le<uint16_t>(from + offsetof(HeaderLayout, major));
  const auto oldest = load_le<uint16_t>(from + offsetof(HeaderLayout, oldest_compatible_minor));
  if (major != kLogMajor || oldest > kLogMinor)
    return fail(ErrorKind::kUnsupported,
                "log part: format {}.{} is needed to read it, this build has {}.{}; use a newer "
                "squalld",
                major, oldest, kLogMajor, kLogMinor);
  const size_t body = offsetof(HeaderLayout, checksum);
  if (load_le<uint64_t>(from + body) != checksum(bytes.first(body), 0))
    return fail(ErrorKind::kCorrupt, "log part: wrong checksum of the header");
  LogPartHeader header;
  std::memcpy(header.pool.bytes.data(), from + offsetof(HeaderLayout, pool), 16);
  header.volume = load_le<uint64_t>(from + offsetof(HeaderLayout, volume));
  header.part = load_le<uint64_t>(from + offsetof(HeaderLayout, part));
  header.epoch = load_le<uint64_t>(from + offsetof(HeaderLayout, epoch));
  return header;
}

std::array<std::byte, kLogFrameHeaderBytes> encode_log_frame_header(const LogPartHeader& part,
                                                                    uint64_t offset,
                                                                    uint64_t durable_bytes,
                                                                    ConstBytes payload) {
  CHECK(payload.size() <= kMaxLogPayloadBytes && offset % kLogFrameAlignment == 0);
  std::array<std::byte, kLogFrameHeaderBytes> bytes{};
  std::byte* to = bytes.data();
  store_le(to + offsetof(FrameLayout, magic), kFrameMagic);
  store_le(to + offsetof(FrameLayout, payload_bytes), static_cast<uint32_t>(payload.size()));
  store_le(to + offsetof(FrameLayout, durable_bytes), durable_bytes);
  store_le(to + offsetof(FrameLayout, checksum), frame_checksum(part, offset, bytes, payload));
  return bytes;
}

Result<LogPartContent> decode_log_part(ConstBytes bytes) {
  LogPartContent content;
  TRY_ASSIGN(content.header, decode_log_part_header(bytes));
  uint64_t offset = kLogPartHeaderBytes;
  while (offset < bytes.size()) {
    const auto frame = decode_frame(content.header, bytes, offset);
    if (!frame) break;
    content.payloads.push_back(frame->payload);
    offset += log_frame_bytes(frame->payload.size());
  }
  if (offset < bytes.size() && was_durable(content.header, bytes, offset))
    return fail(ErrorKind::kCorrupt, "log part {} of volume {}: the append at offset {} is damaged",
                content.header.part, content.header.volume, offset);
  return content;
}

}  // namespace squall
