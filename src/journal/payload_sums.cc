#include "journal/payload_sums.h"

#include <algorithm>

#include "base/check.h"
#include "base/hash.h"

namespace squall {

namespace {
// The offset seeds the sum, so that one piece's content is not taken for another's.
uint64_t sum_of(ConstBytes piece, uint64_t offset) {
  return checksum(piece, offset);
}
}  // namespace

uint32_t PayloadSums::add_sums(ConstBytes payload) {
  const auto first = static_cast<uint32_t>(sums_.size());
  for (uint64_t at = 0; at < payload.size(); at += kPieceBytes)
    sums_.push_back(sum_of(payload.subspan(at, std::min(kPieceBytes, payload.size() - at)), at));
  return first;
}

void PayloadSums::add(uint64_t position, ConstBytes payload) {
  add_unverified(position, static_cast<uint32_t>(payload.size()));
  learn(payloads_.size() - 1, payload);
}

void PayloadSums::add_unverified(uint64_t position, uint32_t payload_bytes) {
  CHECK(payloads_.empty() || payloads_.back().position + payloads_.back().bytes <= position);
  payloads_.push_back({position, payload_bytes, kUnknown});
}

void PayloadSums::clear() {
  payloads_ = {};
  sums_ = {};
}

size_t PayloadSums::find(uint64_t position, uint64_t bytes) const {
  auto it = std::ranges::upper_bound(payloads_, position, {}, &Payload::position);
  CHECK(it != payloads_.begin());
  --it;
  CHECK(position + bytes <= it->position + it->bytes);
  return static_cast<size_t>(it - payloads_.begin());
}

void PayloadSums::learn(size_t payload, ConstBytes content) {
  CHECK(content.size() == payloads_[payload].bytes);
  if (is_known(payload)) return;
  payloads_[payload].first_sum = add_sums(content);
}

bool PayloadSums::matches(size_t payload, uint64_t begin, ConstBytes content) const {
  CHECK(is_known(payload) && begin % kPieceBytes == 0);
  CHECK(begin + content.size() <= payloads_[payload].bytes);
  uint64_t sum = payloads_[payload].first_sum + begin / kPieceBytes;
  for (uint64_t at = 0; at < content.size(); at += kPieceBytes) {
    const ConstBytes piece = content.subspan(at, std::min(kPieceBytes, content.size() - at));
    if (sums_[sum++] != sum_of(piece, begin + at)) return false;
  }
  return true;
}

}  // namespace squall
