#include "io/posix_file_system.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include "io/file_system_contract.h"
#include "io/test_reactor.h"

namespace squall {
namespace {

class PosixEnvironment {
 public:
  PosixEnvironment() : reactor_(make_test_reactor()) {
    std::string name = testing::TempDir() + "squall_io_XXXXXX";
    CHECK(::mkdtemp(name.data()) != nullptr);
    directory_ = name;
  }
  ~PosixEnvironment() { std::filesystem::remove_all(directory_); }
  FileSystem& file_system() { return file_system_; }
  Reactor& reactor() { return *reactor_; }
  std::string directory() const { return directory_; }

 private:
  PosixFileSystem file_system_;
  std::unique_ptr<UringReactor> reactor_;
  std::string directory_;
};

INSTANTIATE_TYPED_TEST_SUITE_P(Posix, FileSystemContract, PosixEnvironment);

TEST(ParentDirectory, FollowsDirname) {
  EXPECT_EQ(parent_directory("a/b"), "a");
  EXPECT_EQ(parent_directory("/a/b/"), "/a");
  EXPECT_EQ(parent_directory("a//b"), "a");
  EXPECT_EQ(parent_directory("a"), ".");
  EXPECT_EQ(parent_directory("a/"), ".");
  EXPECT_EQ(parent_directory("/a"), "/");
  EXPECT_EQ(parent_directory("/"), "/");
  EXPECT_EQ(parent_directory(""), ".");
}

TEST(PosixFileSystem, DirectReadStopsAtAnUnalignedEnd) {
  PosixEnvironment environment;
  FileSystem& fs = environment.file_system();
  const std::string path = environment.directory() + "/a";
  ASSERT_TRUE(fs.replace_file(path, contract_pattern(5'000, 1).bytes()));
  const int handle = fs.open(path, {.direct = true}).value();
  AlignedBuffer buffer(8'192);
  EXPECT_EQ(fs.read(handle, buffer.bytes(), 0).value(), 5'000U);
  EXPECT_TRUE(same_bytes(buffer.bytes().first(5'000), contract_pattern(5'000, 1).bytes()));
  fs.close(handle);
}

TEST(PosixFileSystem, LockWaitsForItsHolder) {
  PosixEnvironment environment;
  FileSystem& fs = environment.file_system();
  const std::string path = environment.directory() + "/a";
  const int holder = fs.open(path, {.write = true, .create = true}).value();
  const int other = fs.open(path, {.write = true}).value();
  ASSERT_TRUE(fs.lock(holder, 0));
  std::thread releaser([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    fs.close(holder);
  });
  EXPECT_TRUE(fs.lock(other, 10'000));
  releaser.join();
  fs.close(other);
}

TEST(PosixFileSystem, ErrorsOfHandlesNameThePath) {
  PosixEnvironment environment;
  FileSystem& fs = environment.file_system();
  const std::string path = environment.directory() + "/readonly";
  ASSERT_TRUE(fs.replace_file(path, as_bytes("x")));
  const int handle = fs.open(path, {}).value();
  const auto refused = fs.write(handle, as_bytes("y"), 7);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message().find(path), std::string::npos) << refused.error().message();
  EXPECT_NE(refused.error().message().find("at 7"), std::string::npos);
  fs.close(handle);
}

}  // namespace
}  // namespace squall
