#include "cli/file_blocks.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>

#include "base/buffer.h"
#include "cli/progress.h"

namespace squall {
namespace {

class FileBlocks : public ::testing::Test {
 protected:
  FileBlocks() { CHECK(::mkdtemp(directory_.data()) != nullptr); }
  ~FileBlocks() override { std::filesystem::remove_all(directory_); }

  std::string path(const std::string& name) const { return directory_ + "/" + name; }

  void put(const std::string& file, uint64_t offset, std::string_view text, uint64_t size = 0) {
    const int fd = ::open(file.c_str(), O_RDWR | O_CREAT, 0600);
    CHECK(::pwrite(fd, text.data(), text.size(), static_cast<off_t>(offset)) ==
          static_cast<ssize_t>(text.size()));
    if (size > 0) CHECK(::ftruncate(fd, static_cast<off_t>(size)) == 0);
    ::close(fd);
  }

  std::string directory_ = "/tmp/squall-files-XXXXXX";
};

TEST_F(FileBlocks, SourceSkipsHolesAndPadsTheLastSector) {
  const std::string file = path("raw");
  put(file, 8 * kMiB, "data", 16 * kMiB + 100);
  const auto source = FileSource::open(file);
  ASSERT_TRUE(source) << source.error().message();
  EXPECT_EQ((*source)->size_bytes(), 16 * kMiB + 512);
  uint64_t data_bytes = 0;
  for (const DataRun& run : (*source)->data_runs().value()) data_bytes += run.length;
  EXPECT_LE(data_bytes, 64 * kKiB);

  AlignedBuffer buffer(kMiB);
  Transfer at_data{8 * kMiB, buffer.bytes()};
  ASSERT_TRUE((*source)->start_read(at_data));
  EXPECT_TRUE(at_data.done);
  EXPECT_EQ(as_text(at_data.bytes.first(4)), "data");
  Transfer at_end{16 * kMiB, buffer.bytes().first(512)};
  ASSERT_TRUE((*source)->start_read(at_end));
  EXPECT_TRUE(is_zero(at_end.bytes));
}

TEST_F(FileBlocks, SourceRefusesWhatIsNoImage) {
  EXPECT_EQ(FileSource::open(path("none")).error().kind(), ErrorKind::kNotFound);
  EXPECT_NE(FileSource::open(directory_).error().message().find("is a directory"),
            std::string::npos);
  EXPECT_NE(FileSource::open("/dev/null").error().message().find("neither"), std::string::npos);
  put(path("empty"), 0, "");
  EXPECT_NE(FileSource::open(path("empty")).error().message().find("is empty"), std::string::npos);
}

TEST_F(FileBlocks, SourceNoticesThatTheFileShrank) {
  const std::string file = path("raw");
  put(file, 0, "x", kMiB);
  const auto source = FileSource::open(file);
  std::filesystem::resize_file(file, 1000);
  AlignedBuffer buffer(kMiB);
  Transfer transfer{0, buffer.bytes()};
  EXPECT_FALSE((*source)->start_read(transfer));
}

TEST_F(FileBlocks, SinkIsSparseAndAppearsAtCommit) {
  const std::string file = path("out");
  {
    auto sink = FileSink::create(file, 8 * kMiB, false);
    ASSERT_TRUE(sink) << sink.error().message();
    AlignedBuffer buffer(2 * kMiB);
    buffer.bytes()[kMiB] = std::byte{'x'};
    Transfer transfer{4 * kMiB, buffer.bytes()};
    ASSERT_TRUE((*sink)->start_write(transfer));
    ASSERT_TRUE((*sink)->flush());
    EXPECT_FALSE(std::filesystem::exists(file));
    ASSERT_TRUE((*sink)->commit());
  }
  struct stat info{};
  ASSERT_EQ(::stat(file.c_str(), &info), 0);
  EXPECT_EQ(info.st_size, static_cast<off_t>(8 * kMiB));
  EXPECT_LE(info.st_blocks * 512, 64 * 1024);
  std::ifstream in(file);
  in.seekg(5 * kMiB);
  EXPECT_EQ(in.get(), 'x');
}

TEST_F(FileBlocks, SinkLeavesNothingWithoutCommitAndNeverOverwritesUnasked) {
  const std::string file = path("out");
  {
    ASSERT_TRUE(FileSink::create(file, kMiB, false));
  }
  EXPECT_TRUE(std::filesystem::is_empty(directory_));

  put(file, 0, "precious");
  EXPECT_EQ(FileSink::create(file, kMiB, false).error().kind(), ErrorKind::kExists);
  {
    ASSERT_TRUE(FileSink::create(file, kMiB, true));
  }
  EXPECT_EQ(std::filesystem::file_size(file), 8u);

  // It came into being meanwhile.
  const std::string late = path("late");
  auto sink = FileSink::create(late, kMiB, false);
  put(late, 0, "precious");
  EXPECT_EQ((*sink)->commit().error().kind(), ErrorKind::kExists);
  EXPECT_EQ(std::filesystem::file_size(late), 8u);
}

class Pipe {
 public:
  explicit Pipe(std::string_view text) {
    CHECK(::pipe(fds_.data()) == 0);
    CHECK(::write(fds_[1], text.data(), text.size()) == static_cast<ssize_t>(text.size()));
    ::close(fds_[1]);
  }
  ~Pipe() { ::close(fds_[0]); }
  int fd() const { return fds_[0]; }

 private:
  std::array<int, 2> fds_{};
};

TEST_F(FileBlocks, StreamIsFilledUpAndBounded) {
  AlignedBuffer buffer(4096);
  {
    const Pipe pipe("short");
    StreamSource source(pipe.fd(), "stdin", 4096);
    Transfer transfer{0, buffer.bytes()};
    ASSERT_TRUE(source.start_read(transfer));
    EXPECT_EQ(as_text(transfer.bytes.first(6)), std::string_view("short\0", 6));
  }
  const Pipe pipe(std::string(4097, 'x'));
  StreamSource source(pipe.fd(), "stdin", 4096);
  Transfer transfer{0, buffer.bytes()};
  EXPECT_NE(source.start_read(transfer).error().message().find("more than the 4096 bytes"),
            std::string::npos);
}

TEST_F(FileBlocks, SpoolKeepsTheBytesAndTheSize) {
  const std::string text(10'000, 'y');
  const Pipe pipe(text);
  Progress progress("spool", false);
  const auto fd = spool(pipe.fd(), progress);
  ASSERT_TRUE(fd) << fd.error().message();
  std::string read(20'000, '\0');
  read.resize(static_cast<size_t>(::pread(*fd, read.data(), read.size(), 0)));
  EXPECT_EQ(read, text);
  ::close(*fd);
}

}  // namespace
}  // namespace squall
