// CompactionPlan: what to copy out of sparse segments so that a pool holds little more than what is
// live. Pure; made from the marks of a collection, which outlive it.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "pool/marks.h"

namespace squall {

struct CompactionGoal {
  // Begin when the segments hold more than this part of what is live, end below the other. Percent.
  uint64_t begin_percent = 120;
  uint64_t end_percent = 112;
  uint64_t slack_bytes = 0;   // begin only for so much more
  uint64_t budget_bytes = 0;  // to be copied at most, about
  bool can_punch = true;      // otherwise only whole segments are given back
};

// A swept segment as the plan sees it.
struct CompactionCandidate {
  SegmentId id = 0;
  const SegmentMarks* marks = nullptr;
  uint64_t held_bytes = 0;
  uint64_t live_bytes = 0;
};

class CompactionPlan {
 public:
  // Takes no segment yet: consider() does, while the goal is not reached, one at a time.
  CompactionPlan(const std::vector<CompactionCandidate>& candidates, const CompactionGoal& goal);

  // The order in which candidates are to be considered: those of which the smallest part is live
  // first.
  static void sort(std::vector<CompactionCandidate>& candidates);
  // False when neither this candidate nor any after it is needed. Of the last one only a part is
  // taken if the budget does not allow for all of it.
  bool consider(const CompactionCandidate& candidate);

  bool empty() const { return victims_.empty(); }
  size_t segments() const { return victims_.size(); }
  uint64_t moved_bytes() const { return moved_bytes_; }    // an estimate
  uint64_t gained_bytes() const { return gained_bytes_; }  // the same, net
  // True for a record, chunk or page, that is to be copied away.
  bool leaves(Address address) const;

 private:
  struct Victim {
    const SegmentMarks* marks = nullptr;
    uint64_t end_sector = 0;  // records that begin before it
  };
  bool is_worth_moving(const SegmentMarks& marks, size_t record) const;
  void add(const CompactionCandidate& candidate, uint64_t budget_bytes);

  CompactionGoal goal_;
  uint64_t to_gain_bytes_ = 0;
  std::map<SegmentId, Victim> victims_;
  uint64_t moved_bytes_ = 0;
  uint64_t gained_bytes_ = 0;
};

}  // namespace squall
