// Log parts: payloads lie inside the input, one behind the other; a prefix of a part that is good
// gives a prefix of its appends.
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "format/log_part.h"

using namespace squall;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const ConstBytes bytes = std::as_bytes(std::span(data, size));
  const auto content = decode_log_part(bytes);
  if (!content) return 0;
  CHECK(*decode_log_part_header(encode_log_part_header(content->header)) == content->header);
  uint64_t end = kLogPartHeaderBytes;
  for (const ConstBytes payload : content->payloads) {
    const auto begin = static_cast<uint64_t>(payload.data() - bytes.data());
    CHECK(begin == end + kLogFrameHeaderBytes && begin + payload.size() <= size);
    end += log_frame_bytes(payload.size());
  }
  if (content->payloads.empty()) return 0;
  const auto shorter = decode_log_part(bytes.first(bytes.size() / 2));
  CHECK(!shorter || shorter->payloads.size() <= content->payloads.size());
  return 0;
}
