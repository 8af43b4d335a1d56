#include "io/posix_file_system.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <climits>
#include <memory>
#include <thread>

namespace squall {

namespace {

// Calls `function` until it is not interrupted by a signal; gives its value, -1 with errno set.
template <class Function>
auto uninterrupted(Function function) {
  decltype(function()) result;
  do {
    result = function();
  } while (result < 0 && errno == EINTR);
  return result;
}

// The path behind a handle, for messages; only asked for when something has gone wrong.
std::string name_of(int handle) {
  std::array<char, PATH_MAX> path;
  const std::string link = fmt::format("/proc/self/fd/{}", handle);
  const ssize_t length = ::readlink(link.c_str(), path.data(), path.size());
  if (length <= 0) return fmt::format("handle {}", handle);
  return fmt::format("'{}'", std::string_view(path.data(), static_cast<size_t>(length)));
}

FileInfo to_file_info(const struct stat& status) {
  return {.size = static_cast<uint64_t>(status.st_size),
          .allocated_bytes = static_cast<uint64_t>(status.st_blocks) * 512,
          .is_directory = S_ISDIR(status.st_mode)};
}

// Set after opening, because an open that creates leaves the file behind when it then turns out
// that the file system cannot do direct I/O.
Result<void> make_direct(int handle, const std::string& path) {
  const int flags = ::fcntl(handle, F_GETFL);
  if (flags >= 0 && ::fcntl(handle, F_SETFL, flags | O_DIRECT) == 0) return {};
  if (errno == EINVAL) return {};  // stays buffered
  return fail_errno(errno, "setting direct I/O on '{}'", path);
}

// The part of `from` that follows its first `skip` bytes, as much of it as one call takes.
std::span<const iovec> remaining(std::span<const iovec> from, uint64_t skip,
                                 std::array<iovec, 64>& storage) {
  size_t count = 0;
  for (const iovec& piece : from) {
    if (skip >= piece.iov_len) {
      skip -= piece.iov_len;
      continue;
    }
    storage[count++] = {static_cast<std::byte*>(piece.iov_base) + skip, piece.iov_len - skip};
    skip = 0;
    if (count == storage.size()) break;
  }
  return {storage.data(), count};
}

}  // namespace

Result<int> PosixFileSystem::open(const std::string& path, OpenOptions options) {
  int flags = O_CLOEXEC | (options.write ? O_RDWR : O_RDONLY);
  if (options.create) flags |= O_CREAT;
  if (options.create && options.exclusive) flags |= O_EXCL;
  const int handle = uninterrupted([&] { return ::open(path.c_str(), flags, 0660); });
  if (handle < 0) return fail_errno(errno, "opening '{}'", path);
  if (options.direct) {
    if (auto made = make_direct(handle, path); !made) {
      ::close(handle);
      return std::unexpected(std::move(made).error());
    }
  }
  return handle;
}

void PosixFileSystem::close(int handle) {
  ::close(handle);  // not repeated on EINTR: on Linux the handle is gone even then
}

Result<size_t> PosixFileSystem::read(int handle, Bytes to, uint64_t offset) {
  size_t done = 0;
  while (done < to.size()) {
    const ssize_t count = uninterrupted([&] {
      return ::pread(handle, to.data() + done, to.size() - done, static_cast<off_t>(offset + done));
    });
    if (count == 0) break;
    if (count < 0) {
      // Direct I/O refuses to go on from the unaligned end of a file.
      if (errno == EINVAL && (offset + done) % 512 != 0 && done > 0) break;
      return fail_errno(errno, "reading {} bytes at {} of {}", to.size(), offset, name_of(handle));
    }
    done += static_cast<size_t>(count);
  }
  return done;
}

Result<void> PosixFileSystem::write(int handle, std::span<const iovec> from, uint64_t offset) {
  uint64_t total = 0;
  for (const iovec& piece : from) total += piece.iov_len;
  std::array<iovec, 64> storage;
  for (uint64_t done = 0; done < total;) {
    const auto rest = remaining(from, done, storage);
    const ssize_t count = uninterrupted([&] {
      return ::pwritev(handle, rest.data(), static_cast<int>(rest.size()),
                       static_cast<off_t>(offset + done));
    });
    if (count <= 0)
      return fail_errno(count < 0 ? errno : EIO, "writing {} bytes at {} of {}", total, offset,
                        name_of(handle));
    done += static_cast<uint64_t>(count);
  }
  return {};
}

Result<void> PosixFileSystem::sync(int handle) {
  if (uninterrupted([&] { return ::fdatasync(handle); }) < 0)
    return fail_errno(errno, "syncing {}", name_of(handle));
  return {};
}

Result<void> PosixFileSystem::truncate(int handle, uint64_t size) {
  if (uninterrupted([&] { return ::ftruncate(handle, static_cast<off_t>(size)); }) < 0)
    return fail_errno(errno, "truncating {} to {} bytes", name_of(handle), size);
  return {};
}

// posix_fallocate writes to every block itself where the file system has no fallocate.
Result<void> PosixFileSystem::allocate(int handle, uint64_t size) {
  if (size == 0) return {};
  int os_errno = EINTR;
  while (os_errno == EINTR) os_errno = ::posix_fallocate(handle, 0, static_cast<off_t>(size));
  if (os_errno != 0)
    return fail_errno(os_errno, "allocating {} bytes for {}", size, name_of(handle));
  return {};
}

Result<void> PosixFileSystem::punch(int handle, uint64_t offset, uint64_t length) {
  if (length == 0) return {};
  const int result = uninterrupted([&] {
    return ::fallocate(handle, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                       static_cast<off_t>(offset), static_cast<off_t>(length));
  });
  if (result < 0)
    return fail_errno(errno, "punching a hole of {} bytes at {} into {}", length, offset,
                      name_of(handle));
  return {};
}

Result<FileInfo> PosixFileSystem::info(int handle) {
  struct stat status{};
  if (::fstat(handle, &status) < 0)
    return fail_errno(errno, "reading the status of {}", name_of(handle));
  return to_file_info(status);
}

// flock cannot wait for a bounded time without a signal, hence the polling; the interval grows so
// that a lock about to be released is had soon and one that is not costs nothing.
Result<void> PosixFileSystem::lock(int handle, uint64_t wait_ms) {
  using Clock = std::chrono::steady_clock;
  const auto deadline = Clock::now() + std::chrono::milliseconds(wait_ms);
  std::chrono::milliseconds pause(1);
  while (uninterrupted([&] { return ::flock(handle, LOCK_EX | LOCK_NB); }) < 0) {
    if (errno != EWOULDBLOCK) return fail_errno(errno, "locking {}", name_of(handle));
    const auto now = Clock::now();
    if (now >= deadline)
      return fail(ErrorKind::kBusy, "locking {}: somebody else holds it (waited {} ms)",
                  name_of(handle), wait_ms);
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - now);
    std::this_thread::sleep_for(std::min(pause, left));
    pause = std::min(pause * 2, std::chrono::milliseconds(50));
  }
  return {};
}

Result<Bytes> PosixFileSystem::map(int handle, uint64_t size) {
  TRY_ASSIGN(const FileInfo status, info(handle));
  if (size == 0 || status.size < size)  // touching what lies beyond the end would be fatal
    return fail(ErrorKind::kInvalid, "mapping {} bytes of {}, which has {}", size, name_of(handle),
                status.size);
  void* address = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, handle, 0);
  if (address == MAP_FAILED)
    return fail_errno(errno, "mapping {} bytes of {}", size, name_of(handle));
  return Bytes(static_cast<std::byte*>(address), size);
}

void PosixFileSystem::unmap(Bytes mapping) {
  if (!mapping.empty()) ::munmap(mapping.data(), mapping.size());
}

Result<FileInfo> PosixFileSystem::stat(const std::string& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) < 0)
    return fail_errno(errno, "reading the status of '{}'", path);
  return to_file_info(status);
}

Result<void> PosixFileSystem::make_directory(const std::string& path) {
  if (::mkdir(path.c_str(), 0770) == 0) return {};
  if (errno == ENOENT && parent_directory(path) != path) {
    TRY(make_directory(parent_directory(path)));
    if (::mkdir(path.c_str(), 0770) == 0) return {};
  }
  const int os_errno = errno;
  if (os_errno == EEXIST) {
    const auto existing = stat(path);
    if (existing && existing->is_directory) return {};
  }
  return fail_errno(os_errno, "making directory '{}'", path);
}

Result<std::vector<std::string>> PosixFileSystem::list(const std::string& directory) {
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(::opendir(directory.c_str()), ::closedir);
  if (stream == nullptr) return fail_errno(errno, "listing '{}'", directory);
  std::vector<std::string> names;
  while (true) {
    errno = 0;
    const dirent* entry = ::readdir(stream.get());
    if (entry == nullptr && errno != 0) return fail_errno(errno, "listing '{}'", directory);
    if (entry == nullptr) break;
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

Result<void> PosixFileSystem::remove(const std::string& path) {
  if (::unlink(path.c_str()) < 0) return fail_errno(errno, "removing '{}'", path);
  return {};
}

Result<void> PosixFileSystem::rename(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) < 0)
    return fail_errno(errno, "renaming '{}' to '{}'", from, to);
  return {};
}

Result<void> PosixFileSystem::sync_directory(const std::string& path) {
  const int handle =
      uninterrupted([&] { return ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); });
  if (handle < 0) return fail_errno(errno, "opening directory '{}' to sync it", path);
  const int result = uninterrupted([&] { return ::fsync(handle); });
  const int os_errno = errno;
  ::close(handle);
  if (result < 0) return fail_errno(os_errno, "syncing directory '{}'", path);
  return {};
}

Result<SpaceInfo> PosixFileSystem::space(const std::string& path) {
  struct statvfs status{};
  if (uninterrupted([&] { return ::statvfs(path.c_str(), &status); }) < 0)
    return fail_errno(errno, "reading the free space of '{}'", path);
  return SpaceInfo{.total_bytes = status.f_blocks * status.f_frsize,
                   .available_bytes = status.f_bavail * status.f_frsize};
}

}  // namespace squall
