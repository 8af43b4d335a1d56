// SimFileSystem: a SimDisk as a FileSystem. Calls take effect at once, in no virtual time, and
// count as state-changing operations. Made by SimReactor, whose submit() knows the handles.
//
// Handle numbers are never used twice, so whatever is done to a closed handle is -EBADF. A handle
// opened `direct` insists on 4 KiB units: -EINVAL otherwise. lock() never waits, since nobody else
// can run meanwhile. A mapping is a buffer whose differences from the file are taken in before
// every operation on the file, and by a kill or a power cut.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "io/file_system.h"
#include "sim/disk_core.h"
#include "sim/sim_disk.h"
#include "sim/trace.h"

namespace squall::sim {

// What the handles of one reactor stand for, over all of its file systems.
struct FileTable {
  int last_handle = 99;
  std::map<int, OpenFileRef> files;

  OpenFileRef find(int handle) const {
    const auto found = files.find(handle);
    return found == files.end() ? nullptr : found->second;
  }
};

// -EINVAL when a direct handle is used with anything but 4 KiB units.
int check_direct(const OpenFile& file, std::span<const iovec> iov, uint64_t offset);

class SimFileSystem final : public FileSystem {
 public:
  SimFileSystem(SimDisk& disk, FileTable& table, Trace& trace);
  ~SimFileSystem() override;

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

 private:
  struct OwnedMapping {
    AlignedBuffer memory;
    Mapping mapping;
  };

  // The open file of a handle, or EBADF with the operation's name as context.
  Result<OpenFileRef> find(int handle, const char* operation) const;
  // Turns a core's answer into a Result and notes it in the trace.
  Result<void> answer(int64_t result, const char* operation, const std::string& path,
                      uint64_t offset = 0);

  std::shared_ptr<DiskCore> core_;
  FileTable& table_;
  Trace& trace_;
  std::vector<std::unique_ptr<OwnedMapping>> mappings_;
};

}  // namespace squall::sim
