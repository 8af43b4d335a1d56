// Stateless volumes against a byte array; the budget, the overflow, restarts.
#include "volume/stateless_disk.h"

#include <gtest/gtest.h>

#include "base/random.h"
#include "io/run_task.h"
#include "sim/sim_reactor.h"
#include "testing/memory_record_store.h"
#include "volume/chunk_packer.h"

namespace squall {
namespace {

using Content = std::vector<std::byte>;
constexpr uint64_t kId = 9;

class Process {
 public:
  Process(sim::SimDisk& disk, ScratchConfig config)
      : reactor_(1, disk),
        records_(reactor_, {}),
        scratch_{reactor_, reactor_.files(), records_, std::move(config), 0} {
    for (const std::string& directory :
         {scratch_.config.fast_directory, scratch_.config.overflow_directory})
      if (!directory.empty()) EXPECT_TRUE(reactor_.files().make_directory_durably(directory));
  }
  ~Process() {
    if (disk_ != nullptr) run(disk_->close());
  }

  // Every block of the parent holds a byte of its own; every fifth is a hole.
  void make_base(uint64_t blocks) {
    ChunkPacker packer(records_, {});
    for (uint64_t block = 0; block < blocks; ++block) {
      const Content data(kBlockBytes, base_byte(block));
      EXPECT_TRUE(run(packer.add(block, data)));
    }
    EXPECT_TRUE(run(packer.finish()));
    auto root = run(index_update(records_, {}, blocks, packer.runs(), {}));
    EXPECT_TRUE(root);
    base_ = *root;
  }
  static std::byte base_byte(uint64_t block) {
    return block % 5 == 4 ? std::byte{0} : static_cast<std::byte>(1 + block % 200);
  }
  void open(uint64_t size_bytes) {
    auto opened = StatelessDisk::open(scratch_, kId, base_, size_bytes);
    ASSERT_TRUE(opened) << opened.error().message();
    disk_ = std::move(*opened);
  }
  void close() {
    run(disk_->close());
    disk_.reset();
  }
  void forget() {
    disk_.reset();
    StatelessDisk::forget(scratch_, kId);
  }
  template <class T>
  T run(Task<T> task) {
    return run_task(reactor_, std::move(task));
  }
  Content content() {
    Content got(disk_->size_bytes(), std::byte{0xee});
    EXPECT_TRUE(run(disk_->read(0, got)));
    return got;
  }
  StatelessDisk& disk() { return *disk_; }
  Scratch& scratch() { return scratch_; }
  FileSystem& files() { return reactor_.files(); }

 private:
  sim::SimReactor reactor_;
  MemoryRecordStore records_;
  Scratch scratch_;
  IndexRoot base_;
  std::shared_ptr<StatelessDisk> disk_;
};

ScratchConfig config(uint64_t budget, std::string boot = "boot-1") {
  return {"/tmpfs", "/overflow", budget, std::move(boot)};
}

Content base_content(uint64_t size) {
  Content content(size);
  for (uint64_t i = 0; i < size; ++i) content[i] = Process::base_byte(i / kBlockBytes);
  return content;
}

TEST(StatelessDisk, MatchesAByteArrayOverRestartsAndResizes) {
  for (uint64_t seed = 1; seed <= 25; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    sim::SimDisk disk(seed);
    const uint64_t budget = random.below(12) * kBlockBytes;
    constexpr uint64_t kBaseBlocks = 20;
    uint64_t size = kBaseBlocks * kBlockBytes;
    Content model = base_content(size);
    for (int life = 0; life < 3; ++life) {
      Process process(disk, config(budget));
      process.make_base(kBaseBlocks);
      process.open(size);
      ASSERT_EQ(process.content(), model);
      for (int i = 0; i < 60; ++i) {
        uint64_t offset = random.below(size);
        uint64_t length = random.chance(0.3) ? random.between(1, 30'000) : random.between(1, 5000);
        if (random.chance(0.4)) offset = round_down(offset, kBlockBytes);
        if (random.chance(0.4)) length = round_up(length, kBlockBytes);
        length = std::min(length, size - offset);
        const auto at = model.begin() + static_cast<ptrdiff_t>(offset);
        const uint64_t dice = random.below(100);
        if (dice < 60) {
          const Content data(length, static_cast<std::byte>(random.below(256)));
          ASSERT_TRUE(process.run(process.disk().write(offset, data, random.chance(0.2))));
          std::ranges::copy(data, at);
        } else if (dice < 75) {
          ASSERT_TRUE(process.run(process.disk().zero(offset, length, false)));
          std::fill_n(at, length, std::byte{0});
        } else if (dice < 85) {
          ASSERT_TRUE(process.run(process.disk().trim(offset, length, false)));
          const uint64_t begin = round_up(offset, kBlockBytes);
          const uint64_t end =
              offset + length == size ? size : round_down(offset + length, kBlockBytes);
          if (begin < end)
            std::fill(model.begin() + static_cast<ptrdiff_t>(begin),
                      model.begin() + static_cast<ptrdiff_t>(end), std::byte{0});
        } else if (dice < 95) {
          Content got(length, std::byte{0xee});
          ASSERT_TRUE(process.run(process.disk().read(offset, got)));
          ASSERT_TRUE(std::equal(got.begin(), got.end(), at)) << offset << " +" << length;
        } else {
          size = random.between(1, 300) * 512;
          ASSERT_TRUE(process.run(process.disk().resize(size)));
          model.resize(size);
        }
        ASSERT_LE(process.scratch().fast_used_bytes, budget);
      }
      ASSERT_EQ(process.content(), model);
      disk.kill_process();
      disk.restart();
    }
  }
}

TEST(StatelessDisk, DataGoesToTheOverflowWhenTheBudgetIsSpent) {
  sim::SimDisk disk(1);
  Process process(disk, config(4 * kBlockBytes));
  process.open(64 * kBlockBytes);
  const Content data(10 * kBlockBytes, std::byte{7});
  ASSERT_TRUE(process.run(process.disk().write(0, data, false)));
  EXPECT_EQ(process.scratch().fast_used_bytes, 4 * kBlockBytes);
  EXPECT_EQ(process.disk().scratch_bytes(), 10 * kBlockBytes);
  // What is given back can be used again.
  ASSERT_TRUE(process.run(process.disk().zero(0, 4 * kBlockBytes, false)));
  EXPECT_EQ(process.scratch().fast_used_bytes, 0);
  ASSERT_TRUE(process.run(process.disk().write(20 * kBlockBytes, data, false)));
  EXPECT_EQ(process.scratch().fast_used_bytes, 4 * kBlockBytes);
  Content expected(64 * kBlockBytes);
  std::fill_n(expected.begin() + 4 * kBlockBytes, 6 * kBlockBytes, std::byte{7});
  std::fill_n(expected.begin() + 20 * kBlockBytes, 10 * kBlockBytes, std::byte{7});
  EXPECT_EQ(process.content(), expected);
}

TEST(StatelessDisk, AFullTmpfsOverflowsBeforeItsBudget) {
  sim::SimDisk disk(1);
  Process process(disk, config(1 * kGiB));
  process.open(64 * kBlockBytes);
  disk.set_faults("/tmpfs", {.capacity_bytes = 16 * kBlockBytes});
  const Content data(32 * kBlockBytes, std::byte{7});
  ASSERT_TRUE(process.run(process.disk().write(0, data, false)));
  Content expected(64 * kBlockBytes);
  std::fill_n(expected.begin(), data.size(), std::byte{7});
  EXPECT_EQ(process.content(), expected);
}

TEST(StatelessDisk, AnotherBootForgetsTheSameOneKeeps) {
  sim::SimDisk disk(1);
  const Content data(3 * kBlockBytes, std::byte{7});
  {
    Process process(disk, config(kBlockBytes));
    process.open(8 * kBlockBytes);
    ASSERT_TRUE(process.run(process.disk().write(kBlockBytes, data, false)));
    disk.kill_process();
  }
  disk.restart();
  Content expected(8 * kBlockBytes);
  std::fill_n(expected.begin() + kBlockBytes, data.size(), std::byte{7});
  {
    Process process(disk, config(kBlockBytes));
    process.open(8 * kBlockBytes);
    EXPECT_EQ(process.content(), expected);
    EXPECT_EQ(process.scratch().fast_used_bytes, kBlockBytes);
    disk.kill_process();
  }
  disk.restart();
  Process process(disk, config(kBlockBytes, "boot-2"));
  process.open(8 * kBlockBytes);
  EXPECT_EQ(process.content(), Content(8 * kBlockBytes));
  EXPECT_EQ(process.scratch().fast_used_bytes, 0);
  process.forget();
  EXPECT_TRUE(process.files().list("/tmpfs")->empty());
  EXPECT_TRUE(process.files().list("/overflow")->empty());
}

TEST(StatelessDisk, TheBudgetCountsWhatIsNotOpen) {
  sim::SimDisk disk(1);
  const Content data(3 * kBlockBytes, std::byte{7});
  {
    Process process(disk, config(8 * kBlockBytes));
    process.open(8 * kBlockBytes);
    ASSERT_TRUE(process.run(process.disk().write(0, data, false)));
    process.close();
    EXPECT_EQ(process.scratch().fast_used_bytes, 3 * kBlockBytes);
    disk.kill_process();
  }
  disk.restart();
  {
    Process process(disk, config(8 * kBlockBytes));
    ASSERT_TRUE(take_stock(process.scratch(), {kId}));
    EXPECT_EQ(process.scratch().fast_used_bytes, 3 * kBlockBytes);
    process.open(8 * kBlockBytes);
    EXPECT_EQ(process.scratch().fast_used_bytes, 3 * kBlockBytes);
    process.close();
    EXPECT_EQ(process.scratch().fast_used_bytes, 3 * kBlockBytes);
    disk.kill_process();
  }
  disk.restart();
  {  // the volume was removed by a daemon that then died before it deleted the files
    Process process(disk, config(8 * kBlockBytes));
    ASSERT_TRUE(take_stock(process.scratch(), {}));
    EXPECT_EQ(process.scratch().fast_used_bytes, 0);
    EXPECT_TRUE(process.files().list("/tmpfs")->empty());
    EXPECT_TRUE(process.files().list("/overflow")->empty());
  }
}

TEST(StatelessDisk, RequestsBeyondTheEndAreRefused) {
  sim::SimDisk disk(1);
  Process process(disk, config(kBlockBytes));
  process.open(4 * kBlockBytes + 512);
  Content data(1024);
  EXPECT_FALSE(process.run(process.disk().write(4 * kBlockBytes, data, false)));
  EXPECT_FALSE(process.run(process.disk().read(4 * kBlockBytes, data)));
  EXPECT_FALSE(process.run(process.disk().zero(4 * kBlockBytes, 1024, false)));
}

}  // namespace
}  // namespace squall
