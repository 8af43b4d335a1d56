// Relocation of random trees that share pages, against a plain map.
#include "index/index_relocate.h"

#include <gtest/gtest.h>

#include <set>

#include "base/random.h"
#include "io/run_task.h"
#include "testing/memory_record_store.h"
#include "testing/post_reactor.h"

namespace squall {
namespace {

// What each block holds: a number that its bytes repeat; 0 is a hole.
using Content = std::vector<uint64_t>;

class Relocation : public ::testing::Test {
 protected:
  struct Tree {
    IndexRoot root;
    Content content;
  };
  template <class T>
  T run(Task<T> task) {
    return run_task(reactor_, std::move(task));
  }

  // New content for some blocks, in chunks of up to 16 blocks.
  void write(Tree& tree, Random& random) {
    std::vector<BlockRun> updates;
    for (uint64_t block = random.below(200); block < tree.content.size();
         block += random.between(1, 300)) {
      const uint64_t room = std::min<uint64_t>(
          {kChunkBlocksMax, kLeafBlocks - block % kLeafBlocks, tree.content.size() - block});
      const uint64_t count = random.between(1, room);
      std::vector<std::byte> payload(count * kBlockBytes);
      for (uint64_t i = 0; i < count; ++i) {
        tree.content[block + i] = ++last_number_;
        for (size_t at = 0; at < kBlockBytes; at += 8)
          store_le(payload.data() + i * kBlockBytes + at, last_number_);
      }
      const auto chunk = run(store_.append(RecordKind::kChunk, payload, {}));
      ASSERT_TRUE(chunk);
      updates.push_back({block, count, *chunk, 0});
      block += count;
    }
    const auto root =
        run(index_update(store_, tree.root, tree.content.size(), updates, Placement{}));
    ASSERT_TRUE(root) << root.error().message();
    tree.root = *root;
  }
  void expect(const Tree& tree) {
    std::vector<BlockRun> runs;
    ASSERT_TRUE(run(index_lookup(store_, tree.root, 0, tree.content.size(), runs)));
    for (const BlockRun& found : runs) {
      for (uint64_t i = 0; i < found.count; ++i) {
        uint64_t number = 0;
        if (!found.chunk.is_hole())
          number = load_le<uint64_t>(store_.payload(found.chunk).data() +
                                     (found.chunk_block + i) * kBlockBytes);
        ASSERT_EQ(number, tree.content[found.block + i]) << "block " << found.block + i;
      }
    }
  }

  PostReactor reactor_;
  MemoryRecordStore store_{reactor_, {.seed = 3}};
  uint64_t last_number_ = 0;
};

struct Reach : IndexVisitor {
  bool page(Address address, unsigned, uint64_t) override { return records.insert(address).second; }
  void run(const BlockRun& run) override { records.insert(run.chunk); }
  std::set<Address> records;
};

TEST_F(Relocation, TreesReadTheSameAndReachNothingThatIsLeft) {
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Random random(seed);
    std::vector<Tree> trees{{{}, Content(random.between(100, 6000))}};
    write(trees[0], random);
    for (int i = 0; i < 6; ++i) {
      if (trees.size() < 4) trees.push_back(trees[random.below(trees.size())]);
      write(trees[random.below(trees.size())], random);
    }
    Reach before;
    for (const Tree& tree : trees) ASSERT_TRUE(run(index_walk(store_, tree.root, before)));
    std::set<Address> left;
    for (const Address record : before.records)
      if (random.chance(0.4)) left.insert(record);
    uint64_t rests = 0;
    IndexRelocation relocation(
        store_, [&left](Address address) { return left.contains(address); },
        [&rests](uint64_t) -> Task<Result<void>> {
          ++rests;
          return [](uint64_t) -> Task<Result<void>> { co_return Result<void>(); }(0);
        });
    Reach after;
    for (Tree& tree : trees) {
      const auto moved = run(relocation.relocate(tree.root, Placement{}));
      ASSERT_TRUE(moved) << moved.error().message();
      EXPECT_EQ(*run(relocation.relocate(tree.root, Placement{})), *moved) << "twice is once";
      tree.root = *moved;
      expect(tree);
      ASSERT_TRUE(run(index_walk(store_, tree.root, after)));
    }
    for (const Address record : left) EXPECT_FALSE(after.records.contains(record));
    EXPECT_LE(after.records.size(), before.records.size()) << "what was shared is shared";
    EXPECT_GT(rests, 0u);
  }
}

TEST_F(Relocation, ATreeThatNothingIsLeftOfKeepsItsRoot) {
  Random random(1);
  Tree tree{{}, Content(3000)};
  write(tree, random);
  const uint64_t records = store_.record_count();
  IndexRelocation relocation(
      store_, [](Address) { return false; },
      [](uint64_t) -> Task<Result<void>> { co_return Result<void>(); });
  EXPECT_EQ(*run(relocation.relocate(tree.root, Placement{})), tree.root);
  EXPECT_EQ(*run(relocation.relocate(IndexRoot{}, Placement{})), IndexRoot{});
  EXPECT_EQ(store_.record_count(), records);
}

}  // namespace
}  // namespace squall
