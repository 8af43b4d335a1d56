// Random updates of volumes that share pages, against a plain map. SQUALL_SEEDS sets the number of
// seeds; a failure names its seed, and SQUALL_SEED=N replays that one alone.
#include <gtest/gtest.h>

#include <cstdlib>
#include <set>
#include <utility>

#include "index/block_index.h"
#include "index/index_model.h"
#include "io/run_task.h"
#include "testing/memory_record_store.h"
#include "testing/post_reactor.h"

namespace squall {
namespace {

using internal::IndexModel;

uint64_t from_environment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

// Checks a tree's structure while walking it.
struct StructureCheck : IndexVisitor {
  explicit StructureCheck(const IndexModel& model) : model(model) {}
  bool page(Address address, unsigned level, uint64_t first_block) override {
    EXPECT_TRUE(pages.insert(address).second) << "a page is referenced twice";
    EXPECT_EQ(first_block % page_span_blocks(level), 0u);
    EXPECT_FALSE(model.is_hole(first_block, first_block + page_span_blocks(level)))
        << "a page without data";
    return true;
  }
  void run(const BlockRun& run) override {
    EXPECT_GE(run.block, last.block + last.count);
    EXPECT_LE(run.block + run.count, model.size_blocks());
    const bool continues = run.block % kLeafBlocks != 0 && run.chunk == last.chunk &&
                           run.block == last.block + last.count &&
                           run.chunk_block == last.chunk_block + last.count;
    EXPECT_FALSE(continues) << "two extents that should be one, at block " << run.block;
    blocks += run.count;
    last = run;
  }
  const IndexModel& model;
  std::set<Address> pages;
  BlockRun last;
  uint64_t blocks = 0;
};

struct Volume {
  IndexRoot root;
  IndexModel model;
  std::set<Address> pages;
};

class Campaign {
 public:
  explicit Campaign(uint64_t seed)
      : random_(seed),
        store_(reactor_, {.seed = seed ^ 0x5eed}),
        volumes_{{{}, IndexModel(pick_size()), {}}} {}

  void run(int steps) {
    for (int i = 0; i < steps && !testing::Test::HasFailure(); ++i) {
      if (volumes_.size() < 6 && random_.chance(0.05)) volumes_.push_back(pick());
      Volume& volume = pick();
      update(volume);
      look_up(volume);
      look_up(pick());
    }
    for (Volume& volume : volumes_) compare(volume, 0, volume.model.size_blocks());
  }

 private:
  Volume& pick() { return volumes_[random_.below(volumes_.size())]; }

  uint64_t pick_size() {
    constexpr uint64_t kGiBBlocks = kGiB / kBlockBytes;
    switch (random_.below(5)) {
      case 0:
        return random_.between(1, 600);
      case 1:
        return random_.between(1, 20) * kLeafBlocks;
      case 2:
        return random_.between(1, kGiBBlocks);
      case 3:
        return random_.between(1, 600 * kGiBBlocks);
      default:
        return random_.between(1, 8192 * kGiBBlocks);
    }
  }

  void update(Volume& volume) {
    uint64_t size = volume.model.size_blocks();
    if (random_.chance(0.05)) size = pick_size();
    if (random_.chance(0.05)) size = random_.between(1, size);
    const auto updates = internal::random_updates(random_, size);
    store_.reset_counts();
    auto root = run_task(reactor_, index_update(store_, volume.root, size, updates, placement_));
    ASSERT_TRUE(root) << root.error().message();
    volume.model.apply(size, updates);
    volume.root = *root;
    check_structure(volume);
  }

  // Also: exactly the pages that the new tree has and the old one had not were written, and no page
  // was read twice.
  void check_structure(Volume& volume) {
    const uint64_t appends = store_.counts().appends;
    const uint64_t pages_read = store_.counts().reads + store_.counts().cached_reads;
    EXPECT_LE(pages_read, volume.pages.size());
    StructureCheck check(volume.model);
    ASSERT_TRUE(run_task(reactor_, index_walk(store_, volume.root, check)));
    EXPECT_EQ(check.blocks, volume.model.data_blocks());
    uint64_t new_pages = 0;
    for (Address page : check.pages) new_pages += !volume.pages.contains(page);
    EXPECT_EQ(appends, new_pages);
    EXPECT_EQ(volume.root.height == 0, check.pages.empty());
    if (volume.root.height > 0) {
      const unsigned height = volume.root.height;
      EXPECT_GE(page_span_blocks(height - 1), volume.model.size_blocks());
      if (height > 1) EXPECT_LT(page_span_blocks(height - 2), volume.model.size_blocks());
    }
    volume.pages = std::move(check.pages);
  }

  void look_up(Volume& volume) {
    const uint64_t size = volume.model.size_blocks();
    const uint64_t block = random_.below(size);
    const uint64_t most = random_.chance(0.1) ? size : 2 * kLeafBlocks;
    compare(volume, block, random_.between(1, most));
  }

  void compare(Volume& volume, uint64_t block, uint64_t count) {
    std::vector<BlockRun> runs;
    ASSERT_TRUE(run_task(reactor_, index_lookup(store_, volume.root, block, count, runs)));
    EXPECT_EQ(runs, volume.model.look_up(block, count));
  }

  Random random_;
  PostReactor reactor_;
  MemoryRecordStore store_;
  Placement placement_;
  std::vector<Volume> volumes_;
};

TEST(BlockIndexProperty, AgreesWithAMapOverRandomUpdatesClonesAndSizes) {
  const char* only = std::getenv("SQUALL_SEED");
  const uint64_t first = only == nullptr ? 1 : std::strtoull(only, nullptr, 10);
  const uint64_t seeds = only == nullptr ? from_environment("SQUALL_SEEDS", 100) : 1;
  for (uint64_t seed = first; seed < first + seeds && !HasFailure(); ++seed) {
    SCOPED_TRACE(testing::Message() << "SQUALL_SEED=" << seed);
    Campaign(seed).run(150);
  }
}

}  // namespace
}  // namespace squall
