// Local files as ends of a copy. Transfers are done when start_read and start_write return.
#pragma once

#include <memory>
#include <string>

#include "cli/block_io.h"

namespace squall {

class Progress;

// A raw image: a regular file (holes skipped) or a block device. Owns the descriptor. A size that
// is no multiple of 512 is rounded up; the rest reads as zeros.
class FileSource : public BlockSource {
 public:
  static Result<std::unique_ptr<FileSource>> open(const std::string& path);
  // Takes `fd`, open for reading; `name` is for errors.
  static Result<std::unique_ptr<FileSource>> from_fd(int fd, std::string name);
  ~FileSource() override;

  uint64_t size_bytes() const override { return size_bytes_; }
  Result<std::vector<DataRun>> data_runs() override;
  Result<void> start_read(Transfer& transfer) override;
  std::string name() const override { return name_; }
  PollInterest poll_interest() override { return {}; }
  Result<void> on_poll(short) override { return {}; }
  void abandon() override {}

 private:
  FileSource(int fd, std::string name, uint64_t file_bytes);

  const int fd_;
  const std::string name_;
  const uint64_t file_bytes_;
  const uint64_t size_bytes_;
};

// A pipe of known size, read once from front to back: reads must come in order. Shorter input is
// filled up with zeros, longer input is an error.
class StreamSource : public BlockSource {
 public:
  StreamSource(int fd, std::string name, uint64_t size_bytes)
      : fd_(fd), name_(std::move(name)), size_bytes_(size_bytes) {}
  ~StreamSource() override = default;

  uint64_t size_bytes() const override { return size_bytes_; }
  Result<std::vector<DataRun>> data_runs() override;
  Result<void> start_read(Transfer& transfer) override;
  std::string name() const override { return name_; }
  PollInterest poll_interest() override { return {}; }
  Result<void> on_poll(short) override { return {}; }
  void abandon() override {}

 private:
  const int fd_;  // not owned
  const std::string name_;
  const uint64_t size_bytes_;
  uint64_t position_ = 0;
};

// A raw image being written, sparse: zeros become holes. Takes its place under the final name only
// at commit(); without it the destructor removes it.
class FileSink : public BlockSink {
 public:
  // kExists when `path` is there and `overwrite` is not set.
  static Result<std::unique_ptr<FileSink>> create(const std::string& path, uint64_t size_bytes,
                                                  bool overwrite);
  ~FileSink() override;

  Result<void> start_write(Transfer& transfer) override;
  Result<void> flush() override;
  Result<void> commit();
  std::string name() const override { return path_; }
  PollInterest poll_interest() override { return {}; }
  Result<void> on_poll(short) override { return {}; }
  void abandon() override {}

 private:
  FileSink(std::string path, std::string temporary, int fd, bool overwrite);

  const std::string path_;
  const std::string temporary_;
  const int fd_;
  const bool overwrite_;
  bool committed_ = false;
};

// Copies everything from a pipe into an anonymous temporary file; returns its descriptor.
Result<int> spool(int fd, Progress& progress);

// For writers of a file that appears whole or not at all: a fresh name beside `path`, and the
// rename at the end.
Result<std::string> temporary_beside(const std::string& path, bool overwrite);
Result<void> move_into_place(const std::string& temporary, const std::string& path, bool overwrite);

}  // namespace squall
