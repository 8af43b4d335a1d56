// The checksum of every structure on disk: XXH3, 64 bits, seeded (xxHash specification 0.8).
// It finds faults, not malice.
#pragma once

#include <xxhash.h>

#include "base/bytes.h"

namespace squall {

inline uint64_t checksum(ConstBytes bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}
// Mixes a value into a seed, so that a structure found at the wrong place fails its checksum.
inline uint64_t mix(uint64_t seed, uint64_t value) {
  return XXH3_64bits_withSeed(&value, sizeof value, seed);
}

}  // namespace squall
