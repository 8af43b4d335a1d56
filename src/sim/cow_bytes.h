// CowBytes: the content of one simulated file: a sparse byte array in 4 KiB pages that copies share
// until one of them writes, so that copying a whole simulated disk costs a few pointers per MiB.
// Copies share reference counts that are checked before writing: one thread for all of them.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/bytes.h"

namespace squall::sim {

class CowBytes {
 public:
  static constexpr uint64_t kPageSize = 4096;

  uint64_t size() const { return size_; }
  // Pages that are not holes, in bytes.
  uint64_t allocated_bytes() const { return allocated_pages_ * kPageSize; }
  // How many bytes a write to [offset, offset + length) would newly allocate.
  uint64_t missing_bytes(uint64_t offset, uint64_t length) const;

  // Fills `to`; what lies beyond the end reads as zeros.
  void read(uint64_t offset, Bytes to) const;
  // These two grow the array when they reach beyond its end.
  void write(uint64_t offset, ConstBytes from);
  void write_zeros(uint64_t offset, uint64_t length);

  void resize(uint64_t size);
  // Zeros [offset, offset + length) and makes the whole pages in it holes; the size stays.
  void punch(uint64_t offset, uint64_t length);
  // Allocates every hole in [0, size) and grows to `size` when shorter.
  void allocate(uint64_t size);

 private:
  struct Page {
    std::array<std::byte, kPageSize> bytes{};
  };
  using PageRef = std::shared_ptr<Page>;
  static constexpr uint64_t kPagesPerNode = 64;
  struct Node {
    std::array<PageRef, kPagesPerNode> pages;
  };

  // A page of zeros that all arrays share.
  static const PageRef& zero_page();
  const Page* find(uint64_t page) const;
  // The slot of a page, in a node that is this array's own.
  PageRef& slot(uint64_t page);
  void set(uint64_t page, PageRef content);
  std::byte* writable(uint64_t page);

  uint64_t size_ = 0;
  uint64_t allocated_pages_ = 0;
  std::vector<std::shared_ptr<Node>> nodes_;
};

}  // namespace squall::sim
