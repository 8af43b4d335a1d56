// What a segment wastes once it is swept: blocks of chunks that are dead in part, and what punching
// loses where dead and live records share a block of the file system. Both show in what it holds
// against what is live, so the segment with the worst ratio goes first, as in a log-structured file
// system's greedy cleaning (Rosenblum, Ousterhout: "The design and implementation of a
// log-structured file system", SOSP 1991).
//
// Where holes can be punched, large chunks that are wholly live stay where they are: copying them
// gains nothing.
#include "pool/compaction.h"

#include <algorithm>

namespace squall {

namespace {
constexpr uint64_t kLargeRecordBytes = 32 * kKiB;
constexpr uint64_t kDensePercent = 105;  // nothing is to be had of a segment that holds no more

double live_part(const CompactionCandidate& candidate) {
  return static_cast<double>(candidate.live_bytes) / static_cast<double>(candidate.held_bytes);
}
}  // namespace

CompactionPlan::CompactionPlan(const std::vector<CompactionCandidate>& candidates,
                               const CompactionGoal& goal)
    : goal_(goal) {
  uint64_t held = 0;
  uint64_t live = 0;
  for (const CompactionCandidate& candidate : candidates) {
    held += candidate.held_bytes;
    live += candidate.live_bytes;
  }
  if (held > live / 100 * goal.begin_percent + goal.slack_bytes)
    to_gain_bytes_ = held - live / 100 * goal.end_percent;
}

void CompactionPlan::sort(std::vector<CompactionCandidate>& candidates) {
  std::ranges::sort(candidates, {}, live_part);
}

bool CompactionPlan::consider(const CompactionCandidate& candidate) {
  if (gained_bytes_ >= to_gain_bytes_ || moved_bytes_ >= goal_.budget_bytes) return false;
  if (candidate.held_bytes <= candidate.live_bytes / 100 * kDensePercent) return false;
  add(candidate, goal_.budget_bytes - moved_bytes_);
  return true;
}

bool CompactionPlan::is_worth_moving(const SegmentMarks& marks, size_t i) const {
  if (marks.live(i) == 0) return false;
  return !goal_.can_punch || marks.live(i) != marks.all_blocks(i) ||
         marks.stored_bytes(i) < kLargeRecordBytes;
}

void CompactionPlan::add(const CompactionCandidate& candidate, uint64_t budget_bytes) {
  const SegmentMarks& marks = *candidate.marks;
  Victim victim{.marks = &marks};
  uint64_t moved = 0;
  size_t i = 0;
  for (; i < marks.size() && moved < budget_bytes; ++i) {
    victim.end_sector = marks.sector(i) + 1;
    if (is_worth_moving(marks, i)) moved += marks.live_bytes(i);
  }
  if (moved == 0) return;
  victims_.emplace(candidate.id, victim);
  moved_bytes_ += moved;
  const uint64_t wasted = candidate.held_bytes - candidate.live_bytes;
  gained_bytes_ += wasted * i / marks.size();
}

bool CompactionPlan::leaves(Address address) const {
  const auto it = victims_.find(address.segment());
  if (it == victims_.end() || address.sector() >= it->second.end_sector) return false;
  const SegmentMarks& marks = *it->second.marks;
  size_t i = marks.find(address, false);
  if (i == marks.size()) i = marks.find(address, true);
  return i != marks.size() && is_worth_moving(marks, i);
}

}  // namespace squall
