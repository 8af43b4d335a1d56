#include "cli/file_blocks.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>

#include "base/buffer.h"
#include "cli/interrupt.h"
#include "cli/progress.h"

namespace squall {

namespace {

constexpr uint64_t kSectorBytes = 512;
// Zero runs are found at this granularity: the usual block of a file system.
constexpr uint64_t kHoleBytes = 4096;

// Reads until `to` is full or the file ends; returns the bytes read.
Result<size_t> read_fully(int fd, Bytes to, uint64_t offset, const std::string& name) {
  size_t got = 0;
  while (got < to.size()) {
    const ssize_t n =
        ::pread(fd, to.data() + got, to.size() - got, static_cast<off_t>(offset + got));
    if (n == 0) break;
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(errno, "reading {} at offset {}", name, offset + got);
    got += static_cast<size_t>(n);
  }
  return got;
}

// The same from a pipe. Ctrl-C ends it.
Result<size_t> read_stream(int fd, Bytes to, const std::string& name) {
  size_t got = 0;
  while (got < to.size()) {
    const ssize_t n = ::read(fd, to.data() + got, to.size() - got);
    TRY(check_interrupt());
    if (n == 0) break;
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(errno, "reading {}", name);
    got += static_cast<size_t>(n);
  }
  return got;
}

Result<void> write_fully(int fd, ConstBytes from, uint64_t offset, const std::string& name) {
  while (!from.empty()) {
    const ssize_t n = ::pwrite(fd, from.data(), from.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno(errno, "writing {} at offset {}", name, offset);
    from = from.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return {};
}

// Writes the runs of `from` that are not zero; the file reads as zeros elsewhere already.
Result<void> write_sparse(int fd, ConstBytes from, uint64_t offset, const std::string& name) {
  size_t at = 0;
  const auto block_is_zero = [&](size_t i) {
    return is_zero(from.subspan(i, std::min<size_t>(kHoleBytes, from.size() - i)));
  };
  while (at < from.size()) {
    while (at < from.size() && block_is_zero(at)) at += kHoleBytes;
    const size_t begin = at;
    while (at < from.size() && !block_is_zero(at)) at += kHoleBytes;
    if (begin >= from.size()) break;
    const size_t end = std::min(at, from.size());
    TRY(write_fully(fd, from.subspan(begin, end - begin), offset + begin, name));
  }
  return {};
}

}  // namespace

FileSource::FileSource(int fd, std::string name, uint64_t file_bytes)
    : fd_(fd),
      name_(std::move(name)),
      file_bytes_(file_bytes),
      size_bytes_(round_up(file_bytes, kSectorBytes)) {}

FileSource::~FileSource() {
  ::close(fd_);
}

Result<std::unique_ptr<FileSource>> FileSource::open(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return fail_errno(errno, "cannot open {}", path);
  return from_fd(fd, path);
}

Result<std::unique_ptr<FileSource>> FileSource::from_fd(int fd, std::string name) {
  struct stat info{};
  const off_t end = ::fstat(fd, &info) == 0 ? ::lseek(fd, 0, SEEK_END) : -1;
  std::unique_ptr<FileSource> source(
      new FileSource(fd, std::move(name), end < 0 ? 0 : static_cast<uint64_t>(end)));
  if (S_ISDIR(info.st_mode)) {
    return fail(ErrorKind::kInvalid, "{} is a directory, not an image", source->name_);
  }
  if (end < 0 || !(S_ISREG(info.st_mode) || S_ISBLK(info.st_mode))) {
    return fail(ErrorKind::kInvalid,
                "{} is neither a file nor a block device; pipe it in and name it -", source->name_);
  }
  if (end == 0) return fail(ErrorKind::kInvalid, "{} is empty", source->name_);
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
  return source;
}

Result<std::vector<DataRun>> FileSource::data_runs() {
  std::vector<DataRun> runs;
  uint64_t at = 0;
  while (at < file_bytes_) {
    const off_t data = ::lseek(fd_, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // a hole up to the end
    if (data < 0) {
      // Block devices and some file systems cannot tell.
      runs.push_back({at, file_bytes_ - at});
      break;
    }
    const off_t hole = ::lseek(fd_, data, SEEK_HOLE);
    if (hole < 0) return fail_errno(errno, "looking for holes in {}", name_);
    runs.push_back({static_cast<uint64_t>(data), static_cast<uint64_t>(hole - data)});
    at = static_cast<uint64_t>(hole);
  }
  return runs;
}

Result<void> FileSource::start_read(Transfer& transfer) {
  TRY_ASSIGN(const size_t got, read_fully(fd_, transfer.bytes, transfer.offset, name_));
  std::fill(transfer.bytes.begin() + static_cast<ptrdiff_t>(got), transfer.bytes.end(),
            std::byte{0});
  if (transfer.offset + got < std::min(transfer.offset + transfer.bytes.size(), file_bytes_)) {
    return fail(ErrorKind::kIo, "{} became shorter while it was read", name_);
  }
  transfer.done = true;
  return {};
}

Result<std::vector<DataRun>> StreamSource::data_runs() {
  return std::vector<DataRun>{{0, size_bytes_}};
}

Result<void> StreamSource::start_read(Transfer& transfer) {
  CHECK(transfer.offset == position_);
  TRY_ASSIGN(const size_t got, read_stream(fd_, transfer.bytes, name_));
  std::fill(transfer.bytes.begin() + static_cast<ptrdiff_t>(got), transfer.bytes.end(),
            std::byte{0});
  position_ += transfer.bytes.size();
  if (position_ == size_bytes_) {
    std::byte more{};
    TRY_ASSIGN(const size_t extra, read_stream(fd_, Bytes(&more, 1), name_));
    if (extra > 0) {
      return fail(ErrorKind::kInvalid, "{} holds more than the {} bytes given with --size", name_,
                  size_bytes_);
    }
  }
  transfer.done = true;
  return {};
}

Result<std::string> temporary_beside(const std::string& path, bool overwrite) {
  struct stat info{};
  if (::stat(path.c_str(), &info) == 0) {
    if (!S_ISREG(info.st_mode)) {
      return fail(ErrorKind::kInvalid, "{} is not a regular file; export to a file", path);
    }
    if (!overwrite) {
      return fail(ErrorKind::kExists, "{} exists; remove it or use --force", path);
    }
  }
  return fmt::format("{}.{}.partial", path, ::getpid());
}

Result<void> move_into_place(const std::string& temporary, const std::string& path,
                             bool overwrite) {
  const unsigned flags = overwrite ? 0 : RENAME_NOREPLACE;
  int result = ::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, path.c_str(), flags);
  if (result != 0 && errno == EINVAL) {  // a file system without RENAME_NOREPLACE
    result = ::rename(temporary.c_str(), path.c_str());
  }
  if (result != 0) return fail_errno(errno, "cannot rename {} to {}", temporary, path);
  return {};
}

FileSink::FileSink(std::string path, std::string temporary, int fd, bool overwrite)
    : path_(std::move(path)), temporary_(std::move(temporary)), fd_(fd), overwrite_(overwrite) {}

Result<std::unique_ptr<FileSink>> FileSink::create(const std::string& path, uint64_t size_bytes,
                                                   bool overwrite) {
  TRY_ASSIGN(std::string temporary, temporary_beside(path, overwrite));
  const int fd = ::open(temporary.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) return fail_errno(errno, "cannot create {}", temporary);
  std::unique_ptr<FileSink> sink(new FileSink(path, std::move(temporary), fd, overwrite));
  if (::ftruncate(fd, static_cast<off_t>(size_bytes)) != 0) {
    return fail_errno(errno, "cannot give {} its size of {} bytes", path, size_bytes);
  }
  return sink;
}

FileSink::~FileSink() {
  ::close(fd_);
  if (!committed_) ::unlink(temporary_.c_str());
}

Result<void> FileSink::start_write(Transfer& transfer) {
  TRY(write_sparse(fd_, transfer.bytes, transfer.offset, path_));
  transfer.done = true;
  return {};
}

Result<void> FileSink::flush() {
  if (::fdatasync(fd_) != 0) return fail_errno(errno, "writing {} to disk", path_);
  return {};
}

Result<void> FileSink::commit() {
  TRY(move_into_place(temporary_, path_, overwrite_));
  committed_ = true;
  return {};
}

Result<int> spool(int fd, Progress& progress) {
  const char* set = std::getenv("TMPDIR");
  const std::string directory = set != nullptr && *set != '\0' ? set : "/var/tmp";
  const int file = ::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (file < 0) {
    return fail_errno(errno, "cannot make a temporary file in {}; set TMPDIR or give --size",
                      directory);
  }
  const auto copy = [&]() -> Result<void> {
    AlignedBuffer buffer(kMiB);
    for (uint64_t at = 0;;) {
      TRY_ASSIGN(const size_t got, read_stream(fd, buffer.bytes(), "stdin"));
      TRY(write_sparse(file, buffer.bytes().first(got), at, directory));
      at += got;
      progress.add(got);
      if (got == buffer.bytes().size()) continue;
      if (::ftruncate(file, static_cast<off_t>(at)) != 0) {
        return fail_errno(errno, "spooling stdin in {}", directory);
      }
      return {};
    }
  };
  if (Result<void> copied = copy(); !copied) {
    ::close(file);
    return std::unexpected(copied.error());
  }
  return file;
}

}  // namespace squall
