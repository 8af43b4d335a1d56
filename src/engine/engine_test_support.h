// For tests of the engine on the host's file system: a temporary directory, a real reactor.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "io/posix_file_system.h"
#include "io/run_task.h"
#include "io/uring_reactor.h"

namespace squall {

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = std::filesystem::temp_directory_path() / "squall-engine-XXXXXX";
    CHECK(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline std::unique_ptr<UringReactor> make_reactor() {
  auto reactor = UringReactor::create();
  if (!reactor) {
    std::fprintf(stderr, "%s\n", reactor.error().message().c_str());
    std::abort();
  }
  return std::move(*reactor);
}

// A file system that counts syncs and fails writes or syncs on demand; the rest goes to `inner`.
// Thread-safe, as the catalog's thread uses it too.
class FaultyFileSystem final : public FileSystem {
 public:
  using FileSystem::write;
  explicit FaultyFileSystem(FileSystem& inner) : inner_(inner) {}

  std::atomic<uint64_t> syncs = 0;
  std::atomic<int> failing_syncs = 0;   // so many more syncs fail with EIO
  std::atomic<int> failing_writes = 0;  // so many more writes fail with ENOSPC

  Result<int> open(const std::string& path, OpenOptions o) override { return inner_.open(path, o); }
  void close(int handle) override { inner_.close(handle); }
  Result<size_t> read(int handle, Bytes to, uint64_t offset) override {
    return inner_.read(handle, to, offset);
  }
  Result<void> write(int handle, std::span<const iovec> from, uint64_t offset) override {
    if (take(failing_writes)) return fail_errno(ENOSPC, "write");
    return inner_.write(handle, from, offset);
  }
  Result<void> sync(int handle) override {
    ++syncs;
    if (take(failing_syncs)) return fail_errno(EIO, "sync");
    return inner_.sync(handle);
  }
  Result<void> truncate(int handle, uint64_t size) override {
    return inner_.truncate(handle, size);
  }
  Result<void> allocate(int handle, uint64_t size) override {
    return inner_.allocate(handle, size);
  }
  Result<void> punch(int handle, uint64_t offset, uint64_t length) override {
    return inner_.punch(handle, offset, length);
  }
  Result<FileInfo> info(int handle) override { return inner_.info(handle); }
  Result<void> lock(int handle, uint64_t wait_ms) override { return inner_.lock(handle, wait_ms); }
  Result<Bytes> map(int handle, uint64_t size) override { return inner_.map(handle, size); }
  void unmap(Bytes mapping) override { inner_.unmap(mapping); }
  Result<FileInfo> stat(const std::string& path) override { return inner_.stat(path); }
  Result<void> make_directory(const std::string& path) override {
    return inner_.make_directory(path);
  }
  Result<std::vector<std::string>> list(const std::string& directory) override {
    return inner_.list(directory);
  }
  Result<void> remove(const std::string& path) override { return inner_.remove(path); }
  Result<void> rename(const std::string& from, const std::string& to) override {
    return inner_.rename(from, to);
  }
  Result<void> sync_directory(const std::string& path) override {
    return inner_.sync_directory(path);
  }
  Result<SpaceInfo> space(const std::string& path) override { return inner_.space(path); }

 private:
  static bool take(std::atomic<int>& count) {
    int left = count;
    while (left > 0 && !count.compare_exchange_weak(left, left - 1)) {
    }
    return left > 0;
  }
  FileSystem& inner_;
};

// The value of a result that must be one.
template <class T>
T value_of(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "unexpected error: %s\n", result.error().message().c_str());
    std::abort();
  }
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

// Starts all tasks before it waits for any; returns their results in order.
template <class T>
std::vector<T> run_together(Reactor& reactor, std::vector<Task<T>> tasks) {
  std::vector<std::optional<T>> results(tasks.size());
  size_t left = tasks.size();
  for (size_t i = 0; i < results.size(); ++i)
    spawn(std::move(tasks[i]), [&, i](T result) {
      results[i].emplace(std::move(result));
      --left;
    });
  while (left > 0) CHECK(reactor.run_once());
  std::vector<T> values;
  for (auto& result : results) values.push_back(std::move(*result));
  return values;
}

inline std::vector<std::byte> pattern_bytes(size_t size, uint64_t seed) {
  std::vector<std::byte> bytes(size);
  for (size_t i = 0; i < size; ++i)
    bytes[i] = static_cast<std::byte>((i * 31 + i / 253 + seed * 7) & 0xff);
  return bytes;
}

}  // namespace squall
