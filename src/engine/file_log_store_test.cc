#include "engine/file_log_store.h"

#include <gmock/gmock.h>

#include <fstream>

#include "engine/engine_test_support.h"

namespace squall {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr uint64_t kVolume = 0x2a;

class FileLogStoreTest : public testing::Test {
 protected:
  FileLogStoreTest() { open(); }

  void open() {
    logs_.reset();
    logs_ = value_of(FileLogStore::open(*reactor_, files_, executor_, pool_, directory_.path()));
  }
  Result<void> append(uint64_t epoch, std::string_view text) {
    return run_task(*reactor_, logs_->append(kVolume, epoch, as_bytes(text)));
  }
  uint64_t rotate(uint64_t epoch) {
    return value_of(run_task(*reactor_, logs_->rotate(kVolume, epoch)));
  }
  std::vector<uint64_t> parts() { return value_of(run_task(*reactor_, logs_->parts(kVolume))); }
  Result<LogPart> read(uint64_t part) { return run_task(*reactor_, logs_->read(kVolume, part)); }
  std::vector<std::string> texts(uint64_t part) {
    std::vector<std::string> result;
    for (const auto& bytes : value_of(read(part)).appends) result.emplace_back(as_text(bytes));
    return result;
  }
  std::string path_of(uint64_t part) const {
    return directory_.path() + "/000000000000002a." + std::to_string(part);
  }

  TemporaryDirectory directory_;
  const Uuid pool_ = Uuid::generate();
  PosixFileSystem files_;
  std::unique_ptr<UringReactor> reactor_ = make_reactor();
  ThreadExecutor executor_{"files"};
  std::unique_ptr<FileLogStore> logs_;
};

TEST_F(FileLogStoreTest, KeepsAppendsInOrderAndInParts) {
  EXPECT_TRUE(parts().empty());
  value_of(append(1, "one"));
  value_of(append(1, ""));
  value_of(append(1, "three"));
  EXPECT_EQ(rotate(1), 2u);
  value_of(append(1, "four"));
  EXPECT_THAT(parts(), ElementsAre(1, 2));
  EXPECT_THAT(texts(1), ElementsAre("one", "", "three"));
  EXPECT_THAT(texts(2), ElementsAre("four"));
  open();
  value_of(append(1, "five"));  // a new process begins a new part
  EXPECT_THAT(parts(), ElementsAre(1, 2, 3));
  EXPECT_THAT(texts(1), ElementsAre("one", "", "three"));
  EXPECT_THAT(texts(3), ElementsAre("five"));
  EXPECT_EQ(read(9).error().kind(), ErrorKind::kNotFound);
}

TEST_F(FileLogStoreTest, FencesLowerEpochsAlsoAfterAReopen) {
  value_of(append(3, "three"));
  EXPECT_EQ(append(2, "late").error().kind(), ErrorKind::kFenced);
  EXPECT_EQ(rotate(5), 2u);  // a take-over before its first append
  EXPECT_EQ(append(3, "late").error().kind(), ErrorKind::kFenced);
  open();
  EXPECT_EQ(append(4, "late").error().kind(), ErrorKind::kFenced);
  value_of(append(5, "five"));
  value_of(append(6, "six"));
  EXPECT_EQ(value_of(read(parts().back())).epoch, 6u);
}

TEST_F(FileLogStoreTest, DropsOldPartsButKeepsTheEpoch) {
  value_of(append(4, "a"));
  rotate(4);
  value_of(append(4, "b"));
  const uint64_t last = rotate(4);
  value_of(run_task(*reactor_, logs_->drop_before(kVolume, last)));
  EXPECT_THAT(parts(), ElementsAre(last));
  value_of(run_task(*reactor_, logs_->drop_before(kVolume, last + 10)));
  EXPECT_THAT(parts(), ElementsAre(last));
  open();
  EXPECT_EQ(append(3, "late").error().kind(), ErrorKind::kFenced);
  EXPECT_EQ(rotate(4), last + 1);  // numbers go on
}

TEST_F(FileLogStoreTest, ListsAndRemovesLogs) {
  value_of(append(1, "a"));
  value_of(run_task(*reactor_, logs_->append(7, 1, as_bytes("b"))));
  EXPECT_THAT(value_of(run_task(*reactor_, logs_->list())), ElementsAre(7, kVolume));
  value_of(run_task(*reactor_, logs_->remove(kVolume)));
  value_of(run_task(*reactor_, logs_->remove(kVolume)));
  open();
  EXPECT_THAT(value_of(run_task(*reactor_, logs_->list())), ElementsAre(7));
  EXPECT_TRUE(parts().empty());
}

TEST_F(FileLogStoreTest, LeavesATornAppendOutAndReportsADamagedOne) {
  value_of(append(1, "first"));
  value_of(append(1, "second"));
  value_of(append(1, "third"));
  const uint64_t size = value_of(files_.stat(path_of(1))).size;
  std::filesystem::resize_file(path_of(1), size - 9);  // the last frame's tail is missing
  open();
  EXPECT_THAT(texts(1), ElementsAre("first", "second"));

  // The second was durable when the third was written: that it is bad now is damage.
  value_of(append(1, "a"));
  value_of(append(1, "b"));
  value_of(append(1, "c"));
  std::fstream file(path_of(2), std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(kLogPartHeaderBytes + 32 + 24).put('x');
  file.close();
  auto damaged = read(2);
  ASSERT_FALSE(damaged);
  EXPECT_EQ(damaged.error().kind(), ErrorKind::kCorrupt);
  EXPECT_THAT(damaged.error().message(), HasSubstr(path_of(2)));
}

TEST_F(FileLogStoreTest, RefusesAPartOfAnotherPlace) {
  value_of(append(1, "a"));
  std::filesystem::copy_file(path_of(1), path_of(2));
  open();
  EXPECT_EQ(read(2).error().kind(), ErrorKind::kCorrupt);
  EXPECT_THAT(texts(1), ElementsAre("a"));
}

TEST_F(FileLogStoreTest, RunsConcurrentAppendsInOrder) {
  std::vector<std::string> expected;
  for (int i = 0; i < 100; ++i) expected.push_back(std::to_string(i));
  std::vector<Task<Result<void>>> tasks;
  for (const std::string& text : expected)
    tasks.push_back(logs_->append(kVolume, 1, as_bytes(text)));
  for (auto& result : run_together(*reactor_, std::move(tasks))) value_of(result);
  EXPECT_EQ(texts(1), expected);
}

}  // namespace
}  // namespace squall
