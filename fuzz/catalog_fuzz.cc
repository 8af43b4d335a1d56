// Catalog values: as they are and with a right checksum. What decodes encodes to something that
// decodes to the same.
#include <cstdint>
#include <string>

#include "base/check.h"
#include "base/codec.h"
#include "base/hash.h"
#include "format/catalog.h"

namespace {
using namespace squall;

void try_value(std::string_view value) {
  if (const auto head = decode_volume_head(value))
    CHECK(*decode_volume_head(encode(*head)) == *head);
  if (const auto head = decode_snapshot_head(value))
    CHECK(*decode_snapshot_head(encode(*head)) == *head);
  if (const auto head = decode_node_head(value)) CHECK(*decode_node_head(encode(*head)) == *head);
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  try_value(input);
  if (size < 8) return 0;
  constexpr uint64_t kSeed = 0x636174616c6f67;  // of the checksum at the end
  const std::string_view covered = input.substr(0, size - 8);
  ByteWriter w;
  w.put_raw(as_bytes(covered)).put(checksum(as_bytes(covered), kSeed));
  try_value(w.text());
  return 0;
}
