// What every FileSystem promises, as a typed test suite that each implementation instantiates, so
// that the simulated one cannot drift from the real one:
//
//   struct PosixEnvironment {
//     FileSystem& file_system();
//     Reactor& reactor();              // takes the file system's handles
//     std::string directory() const;   // exists, empty, gone with the environment
//   };
//   INSTANTIATE_TYPED_TEST_SUITE_P(Posix, FileSystemContract, PosixEnvironment);
//
// The environment is default-constructed for each test. For tests only.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "io/file_system.h"
#include "io/reactor.h"
#include "io/run_task.h"

namespace squall {

// A buffer of `size` bytes whose content depends on `seed`.
inline AlignedBuffer contract_pattern(size_t size, uint8_t seed) {
  AlignedBuffer buffer(size);
  for (size_t i = 0; i < size; ++i)
    buffer.data()[i] = static_cast<std::byte>((i * 7 + i / 251 + seed) & 0xff);
  return buffer;
}

inline bool same_bytes(ConstBytes a, ConstBytes b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin());
}

template <class Environment>
class FileSystemContract : public testing::Test {
 protected:
  FileSystem& fs() { return environment_.file_system(); }
  Reactor& reactor() { return environment_.reactor(); }
  std::string path(const std::string& name) { return environment_.directory() + "/" + name; }

  // Opens for writing, creating it; the test closes it.
  int create(const std::string& name, bool direct = false) {
    auto handle = fs().open(path(name), {.write = true, .create = true, .direct = direct});
    EXPECT_TRUE(handle) << handle.error().message();
    return handle.value_or(-1);
  }
  ErrorKind kind_of_open(const std::string& name, OpenOptions options) {
    auto handle = fs().open(path(name), options);
    EXPECT_FALSE(handle);
    return handle ? ErrorKind::kInternal : handle.error().kind();
  }
  AlignedBuffer read_back(int handle, size_t size, uint64_t offset) {
    AlignedBuffer buffer(size);
    auto count = fs().read(handle, buffer.bytes(), offset);
    EXPECT_TRUE(count && *count == size);
    return buffer;
  }

 private:
  Environment environment_;
};

TYPED_TEST_SUITE_P(FileSystemContract);

TYPED_TEST_P(FileSystemContract, OpenOfAMissingFileIsNotFoundAndNamesIt) {
  auto missing = this->fs().open(this->path("missing"), {});
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().kind(), ErrorKind::kNotFound);
  EXPECT_NE(missing.error().message().find("missing"), std::string::npos);
  EXPECT_FALSE(this->fs().exists(this->path("missing")));
}

TYPED_TEST_P(FileSystemContract, ExclusiveCreateRefusesAnExistingName) {
  this->fs().close(this->create("a"));
  EXPECT_EQ(this->kind_of_open("a", {.write = true, .create = true, .exclusive = true}),
            ErrorKind::kExists);
  EXPECT_TRUE(this->fs().exists(this->path("a")));
}

TYPED_TEST_P(FileSystemContract, ReadsWhatWasWrittenAndZerosInBetween) {
  const int handle = this->create("a");
  const auto data = contract_pattern(10'000, 1);
  ASSERT_TRUE(this->fs().write(handle, data.bytes(), 5'000));
  EXPECT_EQ(this->fs().info(handle)->size, 15'000U);
  EXPECT_TRUE(same_bytes(this->read_back(handle, 10'000, 5'000).bytes(), data.bytes()));
  EXPECT_TRUE(is_zero(this->read_back(handle, 5'000, 0).bytes()));
  this->fs().close(handle);
}

TYPED_TEST_P(FileSystemContract, ReadIsShortOnlyAtTheEnd) {
  const int handle = this->create("a");
  ASSERT_TRUE(this->fs().write(handle, contract_pattern(5'000, 1).bytes(), 0));
  AlignedBuffer buffer(8'192);
  EXPECT_EQ(this->fs().read(handle, buffer.bytes(), 0).value(), 5'000U);
  EXPECT_EQ(this->fs().read(handle, buffer.bytes(), 4'096).value(), 904U);
  EXPECT_EQ(this->fs().read(handle, buffer.bytes(), 5'000).value(), 0U);
  EXPECT_EQ(this->fs().read(handle, buffer.bytes(), 1'000'000).value(), 0U);
  this->fs().close(handle);
}

TYPED_TEST_P(FileSystemContract, WritesAVectorOfManyPieces) {
  const int handle = this->create("a");
  auto data = contract_pattern(300 * 100, 3);
  std::vector<iovec> pieces;
  pieces.reserve(301);
  for (size_t i = 0; i < 300; ++i) pieces.push_back({data.data() + i * 100, 100});
  pieces.insert(pieces.begin() + 7, iovec{data.data(), 0});
  ASSERT_TRUE(this->fs().write(handle, std::span<const iovec>(pieces), 17));
  EXPECT_TRUE(same_bytes(this->read_back(handle, data.size(), 17).bytes(), data.bytes()));
  this->fs().close(handle);
}

TYPED_TEST_P(FileSystemContract, TruncateShrinksAndExtendsWithZeros) {
  const int handle = this->create("a");
  ASSERT_TRUE(this->fs().write(handle, contract_pattern(8'192, 1).bytes(), 0));
  ASSERT_TRUE(this->fs().truncate(handle, 100));
  EXPECT_EQ(this->fs().info(handle)->size, 100U);
  ASSERT_TRUE(this->fs().truncate(handle, 8'192));
  EXPECT_TRUE(is_zero(this->read_back(handle, 8'192 - 100, 100).bytes()));
  EXPECT_FALSE(is_zero(this->read_back(handle, 100, 0).bytes()));
  this->fs().close(handle);
}

TYPED_TEST_P(FileSystemContract, AllocateReservesSpaceAndKeepsContent) {
  const int handle = this->create("a");
  const auto data = contract_pattern(4'096, 9);
  ASSERT_TRUE(this->fs().write(handle, data.bytes(), 0));
  ASSERT_TRUE(this->fs().allocate(handle, kMiB));
  const auto info = this->fs().info(handle);
  EXPECT_EQ(info->size, kMiB);
  EXPECT_GE(info->allocated_bytes, kMiB);
  EXPECT_TRUE(same_bytes(this->read_back(handle, 4'096, 0).bytes(), data.bytes()));
  EXPECT_TRUE(is_zero(this->read_back(handle, 4'096, kMiB - 4'096).bytes()));
  this->fs().close(handle);
}

TYPED_TEST_P(FileSystemContract, PunchZeroesAndGivesSpaceBack) {
  const int handle = this->create("a");
  ASSERT_TRUE(this->fs().write(handle, contract_pattern(kMiB, 1).bytes(), 0));
  ASSERT_TRUE(this->fs().sync(handle));
  const uint64_t before = this->fs().info(handle)->allocated_bytes;
  ASSERT_TRUE(this->fs().punch(handle, 64 * kKiB, 512 * kKiB));
  const auto after = this->fs().info(handle);
  EXPECT_EQ(after->size, kMiB);
  EXPECT_LE(after->allocated_bytes, before - 512 * kKiB);
  EXPECT_TRUE(is_zero(this->read_back(handle, 512 * kKiB, 64 * kKiB).bytes()));
  EXPECT_FALSE(is_zero(this->read_back(handle, 4'096, 64 * kKiB - 4'096).bytes()));
  EXPECT_FALSE(is_zero(this->read_back(handle, 4'096, 576 * kKiB).bytes()));
  this->fs().close(handle);
}

TYPED_TEST_P(FileSystemContract, DirectAndBufferedHandlesSeeTheSameBytes) {
  const int direct = this->create("a", true);
  const auto data = contract_pattern(16 * kKiB, 5);
  ASSERT_TRUE(this->fs().write(direct, data.bytes(), 4 * kKiB));
  ASSERT_TRUE(this->fs().sync(direct));
  const int buffered = this->create("a");
  EXPECT_TRUE(same_bytes(this->read_back(buffered, 16 * kKiB, 4 * kKiB).bytes(), data.bytes()));
  EXPECT_TRUE(same_bytes(this->read_back(direct, 16 * kKiB, 4 * kKiB).bytes(), data.bytes()));
  AlignedBuffer beyond(16 * kKiB);
  EXPECT_EQ(this->fs().read(direct, beyond.bytes(), 12 * kKiB).value(), 8 * kKiB);
  this->fs().close(buffered);
  this->fs().close(direct);
}

TYPED_TEST_P(FileSystemContract, LockExcludesOtherHandlesUntilClosed) {
  const int holder = this->create("a");
  const int other = this->create("a");
  ASSERT_TRUE(this->fs().lock(holder, 0));
  const auto refused = this->fs().lock(other, 5);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind(), ErrorKind::kBusy);
  this->fs().close(holder);
  EXPECT_TRUE(this->fs().lock(other, 0));
  this->fs().close(other);
}

TYPED_TEST_P(FileSystemContract, MappingSharesTheFilesBytes) {
  const int handle = this->create("a");
  ASSERT_TRUE(this->fs().truncate(handle, 64 * kKiB));
  ASSERT_TRUE(this->fs().write(handle, as_bytes("by write"), 100));
  auto mapping = this->fs().map(handle, 64 * kKiB);
  ASSERT_TRUE(mapping) << mapping.error().message();
  ASSERT_EQ(mapping->size(), 64 * kKiB);
  EXPECT_EQ(as_text(mapping->subspan(100, 8)), "by write");
  const auto stored = as_bytes("by store");
  std::copy(stored.begin(), stored.end(), mapping->begin() + 5'000);
  EXPECT_EQ(as_text(this->read_back(handle, 8, 5'000).bytes()), "by store");
  this->fs().unmap(*mapping);
  EXPECT_FALSE(this->fs().map(handle, 128 * kKiB)) << "beyond the end of the file";
  this->fs().close(handle);
}

TYPED_TEST_P(FileSystemContract, DirectoriesAreMadeWithTheirParentsAndListedSorted) {
  ASSERT_TRUE(this->fs().make_directory(this->path("x/y/z")));
  ASSERT_TRUE(this->fs().make_directory(this->path("x/y/z"))) << "existing is fine";
  EXPECT_TRUE(this->fs().stat(this->path("x/y"))->is_directory);
  for (const char* name : {"x/c", "x/a", "x/b"}) this->fs().close(this->create(name));
  EXPECT_EQ(this->fs().list(this->path("x")).value(),
            (std::vector<std::string>{"a", "b", "c", "y"}));
  const auto missing = this->fs().list(this->path("nowhere"));
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().kind(), ErrorKind::kNotFound);
  EXPECT_FALSE(this->fs().make_directory(this->path("x/a"))) << "a file is in the way";
}

TYPED_TEST_P(FileSystemContract, RemoveAndRename) {
  this->fs().close(this->create("a"));
  this->fs().close(this->create("b"));
  const int kept = this->create("c");
  ASSERT_TRUE(this->fs().write(kept, as_bytes("kept"), 0));
  ASSERT_TRUE(this->fs().rename(this->path("c"), this->path("b"))) << "replaces the target";
  EXPECT_FALSE(this->fs().exists(this->path("c")));
  EXPECT_EQ(this->fs().stat(this->path("b"))->size, 4U);
  ASSERT_TRUE(this->fs().remove(this->path("b")));
  EXPECT_EQ(as_text(this->read_back(kept, 4, 0).bytes()), "kept") << "an open file outlives it";
  this->fs().close(kept);
  const auto again = this->fs().remove(this->path("b"));
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().kind(), ErrorKind::kNotFound);
  EXPECT_EQ(this->fs().rename(this->path("b"), this->path("d")).error().kind(),
            ErrorKind::kNotFound);
  EXPECT_TRUE(this->fs().sync_directory(this->path("")));
}

TYPED_TEST_P(FileSystemContract, ReplaceFileLeavesTheNewContentAndNothingElse) {
  ASSERT_TRUE(this->fs().make_directory(this->path("x")));
  const std::string file = this->path("x/file");
  ASSERT_TRUE(this->fs().replace_file(file, as_bytes("a longer first content")));
  ASSERT_TRUE(this->fs().replace_file(file, as_bytes("second")));
  const auto content = this->fs().read_file(file, 100);
  ASSERT_TRUE(content);
  EXPECT_EQ(as_text(*content), "second");
  EXPECT_EQ(this->fs().list(this->path("x")).value(), std::vector<std::string>{"file"});
  const auto too_long = this->fs().read_file(file, 5);
  ASSERT_FALSE(too_long);
  EXPECT_EQ(too_long.error().kind(), ErrorKind::kInvalid);
}

TYPED_TEST_P(FileSystemContract, SpaceIsPlausible) {
  const auto space = this->fs().space(this->path(""));
  ASSERT_TRUE(space);
  EXPECT_GT(space->available_bytes, 0U);
  EXPECT_GE(space->total_bytes, space->available_bytes);
}

TYPED_TEST_P(FileSystemContract, ReactorReadsWritesSyncsAndPunchesItsHandles) {
  const int handle = this->create("a");
  const auto data = contract_pattern(64 * kKiB, 4);
  AlignedBuffer back(64 * kKiB);
  auto work = [](Reactor& reactor, int file, ConstBytes from, Bytes to) -> Task<int> {
    int result = co_await io_write(reactor, file, from, 8 * kKiB);
    if (result != static_cast<int>(from.size())) co_return result;
    result = co_await io_sync(reactor, file);
    if (result != 0) co_return result;
    result = co_await io_punch(reactor, file, 16 * kKiB, 8 * kKiB);
    if (result != 0) co_return result;
    co_return co_await io_read(reactor, file, to, 12 * kKiB);
  };
  const int count =
      run_task(this->reactor(), work(this->reactor(), handle, data.bytes(), back.bytes()));
  ASSERT_EQ(count, static_cast<int>(60 * kKiB)) << "short at the end of the file";
  EXPECT_TRUE(
      same_bytes(back.bytes().subspan(0, 4 * kKiB), data.bytes().subspan(4 * kKiB, 4 * kKiB)));
  EXPECT_TRUE(is_zero(back.bytes().subspan(4 * kKiB, 8 * kKiB)));
  EXPECT_TRUE(same_bytes(back.bytes().subspan(12 * kKiB, 48 * kKiB),
                         data.bytes().subspan(16 * kKiB, 48 * kKiB)));
  this->fs().close(handle);
}

REGISTER_TYPED_TEST_SUITE_P(FileSystemContract, OpenOfAMissingFileIsNotFoundAndNamesIt,
                            ExclusiveCreateRefusesAnExistingName,
                            ReadsWhatWasWrittenAndZerosInBetween, ReadIsShortOnlyAtTheEnd,
                            WritesAVectorOfManyPieces, TruncateShrinksAndExtendsWithZeros,
                            AllocateReservesSpaceAndKeepsContent, PunchZeroesAndGivesSpaceBack,
                            DirectAndBufferedHandlesSeeTheSameBytes,
                            LockExcludesOtherHandlesUntilClosed, MappingSharesTheFilesBytes,
                            DirectoriesAreMadeWithTheirParentsAndListedSorted, RemoveAndRename,
                            ReplaceFileLeavesTheNewContentAndNothingElse, SpaceIsPlausible,
                            ReactorReadsWritesSyncsAndPunchesItsHandles);

}  // namespace squall
