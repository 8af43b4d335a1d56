#include "pool/marks.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace squall {

namespace {
constexpr uint64_t kPunchAlignment = 4096;

uint32_t place_of(uint64_t sector, uint64_t sectors, bool is_page) {
  return static_cast<uint32_t>(sector << 10 | sectors << 1 | (is_page ? 1 : 0));
}

uint16_t mask_of(uint64_t first, uint64_t count) {
  return static_cast<uint16_t>(((1u << count) - 1) << first);
}
}  // namespace

SegmentMarks::SegmentMarks(const SegmentFooter& footer)
    : live_(footer.records.size(), 0),
      footer_offset_(footer.trailer.footer_offset),
      segment_bytes_(footer.trailer.footer_offset + footer.trailer.footer_bytes) {
  places_.reserve(footer.records.size());
  blocks_.reserve(footer.records.size());
  for (const RecordEntry& entry : footer.records) {
    const bool is_page = entry.kind == RecordKind::kPage;
    places_.push_back(place_of(entry.sector, entry.sectors, is_page));
    blocks_.push_back(
        is_page ? 1 : static_cast<uint8_t>((entry.raw_bytes + kBlockBytes - 1) / kBlockBytes));
  }
}

uint64_t SegmentMarks::live_bytes(size_t i) const {
  return stored_bytes(i) * static_cast<uint64_t>(std::popcount(live_[i])) / blocks_[i];
}

size_t SegmentMarks::find(Address address, bool is_page) const {
  const uint32_t place = place_of(address.sector(), address.sectors(), is_page);
  const auto it = std::ranges::lower_bound(places_, place);
  if (it == places_.end() || *it != place) return size();
  return static_cast<size_t>(it - places_.begin());
}

bool SegmentMarks::mark(size_t i, uint16_t blocks) {
  const uint16_t before = live_[i];
  live_[i] |= blocks;
  return live_[i] != before;
}

uint16_t SegmentMarks::all_blocks(size_t i) const {
  return mask_of(0, blocks_[i]);
}

SegmentMarks::Totals SegmentMarks::totals() const {
  Totals totals;
  for (size_t i = 0; i < size(); ++i) {
    if (live_[i] == 0) continue;
    ++totals.records;
    totals.stored_bytes += stored_bytes(i);
    totals.live_bytes += live_bytes(i);
  }
  return totals;
}

std::vector<ByteRange> SegmentMarks::dead_ranges() const {
  std::vector<ByteRange> ranges;
  uint64_t begin = kSegmentHeaderBytes;  // end of the last record that is live
  auto add_until = [&](uint64_t end) {
    const ByteRange range{round_up(begin, kPunchAlignment), round_down(end, kPunchAlignment)};
    if (range.begin < range.end) ranges.push_back(range);
  };
  bool has_dead = false;
  for (size_t i = 0; i < size(); ++i) {
    if (live_[i] == 0) {
      has_dead = true;
      continue;
    }
    if (has_dead) add_until(sector(i) * kSectorBytes);
    begin = (sector(i) + sectors(i)) * kSectorBytes;
    has_dead = false;
  }
  if (has_dead) add_until(footer_offset_);
  return ranges;
}

void Marks::add_segment(const SegmentFooter& footer) {
  segments_.emplace(footer.trailer.segment, SegmentMarks(footer));
  last_id_ = 0;
  last_ = nullptr;
}

SegmentMarks* Marks::find_segment(SegmentId segment) {
  if (segment == last_id_) return last_;
  const auto it = segments_.find(segment);
  last_id_ = segment;
  last_ = it == segments_.end() ? nullptr : &it->second;
  return last_;
}

namespace {
std::unexpected<Error> unknown(Address address, std::string_view what) {
  return fail(ErrorKind::kCorrupt, "pool: an index refers to a {} at {}, where there is none", what,
              address.to_string());
}
}  // namespace

Result<bool> Marks::mark_page(Address address) {
  SegmentMarks* segment = find_segment(address.segment());
  bool is_new = false;
  if (segment != nullptr) {
    const size_t i = segment->find(address, true);
    if (i == segment->size()) return unknown(address, "page");
    is_new = segment->mark(i, 1);
  } else {
    if (!exists_(address.segment())) return unknown(address, "page");
    is_new = newer_pages_.insert(address).second;
  }
  pages_marked_ += is_new ? 1 : 0;
  return is_new;
}

Result<void> Marks::mark_blocks(Address chunk, uint64_t first_block, uint64_t count) {
  SegmentMarks* segment = find_segment(chunk.segment());
  if (segment == nullptr) {
    if (!exists_(chunk.segment())) return unknown(chunk, "chunk");
    return {};
  }
  const size_t i = segment->find(chunk, false);
  if (i == segment->size()) return unknown(chunk, "chunk");
  if (first_block + count > 16 || (mask_of(first_block, count) & ~segment->all_blocks(i)) != 0)
    return fail(ErrorKind::kCorrupt, "pool: an index refers to blocks {} to {} of the chunk at {}",
                first_block, first_block + count, chunk.to_string());
  segment->mark(i, mask_of(first_block, count));
  return {};
}

void Marks::mark_whole(Address chunk) {
  SegmentMarks* segment = find_segment(chunk.segment());
  if (segment == nullptr) return;
  const size_t i = segment->find(chunk, false);
  if (i != segment->size()) segment->mark(i, segment->all_blocks(i));
}

bool Marks::is_live(Address address) const {
  const auto segment = segments_.find(address.segment());
  if (segment == segments_.end()) return true;
  const SegmentMarks& marks = segment->second;
  size_t i = marks.find(address, false);
  if (i == marks.size()) i = marks.find(address, true);
  return i != marks.size() && marks.live(i) != 0;
}

}  // namespace squall
