#include "index/block_index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "index/leaf_merge.h"
#include "io/run_task.h"
#include "testing/memory_record_store.h"
#include "testing/post_reactor.h"

namespace squall {
namespace {

using testing::ElementsAre;

constexpr uint64_t kGiBBlocks = kGiB / kBlockBytes;
constexpr uint64_t kTiBBlocks = 1024 * kGiBBlocks;

Address chunk(uint64_t n) {
  return Address::make(1000, n, 10);
}
BlockRun hole(uint64_t block, uint64_t count) {
  return {block, count, Address(), 0};
}

struct PageCounter : IndexVisitor {
  bool page(Address address, unsigned level, uint64_t first_block) override {
    pages.insert(address);
    levels.push_back(level);
    return level > stop_at_level || stop_at_level == 0;
  }
  void run(const BlockRun& run) override { runs.push_back(run); }
  std::set<Address> pages;
  std::vector<unsigned> levels;
  std::vector<BlockRun> runs;
  unsigned stop_at_level = 0;
};

class BlockIndexTest : public testing::Test {
 protected:
  Result<IndexRoot> try_update(IndexRoot root, uint64_t size, const std::vector<BlockRun>& runs) {
    return run_task(reactor_, index_update(store_, root, size, runs, placement_));
  }
  IndexRoot update(IndexRoot root, uint64_t size, const std::vector<BlockRun>& runs) {
    store_.reset_counts();
    auto result = try_update(root, size, runs);
    EXPECT_TRUE(result) << result.error().message();
    EXPECT_TRUE(run_task(reactor_, store_.sync(store_.mark())));
    return result.value_or(IndexRoot());
  }
  Result<std::vector<BlockRun>> try_look_up(IndexRoot root, uint64_t block, uint64_t count) {
    std::vector<BlockRun> runs;
    auto result = run_task(reactor_, index_lookup(store_, root, block, count, runs));
    if (!result) return std::unexpected(result.error());
    return runs;
  }
  std::vector<BlockRun> look_up(IndexRoot root, uint64_t block, uint64_t count) {
    store_.reset_counts();
    return *try_look_up(root, block, count);
  }
  PageCounter walk(IndexRoot root) {
    PageCounter counter;
    EXPECT_TRUE(run_task(reactor_, index_walk(store_, root, counter)));
    return counter;
  }
  uint64_t pages_read() const { return store_.counts().reads + store_.counts().cached_reads; }

  PostReactor reactor_;
  MemoryRecordStore store_{reactor_, {}};
  Placement placement_;
};

TEST_F(BlockIndexTest, AnEmptyTreeIsAHole) {
  EXPECT_THAT(look_up({}, 5, 1000), ElementsAre(hole(5, 1000)));
  EXPECT_THAT(look_up({}, 5, 0), ElementsAre());
  EXPECT_EQ(update({}, kTiBBlocks, {}), IndexRoot());
  EXPECT_EQ(update({}, kTiBBlocks, {hole(0, kTiBBlocks)}), IndexRoot());
  EXPECT_EQ(update({}, 0, {}), IndexRoot());
  EXPECT_EQ(store_.record_count(), 0u);
}

TEST_F(BlockIndexTest, LookupGivesDataAndHolesWithoutGaps) {
  const IndexRoot root = update({}, 2000, {{10, 16, chunk(1), 0}, {600, 2, chunk(2), 5}});
  EXPECT_EQ(root.height, 2);
  EXPECT_EQ(store_.counts().appends, 3u);
  EXPECT_THAT(look_up(root, 0, 2000),
              ElementsAre(hole(0, 10), BlockRun{10, 16, chunk(1), 0}, hole(26, 574),
                          BlockRun{600, 2, chunk(2), 5}, hole(602, 1398)));
  EXPECT_THAT(look_up(root, 12, 3), ElementsAre(BlockRun{12, 3, chunk(1), 2}));
  EXPECT_THAT(look_up(root, 601, 1), ElementsAre(BlockRun{601, 1, chunk(2), 6}));
  EXPECT_THAT(look_up(root, 5 * kTiBBlocks, 9), ElementsAre(hole(5 * kTiBBlocks, 9)));
}

TEST_F(BlockIndexTest, LookupLeavesEarlierRunsAlone) {
  const IndexRoot root = update({}, 512, {{0, 1, chunk(1), 0}});
  std::vector<BlockRun> runs{hole(0, 1)};
  ASSERT_TRUE(run_task(reactor_, index_lookup(store_, root, 1, 1, runs)));
  EXPECT_THAT(runs, ElementsAre(hole(0, 1), hole(1, 1)));
}

TEST_F(BlockIndexTest, RunsThatContinueAChunkBecomeOne) {
  IndexRoot root = update({}, 512, {{0, 4, chunk(1), 0}, {4, 4, chunk(1), 4}});
  EXPECT_THAT(walk(root).runs, ElementsAre(BlockRun{0, 8, chunk(1), 0}));
  root = update(root, 512, {{8, 8, chunk(1), 8}});
  EXPECT_THAT(walk(root).runs, ElementsAre(BlockRun{0, 16, chunk(1), 0}));
  root = update(root, 512, {{4, 4, chunk(2), 0}});
  root = update(root, 512, {{4, 4, chunk(1), 4}});
  EXPECT_THAT(walk(root).runs, ElementsAre(BlockRun{0, 16, chunk(1), 0}));
}

TEST_F(BlockIndexTest, AnUpdateTouchesOnlyItsPath) {
  std::vector<BlockRun> all;
  all.reserve(64);
  for (uint64_t leaf = 0; leaf < 64; ++leaf)
    all.push_back({leaf * kGiBBlocks / 4, 8, chunk(leaf + 1), 0});
  const IndexRoot before = update({}, 512 * kGiBBlocks, all);
  EXPECT_EQ(before.height, 3);
  const auto old_pages = walk(before).pages;

  const IndexRoot after = update(before, 512 * kGiBBlocks, {{3, 1, chunk(100), 0}});
  EXPECT_EQ(store_.counts().appends, 3u);
  EXPECT_EQ(pages_read(), 3u);
  const auto new_pages = walk(after).pages;
  std::vector<Address> shared;
  std::ranges::set_intersection(old_pages, new_pages, std::back_inserter(shared));
  EXPECT_EQ(shared.size(), old_pages.size() - 3);
  EXPECT_THAT(look_up(before, 3, 1), ElementsAre(BlockRun{3, 1, chunk(1), 3}));
  EXPECT_THAT(look_up(after, 3, 1), ElementsAre(BlockRun{3, 1, chunk(100), 0}));
}

TEST_F(BlockIndexTest, AnUpdateThatChangesNothingWritesNothing) {
  const std::vector<BlockRun> data{{10, 16, chunk(1), 0}, {kTiBBlocks - 1, 1, chunk(2), 5}};
  const IndexRoot root = update({}, kTiBBlocks, data);
  EXPECT_EQ(update(root, kTiBBlocks, data), root);
  EXPECT_EQ(update(root, kTiBBlocks, {hole(5, 3), hole(kGiBBlocks, 7 * kGiBBlocks)}), root);
  EXPECT_EQ(store_.counts().appends, 0u);
}

TEST_F(BlockIndexTest, AWhollyRewrittenLeafIsNotRead) {
  std::vector<BlockRun> leaf;
  for (uint64_t block = 0; block < kLeafBlocks; block += kChunkBlocksMax)
    leaf.push_back({block, kChunkBlocksMax, chunk(1 + block), 0});
  IndexRoot root = update({}, kGiBBlocks, leaf);
  for (auto& run : leaf) run.chunk = chunk(3000 + run.block);
  root = update(root, kGiBBlocks, leaf);
  EXPECT_EQ(pages_read(), 1u);
  EXPECT_EQ(store_.counts().appends, 2u);
  EXPECT_EQ(look_up(root, 0, kLeafBlocks), leaf);
}

TEST_F(BlockIndexTest, AHugeHoleDropsSubtreesUnread) {
  std::vector<BlockRun> all;
  all.reserve(2048);
  for (uint64_t i = 0; i < 2048; ++i) all.push_back({i * kGiBBlocks + i, 1, chunk(i + 1), 0});
  IndexRoot root = update({}, 2 * kTiBBlocks, all);
  EXPECT_EQ(walk(root).runs.size(), 2048u);

  root = update(root, 2 * kTiBBlocks, {hole(1, kTiBBlocks)});
  EXPECT_LE(pages_read(), 7u);  // the top, and the path to each of the hole's ends
  EXPECT_LE(store_.counts().appends, 4u);
  EXPECT_EQ(walk(root).runs.size(), 1025u);
  EXPECT_THAT(look_up(root, 0, 2), ElementsAre(BlockRun{0, 1, chunk(1), 0}, hole(1, 1)));

  EXPECT_EQ(update(root, 2 * kTiBBlocks, {hole(0, 2 * kTiBBlocks)}), IndexRoot());
  EXPECT_EQ(pages_read(), 0u);
}

TEST_F(BlockIndexTest, GrowingAddsLevelsOnTop) {
  const IndexRoot small = update({}, 100, {{7, 2, chunk(1), 0}});
  EXPECT_EQ(small.height, 1);
  const IndexRoot big = update(small, 8 * kTiBBlocks, {});
  EXPECT_EQ(big.height, 4);
  EXPECT_EQ(store_.counts().appends, 3u);
  EXPECT_EQ(pages_read(), 0u);
  EXPECT_TRUE(walk(big).pages.contains(small.address));
  EXPECT_THAT(look_up(big, 6, 4), ElementsAre(hole(6, 1), BlockRun{7, 2, chunk(1), 0}, hole(9, 1)));

  const IndexRoot grown_and_written =
      update(small, 8 * kTiBBlocks, {{9, 1, chunk(2), 0}, {8 * kTiBBlocks - 1, 1, chunk(3), 0}});
  EXPECT_EQ(store_.counts().appends, 7u);  // a shared top, two paths of three
  EXPECT_EQ(walk(grown_and_written).runs.size(), 3u);

  const IndexRoot grown_and_cleared = update(small, 8 * kTiBBlocks, {hole(0, 512)});
  EXPECT_EQ(grown_and_cleared, IndexRoot());
}

TEST_F(BlockIndexTest, ShrinkingCutsToTheBlock) {
  const IndexRoot big =
      update({}, 8 * kTiBBlocks,
             {{0, 16, chunk(1), 0}, {kLeafBlocks, 1, chunk(2), 0}, {kTiBBlocks, 1, chunk(3), 0}});
  IndexRoot root = update(big, 5, {});
  EXPECT_EQ(root.height, 1);
  EXPECT_EQ(store_.counts().appends, 1u);
  EXPECT_THAT(walk(root).runs, ElementsAre(BlockRun{0, 5, chunk(1), 0}));
  root = update(root, 8 * kTiBBlocks, {});
  EXPECT_THAT(look_up(root, 0, 8 * kTiBBlocks),
              ElementsAre(BlockRun{0, 5, chunk(1), 0}, hole(5, 8 * kTiBBlocks - 5)));
  EXPECT_EQ(update(big, 0, {}), IndexRoot());
  EXPECT_EQ(update(big, 512, {}).height, 1);
  EXPECT_EQ(walk(update(big, 513, {})).runs.size(), 2u);
}

TEST_F(BlockIndexTest, UpdatesBeyondTheSizeAreCutOff) {
  const IndexRoot root = update({}, 10, {{8, 4, chunk(1), 0}, {100, 4, chunk(2), 0}});
  EXPECT_THAT(walk(root).runs, ElementsAre(BlockRun{8, 2, chunk(1), 0}));
}

TEST_F(BlockIndexTest, RefusesATreeTooBigAndAnImpossibleRoot) {
  EXPECT_EQ(try_update({}, page_span_blocks(kPageLevelMax) + 1, {}).error().kind(),
            ErrorKind::kInvalid);
  for (const IndexRoot root :
       {IndexRoot{chunk(1), 0}, IndexRoot{Address(), 1}, IndexRoot{chunk(1), kPageLevelMax + 2}}) {
    PageCounter counter;
    EXPECT_EQ(try_update(root, 10, {}).error().kind(), ErrorKind::kCorrupt);
    EXPECT_EQ(try_look_up(root, 0, 1).error().kind(), ErrorKind::kCorrupt);
    EXPECT_FALSE(run_task(reactor_, index_walk(store_, root, counter)));
  }
}

TEST_F(BlockIndexTest, TheLargestTreeWorks) {
  const uint64_t size = page_span_blocks(kPageLevelMax);
  const IndexRoot root = update({}, size, {{size - 1, 1, chunk(1), 0}});
  EXPECT_EQ(root.height, kPageLevelMax + 1);
  EXPECT_THAT(look_up(root, 0, size),
              ElementsAre(hole(0, size - 1), BlockRun{size - 1, 1, chunk(1), 0}));
}

TEST_F(BlockIndexTest, WalkSkipsWhatTheVisitorKnows) {
  const IndexRoot root =
      update({}, kTiBBlocks, {{0, 1, chunk(1), 0}, {kGiBBlocks, 1, chunk(2), 0}});
  PageCounter counter;
  counter.stop_at_level = 2;
  ASSERT_TRUE(run_task(reactor_, index_walk(store_, root, counter)));
  EXPECT_THAT(counter.levels, ElementsAre(3, 2));
  EXPECT_TRUE(counter.runs.empty());
  EXPECT_THAT(walk(root).levels, ElementsAre(3, 2, 1, 0, 1, 0));
}

TEST_F(BlockIndexTest, WalkReportsEveryFailedRead) {
  std::vector<BlockRun> data;
  data.reserve(50);
  for (uint64_t i = 0; i < 50; ++i) data.push_back({i * kLeafBlocks, 1, chunk(i + 1), 0});
  const IndexRoot root = update({}, kGiBBlocks, data);
  EXPECT_EQ(walk(root).runs, data);
  for (uint64_t n = 1; n <= 60; ++n) {
    PageCounter counter;
    store_.clear_failure();
    store_.fail_call(n);
    const auto result = run_task(reactor_, index_walk(store_, root, counter));
    EXPECT_EQ(result.has_value(), !store_.has_failed());
    if (result) {
      EXPECT_EQ(counter.runs, data);
    }
  }
}

TEST_F(BlockIndexTest, APageFromElsewhereIsCorruptionNotData) {
  const IndexRoot root = update({}, 2000, {{0, 1, chunk(1), 0}, {kLeafBlocks, 1, chunk(2), 0}});
  const PageView top = *PageView::open(store_.payload(root.address));
  const auto other = store_.payload(*top.child(1));
  store_.overwrite(*top.child(0), std::vector<std::byte>(other.begin(), other.end()));
  PageCounter counter;
  EXPECT_EQ(try_look_up(root, 0, 1).error().kind(), ErrorKind::kCorrupt);
  EXPECT_EQ(try_update(root, 2000, {{1, 1, chunk(9), 0}}).error().kind(), ErrorKind::kCorrupt);
  EXPECT_EQ(run_task(reactor_, index_walk(store_, root, counter)).error().kind(),
            ErrorKind::kCorrupt);
  EXPECT_TRUE(try_look_up(root, kLeafBlocks, 1));
}

TEST_F(BlockIndexTest, EveryFailedCallIsReportedAndHarmsNothing) {
  std::vector<BlockRun> first, second;
  for (uint64_t i = 0; i < 40; ++i) {
    first.push_back({i * 300, 2, chunk(i + 1), 0});
    second.push_back({i * 300 + 1, 2, chunk(i + 1), 4});
  }
  const IndexRoot root = update({}, kGiBBlocks, first);
  const auto before = look_up(root, 0, 15000);
  bool was_complete = false;
  for (uint64_t n = 1; !was_complete; ++n) {
    store_.fail_call(n);
    const auto result = try_update(root, kGiBBlocks, second);
    store_.fail_call(0);
    was_complete = result.has_value();
    ASSERT_EQ(was_complete, !store_.has_failed()) << n;
    store_.clear_failure();
    if (!result) {
      EXPECT_EQ(result.error().os_errno(), EIO);
    }
    ASSERT_EQ(look_up(root, 0, 15000), before);
  }
}

TEST_F(BlockIndexTest, LookupsRunWhileAnUpdateDoes) {
  std::vector<BlockRun> first, second;
  for (uint64_t i = 0; i < 100; ++i) {
    first.push_back({i * kLeafBlocks, 2, chunk(i + 1), 0});
    second.push_back({i * kLeafBlocks, 2, chunk(i + 201), 0});
  }
  const IndexRoot root = update({}, kGiBBlocks, first);
  const auto expected = look_up(root, 0, 100 * kLeafBlocks);
  std::vector<std::vector<BlockRun>> answers(30);
  size_t answered = 0;
  Result<IndexRoot> updated;
  spawn(index_update(store_, root, kGiBBlocks, second, placement_),
        [&](Result<IndexRoot> result) { updated = result; });
  for (auto& answer : answers)
    spawn(index_lookup(store_, root, 0, 100 * kLeafBlocks, answer),
          [&](Result<void> result) { answered += result.has_value(); });
  reactor_.run();
  EXPECT_EQ(answered, answers.size());
  for (const auto& answer : answers) EXPECT_EQ(answer, expected);
  EXPECT_THAT(look_up(*updated, 0, 2), ElementsAre(BlockRun{0, 2, chunk(201), 0}));
}

TEST(MergeLeaf, CutsOldExtentsAroundUpdates) {
  const std::vector<PageExtent> old{{0, 16, 0, chunk(1)}, {100, 16, 0, chunk(2)}};
  const std::vector<BlockRun> updates{{5, 2, chunk(3), 1}, hole(8, 94), {115, 3, chunk(4), 0}};
  EXPECT_THAT(internal::merge_leaf(old, 0, updates),
              ElementsAre(PageExtent{0, 5, 0, chunk(1)}, PageExtent{5, 2, 1, chunk(3)},
                          PageExtent{7, 1, 7, chunk(1)}, PageExtent{102, 13, 2, chunk(2)},
                          PageExtent{115, 3, 0, chunk(4)}));
}

}  // namespace
}  // namespace squall
