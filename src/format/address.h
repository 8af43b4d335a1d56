// Address: where a record lies in the pool, in 64 bits (VMStore's split, see design "Words"):
//   bits 63..31  segment number (33 bits; 0 is a hole: no record)
//   bits 30..9   first 512-byte sector within the segment (22 bits: 2 GiB)
//   bits 8..0    stored length in sectors, record header included (9 bits: up to 255.5 KiB)
// One look-up gives exactly one read. Neither a segment number nor an offset is ever reused.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <string>

#include "base/check.h"

namespace squall {

constexpr uint64_t kSectorBytes = 512;
constexpr uint64_t kBlockBytes = 4096;  // the index's granularity
constexpr uint64_t kMaxSegmentBytes = uint64_t{1} << 31;
constexpr uint64_t kMaxRecordBytes = 511 * kSectorBytes;

using SegmentId = uint64_t;

class Address {
 public:
  constexpr Address() = default;
  static constexpr Address from_raw(uint64_t raw) { return Address(raw); }
  static Address make(SegmentId segment, uint64_t sector, uint64_t sectors) {
    CHECK(segment > 0 && segment < (uint64_t{1} << 33));
    CHECK(sector < (uint64_t{1} << 22) && sectors > 0 && sectors < 512);
    return Address(segment << 31 | sector << 9 | sectors);
  }
  constexpr uint64_t raw() const { return raw_; }
  constexpr bool is_hole() const { return segment() == 0; }
  constexpr SegmentId segment() const { return raw_ >> 31; }
  constexpr uint64_t sector() const { return (raw_ >> 9) & 0x3fffff; }
  constexpr uint64_t sectors() const { return raw_ & 0x1ff; }
  constexpr uint64_t offset_bytes() const { return sector() * kSectorBytes; }
  constexpr uint64_t stored_bytes() const { return sectors() * kSectorBytes; }
  std::string to_string() const {
    if (is_hole()) return "hole";
    return "segment " + std::to_string(segment()) + " offset " + std::to_string(offset_bytes()) +
           " length " + std::to_string(stored_bytes());
  }
  constexpr auto operator<=>(const Address&) const = default;

 private:
  constexpr explicit Address(uint64_t raw) : raw_(raw) {}
  uint64_t raw_ = 0;
};
static_assert(sizeof(Address) == 8);

}  // namespace squall

template <>
struct std::hash<squall::Address> {
  size_t operator()(squall::Address address) const noexcept {
    return (address.raw() ^ (address.raw() >> 29)) * 0x9e3779b97f4a7c15ULL;
  }
};
