#include "engine/directory_segment_store.h"

#include <gmock/gmock.h>

#include <fstream>

#include "engine/engine_test_support.h"

namespace squall {
namespace {

using testing::HasSubstr;

class DirectorySegmentStoreTest : public testing::Test {
 protected:
  DirectorySegmentStoreTest() {
    for (const StoreDirectory& store : directories_)
      value_of(create_store_directory(files_, pool_, store));
    open();
  }

  void open(DirectorySegmentStoreOptions options = {}) {
    store_.reset();
    store_ = value_of(
        DirectorySegmentStore::open(*reactor_, files_, executor_, pool_, directories_, options));
  }
  Result<void> create(SegmentId id, const std::string& store) {
    return run_task(*reactor_, store_->create(id, store));
  }
  Result<void> write(SegmentId id, const std::vector<std::byte>& bytes, uint64_t offset) {
    const iovec iov{const_cast<std::byte*>(bytes.data()), bytes.size()};
    return run_task(*reactor_, store_->write(id, std::span(&iov, 1), offset));
  }
  Result<void> sync(SegmentId id) { return run_task(*reactor_, store_->sync(id)); }
  Result<std::vector<std::byte>> read(SegmentId id, size_t length, uint64_t offset) {
    std::vector<std::byte> bytes(length);
    TRY_ASSIGN(const size_t got, run_task(*reactor_, store_->read(id, bytes, offset)));
    bytes.resize(got);
    return bytes;
  }
  std::vector<SegmentInfo> list() { return value_of(run_task(*reactor_, store_->list())); }
  std::string path_of(const std::string& store, const std::string& name) const {
    return directory_.path() + "/" + store + "/segments/" + name;
  }

  TemporaryDirectory directory_;
  const Uuid pool_ = Uuid::generate();
  const std::vector<StoreDirectory> directories_ = {{"default", directory_.path() + "/a"},
                                                    {"ssd", directory_.path() + "/b"}};
  PosixFileSystem files_;
  std::unique_ptr<UringReactor> reactor_ = make_reactor();
  ThreadExecutor executor_{"files"};
  std::unique_ptr<DirectorySegmentStore> store_;
};

TEST_F(DirectorySegmentStoreTest, ReadsBackWhatWasWritten) {
  for (const bool direct : {true, false}) {
    open({.direct_reads = direct});
    const SegmentId id = direct ? 1 : 2;
    value_of(create(id, "ssd"));
    const auto bytes = pattern_bytes(300000, id);
    value_of(write(id, bytes, 0));
    for (const bool synced : {false, true}) {
      if (synced) value_of(sync(id));
      for (const uint64_t offset : {0u, 512u, 4096u, 5120u, 65536u, 299520u})
        for (const size_t length : {512u, 4096u, 12800u, 69632u, 261632u}) {
          const auto got = value_of(read(id, length, offset));
          ASSERT_EQ(got.size(), std::min<size_t>(length, bytes.size() - offset));
          ASSERT_TRUE(std::equal(got.begin(), got.end(), bytes.begin() + static_cast<long>(offset)))
              << offset << " " << length;
        }
      EXPECT_TRUE(value_of(read(id, 512, 300032)).empty());
      EXPECT_TRUE(value_of(read(id, 512, 1 << 20)).empty());
    }
  }
}

TEST_F(DirectorySegmentStoreTest, ReadsIntoAlignedBuffersWithoutACopy) {
  value_of(create(1, "default"));
  const auto bytes = pattern_bytes(65536, 1);
  value_of(write(1, bytes, 0));
  value_of(sync(1));
  AlignedBuffer buffer(32768);
  EXPECT_EQ(value_of(run_task(*reactor_, store_->read(1, buffer.bytes(), 8192))), 32768u);
  EXPECT_EQ(std::memcmp(buffer.data(), bytes.data() + 8192, 32768), 0);
}

TEST_F(DirectorySegmentStoreTest, WritesManyPieces) {
  value_of(create(1, "default"));
  const auto bytes = pattern_bytes(3000 * 100, 5);
  std::vector<iovec> iov;
  for (size_t i = 0; i < 3000; ++i)
    iov.push_back({const_cast<std::byte*>(bytes.data()) + i * 100, 100});
  value_of(run_task(*reactor_, store_->write(1, iov, 512)));
  EXPECT_EQ(value_of(read(1, bytes.size(), 512)), bytes);
}

TEST_F(DirectorySegmentStoreTest, KeepsSegmentsInTheirStores) {
  value_of(create(7, "default"));
  value_of(create(0x1ffffffff, "ssd"));
  value_of(write(7, pattern_bytes(5000, 1), 0));
  EXPECT_EQ(create(7, "ssd").error().kind(), ErrorKind::kExists);
  EXPECT_EQ(create(8, "tape").error().kind(), ErrorKind::kNotFound);
  EXPECT_TRUE(files_.exists(path_of("a", "0000000000000007.seg")));
  EXPECT_TRUE(files_.exists(path_of("b", "00000001ffffffff.seg")));
  std::ofstream(path_of("a", "notes.txt")) << "x";
  open();
  const auto segments = list();
  ASSERT_EQ(segments.size(), 2u);
  EXPECT_EQ(segments[0].id, 7u);
  EXPECT_EQ(segments[0].store, "default");
  EXPECT_EQ(segments[0].size_bytes, 5000u);
  EXPECT_EQ(segments[1].store, "ssd");
  EXPECT_EQ(value_of(read(7, 5000, 0)), pattern_bytes(5000, 1));
}

TEST_F(DirectorySegmentStoreTest, TruncatesPunchesAndRemoves) {
  value_of(create(1, "default"));
  value_of(write(1, pattern_bytes(1 << 20, 3), 0));
  value_of(sync(1));
  const uint64_t allocated = list()[0].allocated_bytes;
  EXPECT_TRUE(store_->can_punch());
  value_of(run_task(*reactor_, store_->punch(1, 1000, 500000)));
  value_of(run_task(*reactor_, store_->punch(1, 600000, 100)));  // no whole block: nothing to do
  value_of(sync(1));
  EXPECT_LE(list()[0].allocated_bytes, allocated - 480 * kKiB);
  // What lies outside whole blocks stays.
  const auto original = pattern_bytes(1 << 20, 3);
  const auto head = value_of(read(1, 4096, 0));
  EXPECT_TRUE(std::equal(head.begin(), head.end(), original.begin()));
  EXPECT_TRUE(is_zero(value_of(read(1, 490000, 4096))));
  EXPECT_EQ(value_of(read(1, 512, 600064))[0], original[600064]);

  value_of(run_task(*reactor_, store_->truncate(1, 700000)));
  value_of(sync(1));
  EXPECT_EQ(list()[0].size_bytes, 700000u);
  value_of(run_task(*reactor_, store_->remove(1)));
  EXPECT_EQ(read(1, 512, 0).error().kind(), ErrorKind::kNotFound);
  EXPECT_TRUE(list().empty());
  EXPECT_FALSE(files_.exists(path_of("a", "0000000000000001.seg")));
}

TEST_F(DirectorySegmentStoreTest, WorksWithFewerOpenFilesThanSegments) {
  open({.open_files_max = 4});
  for (SegmentId id = 1; id <= 20; ++id) {
    value_of(create(id, id % 2 == 0 ? "ssd" : "default"));
    value_of(write(id, pattern_bytes(8192, id), 0));
  }
  // Unsynced segments keep their files open, whatever the bound.
  for (SegmentId id = 1; id <= 20; ++id) value_of(sync(id));
  std::vector<std::vector<std::byte>> buffers(200, std::vector<std::byte>(4096));
  std::vector<Task<Result<size_t>>> reads;
  for (size_t i = 0; i < buffers.size(); ++i)
    reads.push_back(store_->read(i % 20 + 1, buffers[i], 4096));
  for (auto& result : run_together(*reactor_, std::move(reads))) EXPECT_EQ(value_of(result), 4096u);
  for (size_t i = 0; i < buffers.size(); ++i) {
    const auto whole = pattern_bytes(8192, i % 20 + 1);
    EXPECT_TRUE(std::equal(buffers[i].begin(), buffers[i].end(), whole.begin() + 4096)) << i;
  }
}

TEST_F(DirectorySegmentStoreTest, AStoreThatIsAwayLeavesTheOthersWorking) {
  value_of(create(1, "default"));
  value_of(create(2, "ssd"));
  value_of(write(1, pattern_bytes(512, 1), 0));
  store_.reset();
  // The disk is not mounted: an empty directory is in its place.
  std::filesystem::rename(directories_[1].path, directory_.path() + "/elsewhere");
  std::filesystem::create_directory(directories_[1].path);
  open();
  EXPECT_EQ(value_of(read(1, 512, 0)), pattern_bytes(512, 1));
  for (auto result : {create(3, "ssd"), write(2, pattern_bytes(512, 1), 0), sync(2)}) {
    ASSERT_FALSE(result);
    EXPECT_THAT(result.error().message(), HasSubstr(directories_[1].path));
  }
  // Not kNotFound: nobody may conclude that segment 2 is gone.
  EXPECT_EQ(read(2, 512, 0).error().kind(), ErrorKind::kIo);
  const auto stores = value_of(store_->stores());
  EXPECT_TRUE(stores[0].available);
  EXPECT_GT(stores[0].available_bytes, 0u);
  EXPECT_FALSE(stores[1].available);
  EXPECT_THAT(stores[1].problem, HasSubstr("mounted"));
  // It is mounted while the daemon runs.
  std::filesystem::remove(directories_[1].path);
  std::filesystem::rename(directory_.path() + "/elsewhere", directories_[1].path);
  EXPECT_TRUE(value_of(store_->stores())[1].available);
  value_of(write(2, pattern_bytes(512, 2), 0));
  value_of(sync(2));
  EXPECT_EQ(value_of(read(2, 512, 0)), pattern_bytes(512, 2));
}

TEST_F(DirectorySegmentStoreTest, AStoreThatGoesWhileItIsUsedIsNoticed) {
  value_of(create(1, "ssd"));
  value_of(write(1, pattern_bytes(512, 1), 0));
  value_of(sync(1));
  EXPECT_TRUE(value_of(store_->stores())[1].available);
  const std::string elsewhere = directory_.path() + "/elsewhere";
  std::filesystem::rename(directories_[1].path, elsewhere);
  std::filesystem::create_directory(directories_[1].path);
  const auto stores = value_of(store_->stores());
  EXPECT_TRUE(stores[0].available);
  EXPECT_FALSE(stores[1].available);
  EXPECT_THAT(stores[1].problem, HasSubstr("mounted"));
  std::filesystem::remove(directories_[1].path);
  std::filesystem::rename(elsewhere, directories_[1].path);
  EXPECT_TRUE(value_of(store_->stores())[1].available);
  EXPECT_EQ(value_of(read(1, 512, 0)), pattern_bytes(512, 1));
}

TEST_F(DirectorySegmentStoreTest, RefusesAnotherPoolsStore) {
  const Uuid other = Uuid::generate();
  auto refused = create_store_directory(files_, other, directories_[1]);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message(), HasSubstr(pool_.to_string()));
  EXPECT_FALSE(create_store_directory(files_, pool_, {"nvme", directories_[1].path}));
  value_of(create_store_directory(files_, pool_, directories_[1]));
}

TEST_F(DirectorySegmentStoreTest, RefusesASegmentThatExistsTwice) {
  value_of(create(5, "default"));
  std::ofstream(path_of("b", "0000000000000005.seg")) << "copy";
  auto opened = DirectorySegmentStore::open(*reactor_, files_, executor_, pool_, directories_, {});
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().kind(), ErrorKind::kCorrupt);
}

TEST(HandleCacheTest, ClosesTheLeastRecentlyUsedIdleFile) {
  TemporaryDirectory directory;
  PosixFileSystem files;
  HandleCache cache(files, 2);
  auto acquire = [&](uint64_t key) {
    return value_of(cache.acquire(key, {.write = true, .create = true},
                                  [&] { return directory.path() + "/" + std::to_string(key); }));
  };
  auto pinned = acquire(1);
  const int handle = pinned.handle();
  acquire(2);
  acquire(3);
  EXPECT_EQ(cache.open_files(), 2u);
  EXPECT_EQ(acquire(1).handle(), handle);
  auto second = acquire(2), third = acquire(3);
  EXPECT_EQ(cache.open_files(), 3u);  // all in use
  cache.drop(1);
  auto again = acquire(1);
  EXPECT_NE(again.handle(), handle);  // the old one is still open
  pinned = {};
  second = {};
  EXPECT_EQ(cache.open_files(), 2u);
}

}  // namespace
}  // namespace squall
