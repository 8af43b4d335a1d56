// PoolLock: at most one process uses a `file:` pool: an exclusive lock on DIR/LOCK, held until the
// object goes. The file says who holds it. Movable; any thread.
#pragma once

#include <string>
#include <utility>

#include "base/error.h"
#include "io/file_system.h"

namespace squall {

class PoolLock {
 public:
  // kBusy, naming the holder, when it is still held after `wait_ms`: a killed daemon keeps the lock
  // until its last I/O has finished.
  static Result<PoolLock> acquire(FileSystem& file_system, const std::string& pool_directory,
                                  uint64_t wait_ms);

  PoolLock() = default;
  PoolLock(PoolLock&& other) noexcept
      : file_system_(other.file_system_), handle_(std::exchange(other.handle_, -1)) {}
  PoolLock& operator=(PoolLock&& other) noexcept {
    std::swap(file_system_, other.file_system_);
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~PoolLock() {
    if (handle_ >= 0) file_system_->close(handle_);
  }

 private:
  PoolLock(FileSystem& file_system, int handle) : file_system_(&file_system), handle_(handle) {}

  FileSystem* file_system_ = nullptr;
  int handle_ = -1;
};

}  // namespace squall
