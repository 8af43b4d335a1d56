// A volume's log object in the pool (durability scope `pool`) is a row of parts. A part is a file:
// a header that names pool, volume, part and the epoch of whoever writes it, then frames, each one
// append. Pure; see docs/FORMAT.md, "Log parts".
//
// A frame is seeded with its place, so that a frame of another part, or an old one at the same
// place, fails its checksum. It also says how much of the part was durable when it was written:
// that tells a torn tail (an append that was never acknowledged) from damage to what was.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/uuid.h"

namespace squall {

constexpr uint16_t kLogMajor = 1;
constexpr uint16_t kLogMinor = 0;
constexpr uint16_t kLogOldestCompatibleMinor = 0;

constexpr size_t kLogPartHeaderBytes = 64;
constexpr size_t kLogFrameHeaderBytes = 24;
constexpr uint64_t kLogFrameAlignment = 8;  // frames begin at multiples of it; zeros between
constexpr uint64_t kMaxLogPayloadBytes = uint64_t{256} << 20;

struct LogPartHeader {
  Uuid pool;
  uint64_t volume = 0;
  uint64_t part = 0;
  uint64_t epoch = 0;
  bool operator==(const LogPartHeader&) const = default;
};

std::array<std::byte, kLogPartHeaderBytes> encode_log_part_header(const LogPartHeader& header);
// kCorrupt, or kUnsupported for a version that this build cannot read.
Result<LogPartHeader> decode_log_part_header(ConstBytes bytes);

// What a frame of `payload_bytes` takes, with header and padding.
constexpr uint64_t log_frame_bytes(uint64_t payload_bytes) {
  return round_up(kLogFrameHeaderBytes + payload_bytes, kLogFrameAlignment);
}
// The header of the frame that holds `payload` at `offset` of the part, whose first `durable_bytes`
// were durable before.
std::array<std::byte, kLogFrameHeaderBytes> encode_log_frame_header(const LogPartHeader& part,
                                                                    uint64_t offset,
                                                                    uint64_t durable_bytes,
                                                                    ConstBytes payload);

struct LogPartContent {
  LogPartHeader header;
  std::vector<ConstBytes> payloads;  // views of the part's bytes, in the order appended
};
// Takes a whole part apart; an append torn at its end is left out. kCorrupt when the header or a
// frame that was durable is damaged.
Result<LogPartContent> decode_log_part(ConstBytes bytes);

}  // namespace squall
