#include "testing/disk/memory_disk.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace squall::testing {
namespace {

// Calls piece(block, offset in it, length, position in the range) for every block of a range.
template <class Piece>
void for_each_block(uint64_t offset, uint64_t length, Piece piece) {
  for (uint64_t at = 0; at < length;) {
    const uint64_t block = (offset + at) / MemoryDisk::kBlock;
    const uint64_t within = (offset + at) % MemoryDisk::kBlock;
    const uint64_t count = std::min(length - at, MemoryDisk::kBlock - within);
    piece(block, within, count, at);
    at += count;
  }
}

}  // namespace

MemoryDisk::~MemoryDisk() {
  CHECK(in_flight_ == 0);
}

void MemoryDisk::release() {
  held_ = false;
  for (auto waiter : std::exchange(waiters_, {})) reactor_.post([waiter] { waiter.resume(); });
}

// The frame of every request: checks, delays, then `work`, which takes effect at once.
template <class Work>
Task<Result<void>> MemoryDisk::run(uint64_t offset, uint64_t length, Work work) {
  CHECK(offset <= size_bytes_ && length <= size_bytes_ - offset);
  ++in_flight_;
  if (latency_ns_ > 0) co_await sleep_ns(reactor_, latency_ns_);
  if (random_.chance(suspend_chance_)) co_await yield_to(reactor_);
  while (held_) {
    struct Awaiter {
      MemoryDisk& disk;
      bool await_ready() const noexcept { return false; }
      void await_suspend(std::coroutine_handle<> h) { disk.waiters_.push_back(h); }
      void await_resume() const noexcept {}
    };
    co_await Awaiter{*this};
  }
  --in_flight_;
  if (error_) co_return std::unexpected(*error_);
  work();
  co_return Result<void>{};
}

void MemoryDisk::copy_out(uint64_t offset, Bytes to) const {
  for_each_block(offset, to.size(),
                 [&](uint64_t block, uint64_t within, uint64_t count, uint64_t at) {
                   const auto found = blocks_.find(block);
                   if (found == blocks_.end()) {
                     std::memset(&to[at], 0, count);
                   } else {
                     std::memcpy(&to[at], found->second->data() + within, count);
                   }
                 });
}

std::vector<std::byte> MemoryDisk::content(uint64_t offset, uint64_t length) const {
  std::vector<std::byte> bytes(length);
  copy_out(offset, bytes);
  return bytes;
}

std::vector<DiskExtent> MemoryDisk::extents(uint64_t offset, uint64_t length,
                                            size_t max_extents) const {
  std::vector<DiskExtent> extents;
  for (uint64_t at = 0; at < length;) {
    const uint64_t block = (offset + at) / kBlock;
    const uint64_t count = std::min(length - at, (block + 1) * kBlock - (offset + at));
    const bool hole = !blocks_.contains(block);
    if (!extents.empty() && extents.back().hole == hole) {
      extents.back().length += count;
    } else if (extents.size() < max_extents) {
      extents.push_back({count, hole, hole});
    } else {
      break;
    }
    at += count;
  }
  return extents;
}

void MemoryDisk::clear(uint64_t offset, uint64_t length, bool edges) {
  for_each_block(offset, length, [&](uint64_t block, uint64_t within, uint64_t count, uint64_t) {
    const auto found = blocks_.find(block);
    if (found == blocks_.end()) return;
    if (count == kBlock) {
      blocks_.erase(found);
    } else if (edges) {
      std::memset(found->second->data() + within, 0, count);
    }
  });
}

void MemoryDisk::wrote(bool fua) {
  if (!fua) ++unflushed_;
}

Task<Result<void>> MemoryDisk::read(uint64_t offset, Bytes to) {
  return run(offset, to.size(), [this, offset, to] { copy_out(offset, to); });
}

Task<Result<void>> MemoryDisk::read_sparse(uint64_t offset, Bytes to,
                                           std::vector<DiskExtent>& extents) {
  return run(offset, to.size(), [this, offset, to, &extents] {
    extents = this->extents(offset, to.size(), ~size_t{0});
    uint64_t at = 0;
    for (const DiskExtent& extent : extents) {
      if (!extent.zero) copy_out(offset + at, to.subspan(at, extent.length));
      at += extent.length;
    }
  });
}

Task<Result<void>> MemoryDisk::status(uint64_t offset, uint64_t length, size_t max_extents,
                                      std::vector<DiskExtent>& extents) {
  return run(offset, length, [this, offset, length, max_extents, &extents] {
    extents = this->extents(offset, length, max_extents);
  });
}

Task<Result<void>> MemoryDisk::prefetch(uint64_t offset, uint64_t length) {
  return run(offset, length, [this, length] { prefetched_bytes_ += length; });
}

Task<Result<void>> MemoryDisk::write(uint64_t offset, ConstBytes from, bool fua) {
  return run(offset, from.size(), [this, offset, from, fua] {
    for_each_block(offset, from.size(),
                   [&](uint64_t block, uint64_t within, uint64_t count, uint64_t at) {
                     auto& target = blocks_[block];
                     if (target == nullptr) target = std::make_unique<Block>();
                     std::memcpy(target->data() + within, &from[at], count);
                   });
    wrote(fua);
  });
}

Task<Result<void>> MemoryDisk::zero(uint64_t offset, uint64_t length, bool fua) {
  return run(offset, length, [this, offset, length, fua] {
    clear(offset, length, true);
    wrote(fua);
  });
}

Task<Result<void>> MemoryDisk::trim(uint64_t offset, uint64_t length, bool fua) {
  return run(offset, length, [this, offset, length, fua] {
    clear(offset, length, false);
    wrote(fua);
  });
}

Task<Result<void>> MemoryDisk::flush() {
  const uint64_t covered = unflushed_;
  return run(0, 0, [this, covered] {
    unflushed_ -= std::min(unflushed_, covered);
    ++flushes_;
  });
}

void MemoryDirectory::add(std::string name, std::shared_ptr<MemoryDisk> disk, bool writable,
                          bool shared) {
  disks_[std::move(name)] = Entry{std::move(disk), writable, shared};
}

Task<Result<std::vector<DiskSummary>>> MemoryDirectory::list_disks() {
  std::vector<DiskSummary> summaries;
  summaries.reserve(disks_.size());
  for (const auto& [name, entry] : disks_)
    summaries.push_back(
        {name, entry.writable ? "volume" : "image", entry.disk->size_bytes(), !entry.writable});
  co_return summaries;
}

Task<Result<OpenDisk>> MemoryDirectory::open_disk(std::string name) {
  const auto found = disks_.find(name);
  if (found == disks_.end()) co_return fail(ErrorKind::kNotFound, "{}: no such disk", name);
  const Entry& entry = found->second;
  co_return OpenDisk{entry.disk, entry.writable ? entry.disk : nullptr, entry.shared,
                     entry.writable ? "volume" : "image"};
}

}  // namespace squall::testing
