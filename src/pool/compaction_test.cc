#include "pool/compaction.h"

#include <gtest/gtest.h>

#include <list>

namespace squall {
namespace {

constexpr uint16_t kChunkSectors = 33;  // four blocks that do not compress

class Compaction : public ::testing::Test {
 protected:
  // A segment of `chunks` chunks of 4 blocks, the lowest `live_blocks` of each of them live.
  void add_segment(SegmentId id, uint32_t chunks, uint64_t live_blocks) {
    SegmentFooter footer;
    footer.trailer.segment = id;
    for (uint32_t i = 0; i < chunks; ++i)
      footer.records.push_back({.sector = 8 + i * kChunkSectors,
                                .sectors = kChunkSectors,
                                .kind = RecordKind::kChunk,
                                .raw_bytes = 4 * 4096});
    footer.trailer.footer_offset = round_up((8 + chunks * kChunkSectors) * kSectorBytes, 4096);
    footer.trailer.footer_bytes = 4096;
    marks_.add_segment(footer);
    for (uint32_t i = 0; i < chunks && live_blocks > 0; ++i)
      ASSERT_TRUE(marks_.mark_blocks(chunk(id, i), 0, live_blocks));
  }
  static Address chunk(SegmentId id, uint32_t i) {
    return Address::make(id, 8 + i * kChunkSectors, kChunkSectors);
  }
  CompactionPlan plan(CompactionGoal goal) {
    std::vector<CompactionCandidate> candidates;
    for (const auto& [id, marks] : marks_.segments()) {
      uint64_t held = marks.segment_bytes();
      if (goal.can_punch)
        for (const ByteRange& range : marks.dead_ranges()) held -= range.end - range.begin;
      candidates.push_back({id, &marks, held, marks.totals().live_bytes});
    }
    CompactionPlan plan(candidates, goal);
    CompactionPlan::sort(candidates);
    for (const CompactionCandidate& candidate : candidates)
      if (!plan.consider(candidate)) break;
    return plan;
  }

  Marks marks_{[](SegmentId) { return false; }};
};

TEST_F(Compaction, NothingToDoWhileThePoolHoldsLittleMoreThanWhatIsLive) {
  add_segment(1, 100, 4);
  add_segment(2, 10, 2);
  EXPECT_TRUE(plan({.budget_bytes = kGiB}).empty());
}

TEST_F(Compaction, TheSparsestSegmentsGoFirstAndOnlyAsManyAsNeeded) {
  add_segment(1, 100, 4);
  add_segment(2, 100, 1);
  add_segment(3, 100, 3);
  add_segment(4, 100, 2);
  const CompactionPlan made =
      plan({.begin_percent = 120, .end_percent = 112, .budget_bytes = kGiB});
  EXPECT_TRUE(made.leaves(chunk(2, 0)));
  EXPECT_TRUE(made.leaves(chunk(2, 99)));
  EXPECT_TRUE(made.leaves(chunk(4, 50)));
  EXPECT_FALSE(made.leaves(chunk(1, 50)));
  EXPECT_FALSE(made.leaves(chunk(9, 0)));
  // A quarter of the one and half of the other.
  EXPECT_EQ(made.moved_bytes(), 100 * (kChunkSectors * 512u / 4 + kChunkSectors * 512u / 2));
}

TEST_F(Compaction, TheBudgetTakesAPartOfASegment) {
  add_segment(1, 100, 1);
  const uint64_t live = kChunkSectors * 512 / 4;
  const CompactionPlan made = plan({.budget_bytes = 10 * live});
  EXPECT_TRUE(made.leaves(chunk(1, 9)));
  EXPECT_FALSE(made.leaves(chunk(1, 10)));
  EXPECT_EQ(made.moved_bytes(), 10 * live);
}

TEST_F(Compaction, WhatIsDeadIsNotMovedAndWithoutPunchingWholeRecordsAre) {
  add_segment(1, 100, 0);
  add_segment(2, 50, 4);
  EXPECT_FALSE(plan({.budget_bytes = kGiB, .can_punch = false}).leaves(chunk(1, 0)));
  // One live chunk keeps a whole segment where nothing can be punched.
  add_segment(3, 100, 0);
  ASSERT_TRUE(marks_.mark_blocks(chunk(3, 70), 0, 4));
  EXPECT_TRUE(plan({.budget_bytes = kGiB, .can_punch = false}).leaves(chunk(3, 70)));
  EXPECT_FALSE(plan({.budget_bytes = kGiB, .can_punch = true}).leaves(chunk(3, 70)));
}

}  // namespace
}  // namespace squall
