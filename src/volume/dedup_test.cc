// Deduplication of a whole host on a simulated disk: what is shared, what must not be, and that the
// content always reads back.
#include <gtest/gtest.h>

#include <algorithm>

#include "base/random.h"
#include "testing/sim_host.h"

namespace squall {
namespace {

using Content = std::vector<std::byte>;
using testing::SimHost;
using testing::SimHostOptions;

class DedupTest : public ::testing::Test {
 protected:
  DedupTest() { start(); }

  void start() {
    auto host = SimHost::start(random_(), disk_, options_);
    ASSERT_TRUE(host) << host.error().message();
    host_ = std::move(*host);
  }
  void restart(bool crash) {
    if (crash) disk_.kill_process();
    host_.reset();
    if (crash) disk_.restart();
    start();
    wait_indexed();
  }
  void wait_indexed() {
    run(host_->pool().wait_recovered());
    for (int i = 0; i < 1000 && !dedup().index_complete; ++i) run(sleep_task(host_->reactor()));
    ASSERT_TRUE(dedup().index_complete);
  }
  static Task<void> sleep_task(Reactor& reactor) { co_await sleep_ns(reactor, 10'000'000); }

  template <class T>
  T run(Task<T> task) {
    return host_->run(std::move(task));
  }
  DedupStats dedup() { return host_->pool().deduplicator()->stats(); }
  uint64_t stored_bytes() {
    uint64_t bytes = 0;
    for (const StoreStats& store : run(host_->pool().stats())->stores) bytes += store.stored_bytes;
    return bytes;
  }

  Content random_content(uint64_t blocks) {
    Content content(blocks * kBlockBytes);
    for (uint64_t i = 0; i < content.size(); i += sizeof(uint64_t))
      store_le(content.data() + i, random_());
    return content;
  }
  static void put(Content& to, uint64_t block, const Content& from, uint64_t first,
                  uint64_t count) {
    std::copy_n(from.begin() + static_cast<ptrdiff_t>(first * kBlockBytes), count * kBlockBytes,
                to.begin() + static_cast<ptrdiff_t>(block * kBlockBytes));
  }

  void import(const std::string& name, const Content& content, bool deduplicate = true) {
    const auto session = run(host_->volumes().begin_import(
        {.name = name, .size_bytes = content.size(), .deduplicate = deduplicate}));
    ASSERT_TRUE(session);
    const auto disk = run(host_->volumes().open_disk(session->disk));
    ASSERT_TRUE(disk);
    constexpr uint64_t kStep = 512 * kKiB;
    for (uint64_t at = 0; at < content.size(); at += kStep)
      ASSERT_TRUE(run(disk->writer->write(
          at, ConstBytes(content).subspan(at, std::min(kStep, content.size() - at)), false)));
    const auto image = run(host_->volumes().finish_import(session->id));
    ASSERT_TRUE(image) << image.error().message();
    ASSERT_EQ(image->deduplicate, deduplicate);
  }
  void create(const std::string& name, const std::string& from, bool deduplicate = true) {
    ASSERT_TRUE(run(
        host_->volumes().create_volumes({.name = name, .from = from, .deduplicate = deduplicate})));
  }
  void write_and_commit(const std::string& name, uint64_t block, const Content& content) {
    const auto disk = run(host_->volumes().open_disk(name));
    ASSERT_TRUE(disk);
    ASSERT_TRUE(run(disk->writer->write(block * kBlockBytes, content, false)));
    ASSERT_TRUE(run(host_->volumes().commit_volume(name)));
  }
  void expect_reads(const std::string& name, const Content& content, uint64_t block = 0) {
    const auto disk = run(host_->volumes().open_disk(name));
    ASSERT_TRUE(disk);
    Content got(content.size());
    const auto read = run(disk->disk->read(block * kBlockBytes, got));
    ASSERT_TRUE(read) << read.error().message();
    ASSERT_TRUE(got == content) << name;
  }

  Random random_{1};
  SimHostOptions options_;
  sim::SimDisk disk_{1};
  std::unique_ptr<SimHost> host_;
};

TEST_F(DedupTest, AnImageLikeAnotherTakesLittle) {
  const Content first = random_content(600);
  import("first", first);
  const uint64_t bytes = stored_bytes();
  // Shifted by three blocks, with holes and changes.
  Content second(700 * kBlockBytes);
  put(second, 3, first, 0, 300);
  put(second, 350, first, 300, 300);
  put(second, 100, random_content(1), 0, 1);
  import("second", second);
  expect_reads("first", first);
  expect_reads("second", second);
  EXPECT_GE(dedup().blocks_shared, 580);
  EXPECT_LT(stored_bytes() - bytes, 30 * kBlockBytes);
  import("apart", second, false);
  expect_reads("apart", second);
  EXPECT_GT(stored_bytes() - bytes, 500 * kBlockBytes);
}

TEST_F(DedupTest, DuplicatesWithinOneImport) {
  const Content part = random_content(64);
  Content content(512 * kBlockBytes);
  for (uint64_t at = 0; at < 448; at += 65) put(content, at, part, 0, 64);
  import("image", content);
  expect_reads("image", content);
  EXPECT_LT(stored_bytes(), 90 * kBlockBytes);
}

TEST_F(DedupTest, VolumesThatWriteTheSame) {
  import("image", random_content(16));
  const Content package = random_content(200);
  create("a", "image");
  run(host_->volumes().resize_volume("a", 4 * kMiB));
  write_and_commit("a", 20, package);
  const uint64_t bytes = stored_bytes();
  for (const char* name : {"b", "c", "d"}) {
    create(name, "image");
    run(host_->volumes().resize_volume(name, 4 * kMiB));
    const uint64_t block = 17 + random_.below(500);
    write_and_commit(name, block, package);
    expect_reads(name, package, block);
  }
  EXPECT_LT(stored_bytes() - bytes, 40 * kKiB) << "of index pages";
  EXPECT_GE(dedup().blocks_shared, 590);
  expect_reads("a", package, 20);
}

TEST_F(DedupTest, ChoiceIsInherited) {
  import("image", random_content(16), false);
  create("clone", "image");
  ASSERT_FALSE(run(host_->volumes().show_volume("clone"))->deduplicate);
  ASSERT_TRUE(run(host_->volumes().create_snapshot("clone", "s")));
  create("grandchild", "clone@s");
  EXPECT_FALSE(run(host_->volumes().show_volume("grandchild"))->deduplicate);
  EXPECT_FALSE(run(host_->volumes().create_image("other", "clone"))->deduplicate);
  import("shared", random_content(16));
  create("apart", "shared", false);
  create("together", "shared");
  EXPECT_FALSE(run(host_->volumes().show_volume("apart"))->deduplicate);
  EXPECT_TRUE(run(host_->volumes().show_volume("together"))->deduplicate);
  restart(false);
  EXPECT_FALSE(run(host_->volumes().show_volume("apart"))->deduplicate);
  EXPECT_EQ(dedup().blocks_seen, 0);
  write_and_commit("apart", 0, random_content(16));
  EXPECT_EQ(dedup().blocks_seen, 0);
}

TEST_F(DedupTest, TheIndexComesBackAfterAStopAndAfterACrash) {
  const Content content = random_content(300);
  import("first", content);
  for (const bool crash : {false, true}) {
    restart(crash);
    const uint64_t bytes = stored_bytes();
    import(crash ? "third" : "second", content);
    EXPECT_EQ(dedup().blocks_shared, 300);
    EXPECT_LT(stored_bytes() - bytes, 40 * kKiB);
    expect_reads(crash ? "third" : "second", content);
  }
}

// A record that rots is stored again by the next who writes the same, and read from there.
TEST_F(DedupTest, RottenRecordsAreNotReferredTo) {
  const Content content = random_content(160);
  import("first", content);
  restart(false);
  const auto segments = run(host_->engine().segments->list());
  ASSERT_TRUE(segments);
  for (const SegmentInfo& segment : *segments)
    for (uint64_t offset = 40'000; offset < 400'000; offset += 100'000)
      ASSERT_TRUE(disk_.flip_bits(fmt::format("/pool/segments/{:016x}.seg", segment.id), offset));
  import("second", content);
  expect_reads("second", content);
  EXPECT_GE(dedup().runs_unreadable, 3);
  EXPECT_GE(dedup().blocks_shared, 64);
  EXPECT_EQ(run(host_->pool().stats())->corrupt_reads, 0) << "nobody was served";
}

TEST_F(DedupTest, ASegmentRemovedUnderIt) {
  const Content content = random_content(160);
  import("first", content);
  restart(false);
  const uint64_t bytes = stored_bytes();
  ASSERT_GT(bytes, 160 * kBlockBytes);
  ASSERT_TRUE(run(host_->volumes().remove_image("first")));
  for (const SegmentInfo& segment : *run(host_->engine().segments->list()))
    ASSERT_TRUE(run(host_->engine().segments->remove(segment.id)));
  import("second", content);
  expect_reads("second", content);
  EXPECT_EQ(dedup().blocks_shared, 0);
}

// Imports and commits of content that is put together from runs of what was there before, with
// stops and crashes between them; everything always reads as it was written.
TEST_F(DedupTest, RandomContentWithDuplicatedRuns) {
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    SCOPED_TRACE(seed);
    random_ = Random(seed);
    std::map<std::string, Content> all;
    Content pool = random_content(400);
    uint64_t shared = 0;
    for (int round = 0; round < 8; ++round) {
      Content content(random_.between(10, 500) * kBlockBytes);
      const uint64_t blocks = content.size() / kBlockBytes;
      for (uint64_t at = 0; at < blocks;) {
        const uint64_t count = std::min(random_.between(1, 90), blocks - at);
        const uint64_t dice = random_.below(10);
        if (dice < 6)
          put(content, at, pool, random_.below(400 - count + 1), count);
        else if (dice < 8)
          put(content, at, random_content(count), 0, count);
        at += count;
      }
      const std::string name = fmt::format("s{}-{}", seed, round);
      if (random_.chance(0.5)) {
        import(name, content, random_.chance(0.9));
      } else {
        ASSERT_TRUE(run(host_->volumes().create_volumes(
            {.name = name, .size_bytes = content.size(), .deduplicate = random_.chance(0.9)})));
        write_and_commit(name, 0, content);
      }
      if (HasFatalFailure()) return;
      all[name] = std::move(content);
      shared = dedup().blocks_shared;
      if (random_.chance(0.3)) restart(random_.chance(0.5));
      for (const auto& [known, expected] : all) expect_reads(known, expected);
      if (HasFatalFailure()) return;
    }
    EXPECT_GT(shared, 0);
  }
}

}  // namespace
}  // namespace squall
