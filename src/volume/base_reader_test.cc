// Extents of a tree: right whatever the number asked for, and no more looked up than that takes.
#include "volume/base_reader.h"

#include <gtest/gtest.h>

#include "base/random.h"
#include "io/run_task.h"
#include "testing/memory_record_store.h"
#include "testing/post_reactor.h"
#include "volume/chunk_packer.h"
#include "volume/extents.h"

namespace squall {
namespace {

class BaseStatusTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kBlocks = 16 * kLeafBlocks + 100;

  BaseStatusTest() : reactor_(), records_(reactor_, {.seed = 1, .cached_chance = 0}) {
    Random random(7);
    ChunkPacker packer(records_, {});
    std::vector<std::byte> data(kBlockBytes, std::byte{7});
    for (uint64_t block = 0; block < kBlocks; ++block) {
      held_.push_back(random.below(3) > 0);
      if (held_.back()) EXPECT_TRUE(run_task(reactor_, packer.add(block, data)));
    }
    EXPECT_TRUE(run_task(reactor_, packer.finish()));
    auto root = run_task(reactor_, index_update(records_, {}, kBlocks, packer.runs(), {}));
    EXPECT_TRUE(root);
    root_ = *root;
  }

  std::vector<DiskExtent> expected(uint64_t offset, uint64_t length) const {
    std::vector<DiskExtent> extents;
    for (uint64_t at = offset; at < offset + length;) {
      const uint64_t end = std::min(offset + length, (at / kBlockBytes + 1) * kBlockBytes);
      const bool hole = !held_[at / kBlockBytes];
      append_extent(extents, end - at, hole, hole);
      at = end;
    }
    return extents;
  }
  std::vector<DiskExtent> status(uint64_t offset, uint64_t length, size_t max_extents) {
    std::vector<DiskExtent> extents;
    EXPECT_TRUE(
        run_task(reactor_, base_status(records_, root_, offset, length, max_extents, extents)));
    return extents;
  }

  PostReactor reactor_;
  MemoryRecordStore records_;
  std::vector<bool> held_;
  IndexRoot root_;
};

TEST_F(BaseStatusTest, TheFirstExtentsAreRightHoweverManyAreAskedFor) {
  Random random(3);
  for (int round = 0; round < 200; ++round) {
    const uint64_t offset = random.below(kBlocks * kBlockBytes / 512) * 512;
    const uint64_t length = 512 + random.below((kBlocks * kBlockBytes - offset) / 512) * 512;
    const size_t wanted = 1 + random.below(round % 2 == 0 ? 4 : 3000);
    auto all = expected(offset, length);
    auto got = status(offset, length, wanted);
    ASSERT_GE(got.size(), std::min(all.size(), wanted));
    limit_extents(all, wanted);
    limit_extents(got, wanted);
    ASSERT_EQ(got.size(), all.size());
    for (size_t i = 0; i < all.size(); ++i) {
      ASSERT_EQ(got[i].length, all[i].length) << "extent " << i << " of round " << round;
      ASSERT_EQ(got[i].hole, all[i].hole);
    }
  }
}

TEST_F(BaseStatusTest, OneExtentCostsOneLeaf) {
  records_.reset_counts();
  status(0, kBlocks * kBlockBytes, 1);
  const uint64_t reads_for_one = records_.counts().reads;
  EXPECT_LE(reads_for_one, 2);  // root and leaf
  records_.reset_counts();
  status(0, kBlocks * kBlockBytes, 1 << 20);
  EXPECT_GE(records_.counts().reads, 17);
}

}  // namespace
}  // namespace squall
