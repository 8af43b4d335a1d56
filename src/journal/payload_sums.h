// PayloadSums: what the payloads of one journal file's records must be, so that any part of one can
// be verified without reading all of it: an XXH3 of every 4 KiB of payload, kept in memory from the
// append (or the replay) on. 16 bytes per record and 8 per 4 KiB: 24 MiB for a journal of 4 GiB
// full of 4 KiB writes. A record that only an index told of has none until it was read whole once.
// Pure bookkeeping; one reactor's thread.
#pragma once

#include <cstdint>
#include <vector>

#include "base/bytes.h"

namespace squall {

class PayloadSums {
 public:
  static constexpr uint64_t kPieceBytes = 4096;

  // Payloads are added in the order of their places in the file.
  void add(uint64_t position, ConstBytes payload);
  void add_unverified(uint64_t position, uint32_t payload_bytes);
  void clear();

  // The payload that [position, position + bytes) lies in, to be used with what follows; payloads
  // keep their numbers until clear().
  size_t find(uint64_t position, uint64_t bytes) const;
  uint64_t position(size_t payload) const { return payloads_[payload].position; }
  uint32_t bytes(size_t payload) const { return payloads_[payload].bytes; }
  bool is_known(size_t payload) const { return payloads_[payload].first_sum != kUnknown; }
  // The whole payload was verified against its record's checksum.
  void learn(size_t payload, ConstBytes content);
  // Whether `content` is what the payload has from `begin` on: a multiple of kPieceBytes, up to
  // another one or to the payload's end.
  bool matches(size_t payload, uint64_t begin, ConstBytes content) const;

 private:
  static constexpr uint32_t kUnknown = ~uint32_t{0};
  struct Payload {
    uint64_t position;
    uint32_t bytes;
    uint32_t first_sum;
  };
  uint32_t add_sums(ConstBytes payload);

  std::vector<Payload> payloads_;
  std::vector<uint64_t> sums_;
};

}  // namespace squall
