// MemoryDisk: a complete disk in memory, sparse in 4 KiB blocks, and MemoryDirectory: disks by
// name. For tests and measurements of the protocol servers: it can suspend at random, take time,
// fail on demand, and counts what is not yet durable. One reactor's thread.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/random.h"
#include "io/reactor.h"
#include "volume/disk.h"

namespace squall::testing {

class MemoryDisk final : public WritableDisk {
 public:
  static constexpr uint64_t kBlock = 4096;

  MemoryDisk(Reactor& reactor, uint64_t size_bytes, uint64_t seed = 1)
      : reactor_(reactor), size_bytes_(size_bytes), random_(seed) {}
  ~MemoryDisk() override;

  // Each request goes through the reactor's queue with this probability, and takes so long.
  void set_suspend_chance(double chance) { suspend_chance_ = chance; }
  void set_latency_ns(uint64_t latency_ns) { latency_ns_ = latency_ns; }
  // Every request fails so until reset; a failing request changes nothing.
  void set_error(std::optional<Error> error) { error_ = std::move(error); }
  void set_size(uint64_t size_bytes) { size_bytes_ = size_bytes; }
  void set_write_cache(bool has_write_cache) { has_write_cache_ = has_write_cache; }
  // While held, requests wait at the end of their work, before it takes effect.
  void hold() { held_ = true; }
  void release();

  uint64_t in_flight() const { return in_flight_; }
  // Acknowledged writes since the last flush began, those with FUA excepted.
  uint64_t unflushed_writes() const { return unflushed_; }
  uint64_t flushes() const { return flushes_; }
  uint64_t prefetched_bytes() const { return prefetched_bytes_; }
  // Without any of the above, for tests to compare with.
  std::vector<std::byte> content(uint64_t offset, uint64_t length) const;

  uint64_t size_bytes() const override { return size_bytes_; }
  Task<Result<void>> read(uint64_t offset, Bytes to) override;
  Task<Result<void>> read_sparse(uint64_t offset, Bytes to,
                                 std::vector<DiskExtent>& extents) override;
  Task<Result<void>> status(uint64_t offset, uint64_t length, size_t max_extents,
                            std::vector<DiskExtent>& extents) override;
  Task<Result<void>> prefetch(uint64_t offset, uint64_t length) override;
  Task<Result<void>> write(uint64_t offset, ConstBytes from, bool fua) override;
  Task<Result<void>> zero(uint64_t offset, uint64_t length, bool fua) override;
  Task<Result<void>> trim(uint64_t offset, uint64_t length, bool fua) override;
  Task<Result<void>> flush() override;
  bool has_write_cache() const override { return has_write_cache_; }

 private:
  using Block = std::array<std::byte, kBlock>;
  template <class Work>
  Task<Result<void>> run(uint64_t offset, uint64_t length, Work work);
  void copy_out(uint64_t offset, Bytes to) const;
  void clear(uint64_t offset, uint64_t length, bool edges);
  std::vector<DiskExtent> extents(uint64_t offset, uint64_t length, size_t max_extents) const;
  void wrote(bool fua);

  Reactor& reactor_;
  uint64_t size_bytes_;
  Random random_;
  std::unordered_map<uint64_t, std::unique_ptr<Block>> blocks_;
  double suspend_chance_ = 0;
  uint64_t latency_ns_ = 0;
  std::optional<Error> error_;
  bool has_write_cache_ = true;
  bool held_ = false;
  std::vector<std::coroutine_handle<>> waiters_;
  uint64_t in_flight_ = 0;
  uint64_t unflushed_ = 0;
  uint64_t flushes_ = 0;
  uint64_t prefetched_bytes_ = 0;
};

class MemoryDirectory final : public DiskDirectory {
 public:
  // A disk without `writable` is served read-only, as an image is.
  void add(std::string name, std::shared_ptr<MemoryDisk> disk, bool writable = true,
           bool shared = false);
  void remove(const std::string& name) { disks_.erase(name); }

  Task<Result<std::vector<DiskSummary>>> list_disks() override;
  Task<Result<OpenDisk>> open_disk(std::string name) override;

 private:
  struct Entry {
    std::shared_ptr<MemoryDisk> disk;
    bool writable;
    bool shared;
  };
  std::map<std::string, Entry> disks_;
};

}  // namespace squall::testing
