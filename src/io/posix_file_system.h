// PosixFileSystem: the host's file systems. Handles are file descriptors, which UringReactor takes.
//
// Thread safety: any thread, any number of calls at once. Stateless; every error names the
// operation and the path, and for positioned I/O the offset.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "io/file_system.h"

namespace squall {

class PosixFileSystem final : public FileSystem {
 public:
  using FileSystem::write;

  Result<int> open(const std::string& path, OpenOptions options) override;
  void close(int handle) override;

  Result<size_t> read(int handle, Bytes to, uint64_t offset) override;
  Result<void> write(int handle, std::span<const iovec> from, uint64_t offset) override;
  Result<void> sync(int handle) override;
  Result<void> truncate(int handle, uint64_t size) override;
  Result<void> allocate(int handle, uint64_t size) override;
  Result<void> punch(int handle, uint64_t offset, uint64_t length) override;
  Result<FileInfo> info(int handle) override;

  Result<void> lock(int handle, uint64_t wait_ms) override;

  Result<Bytes> map(int handle, uint64_t size) override;
  void unmap(Bytes mapping) override;

  Result<FileInfo> stat(const std::string& path) override;
  Result<void> make_directory(const std::string& path) override;
  Result<std::vector<std::string>> list(const std::string& directory) override;
  Result<void> remove(const std::string& path) override;
  Result<void> rename(const std::string& from, const std::string& to) override;
  Result<void> sync_directory(const std::string& path) override;
  Result<SpaceInfo> space(const std::string& path) override;
};

}  // namespace squall
