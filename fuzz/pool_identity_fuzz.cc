// Pool identity and store marker: what decodes encodes to something that decodes to the same.
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "format/pool_identity.h"

using namespace squall;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const ConstBytes bytes = std::as_bytes(std::span(data, size));
  if (const auto identity = decode_pool_identity(bytes))
    CHECK(*decode_pool_identity(encode_pool_identity(*identity)) == *identity);
  if (const auto marker = decode_store_marker(bytes))
    CHECK(*decode_store_marker(encode_store_marker(*marker)) == *marker);
  return 0;
}
