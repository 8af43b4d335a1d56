// Trace: a running hash of everything that happened in a simulation; equal seeds and programs give
// equal traces. Never fed with addresses of objects or real time.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "base/hash.h"

namespace squall::sim {

class Trace {
 public:
  void add(std::initializer_list<uint64_t> values) {
    for (const uint64_t value : values) hash_ = mix(hash_, value);
  }
  void add(ConstBytes bytes) { hash_ = checksum(bytes, hash_); }
  uint64_t hash() const { return hash_; }

 private:
  uint64_t hash_ = 0;
};

}  // namespace squall::sim
