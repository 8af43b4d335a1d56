#include "engine/pool_lock.h"

#include <unistd.h>

#include <array>

#include "base/log.h"

namespace squall {
namespace {

constexpr uint64_t kHolderBytesMax = 512;

std::string this_process() {
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0) host[0] = '\0';
  return fmt::format("pid {} on host {}\n", ::getpid(), host[0] != '\0' ? host.data() : "unknown");
}

std::string holder(FileSystem& file_system, const std::string& path) {
  auto text = file_system.read_file(path, kHolderBytesMax);
  if (!text || text->empty()) return "an unknown process";
  std::string name(as_text(*text));
  return name.substr(0, name.find('\n'));
}

}  // namespace

Result<PoolLock> PoolLock::acquire(FileSystem& file_system, const std::string& pool_directory,
                                   uint64_t wait_ms) {
  const std::string path = pool_directory + "/LOCK";
  TRY_ASSIGN(const int handle, file_system.open(path, {.write = true, .create = true}));
  PoolLock lock(file_system, handle);
  if (auto done = file_system.lock(handle, wait_ms); !done) {
    if (done.error().kind() != ErrorKind::kBusy)
      return std::unexpected(done.error().wrap(fmt::format("pool {}: lock", pool_directory)));
    return fail(ErrorKind::kBusy,
                "pool {} is in use by {}; use that daemon, or stop it first (waited {} ms)",
                pool_directory, holder(file_system, path), wait_ms);
  }
  // For messages only: a disk that is full must not keep the pool closed. Written before it is cut,
  // since the block is there and a new one may not be had.
  const std::string name = this_process();
  auto written = file_system.write(handle, as_bytes(name), 0);
  if (written) written = file_system.truncate(handle, name.size());
  if (!written)
    LOG_WARN("pool {}: LOCK not written: {}", pool_directory, written.error().message());
  return lock;
}

}  // namespace squall
