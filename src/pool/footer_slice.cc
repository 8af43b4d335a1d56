#include "pool/footer_slice.h"

#include <algorithm>

#include "base/check.h"

namespace squall {

namespace {
constexpr size_t kHeads = 2048;
// Blocks of one content may be many; looking at a few of them is enough to find a good run.
constexpr int kChainMax = 8;

size_t head_of(const Fingerprint& fingerprint) {
  return load_le<uint32_t>(fingerprint.data() + 12) % kHeads;
}
}  // namespace

FooterSlice::FooterSlice(SegmentId segment, Content content)
    : segment_(segment),
      part_(std::move(content.part)),
      open_in_(std::move(content.open_in)),
      heads_(kHeads) {
  CHECK(part_.records.size() <= kRecords);
  const uint64_t count = std::min<uint64_t>(part_.fingerprints.size(), UINT16_MAX - 1);
  blocks_.resize(count);
  for (uint32_t i = 0; i < part_.records.size(); ++i) {
    RecordEntry& entry = part_.records[i];
    const bool possible = entry.kind == RecordKind::kChunk &&
                          entry.fingerprints * kBlockBytes == entry.raw_bytes &&
                          entry.first_fingerprint >= part_.first_fingerprint &&
                          first_block(i) + entry.fingerprints <= count;
    if (!possible) entry.fingerprints = 0;
    // Backwards, so that a chain leads to the first of equal blocks first.
    for (uint64_t block = entry.fingerprints; block-- > 0;) {
      const uint64_t at = first_block(i) + block;
      uint16_t& head = heads_[head_of(part_.fingerprints[at])];
      blocks_[at] = {static_cast<uint16_t>(i), head};
      head = static_cast<uint16_t>(at + 1);
    }
  }
}

FooterSlice::Run FooterSlice::longest_run(std::span<const Fingerprint> wanted) const {
  Run longest;
  int steps = 0;
  for (uint16_t at = heads_[head_of(wanted[0])]; at != 0 && steps < kChainMax; ++steps) {
    const uint64_t block = at - 1;
    const uint32_t record = blocks_[block].record;
    at = blocks_[block].next;
    const uint64_t end = first_block(record) + part_.records[record].fingerprints;
    uint32_t count = 0;
    while (block + count < end && count < wanted.size() &&
           part_.fingerprints[block + count] == wanted[count])
      ++count;
    if (count > longest.count)
      longest = {record, static_cast<uint32_t>(block - first_block(record)), count};
  }
  return longest;
}

Address FooterSlice::address(uint32_t record) const {
  const RecordEntry& entry = part_.records[record];
  return Address::make(segment_, entry.sector, entry.sectors);
}

uint64_t FooterSlice::memory_bytes() const {
  return sizeof *this + part_.records.capacity() * sizeof(RecordEntry) +
         part_.fingerprints.capacity() * sizeof(Fingerprint) + blocks_.capacity() * sizeof(Block) +
         heads_.capacity() * sizeof(uint16_t);
}

}  // namespace squall
