#include "sim/cow_bytes.h"

#include <algorithm>
#include <cstring>

namespace squall::sim {

namespace {
// Calls visit(page, begin within page, position within range, length) for every page of a range.
template <class Visit>
void for_each_page(uint64_t offset, uint64_t length, Visit visit) {
  for (uint64_t done = 0; done < length;) {
    const uint64_t begin = (offset + done) % CowBytes::kPageSize;
    const uint64_t part = std::min(length - done, CowBytes::kPageSize - begin);
    visit((offset + done) / CowBytes::kPageSize, begin, done, part);
    done += part;
  }
}
}  // namespace

const CowBytes::PageRef& CowBytes::zero_page() {
  static const PageRef page = std::make_shared<Page>();
  return page;
}

const CowBytes::Page* CowBytes::find(uint64_t page) const {
  const uint64_t node = page / kPagesPerNode;
  if (node >= nodes_.size() || nodes_[node] == nullptr) return nullptr;
  return nodes_[node]->pages[page % kPagesPerNode].get();
}

CowBytes::PageRef& CowBytes::slot(uint64_t page) {
  const uint64_t index = page / kPagesPerNode;
  if (index >= nodes_.size()) nodes_.resize(index + 1);
  auto& node = nodes_[index];
  if (node == nullptr) {
    node = std::make_shared<Node>();
  } else if (node.use_count() > 1) {
    node = std::make_shared<Node>(*node);
  }
  return node->pages[page % kPagesPerNode];
}

void CowBytes::set(uint64_t page, PageRef content) {
  if (content == nullptr && find(page) == nullptr) return;
  PageRef& here = slot(page);
  allocated_pages_ += (content != nullptr ? 1 : 0);
  allocated_pages_ -= (here != nullptr ? 1 : 0);
  here = std::move(content);
}

std::byte* CowBytes::writable(uint64_t page) {
  PageRef& here = slot(page);
  if (here == nullptr) {
    here = std::make_shared<Page>();
    ++allocated_pages_;
  } else if (here.use_count() > 1) {
    here = std::make_shared<Page>(*here);
  }
  return here->bytes.data();
}

uint64_t CowBytes::missing_bytes(uint64_t offset, uint64_t length) const {
  uint64_t missing = 0;
  for_each_page(offset, length, [&](uint64_t page, uint64_t, uint64_t, uint64_t) {
    if (find(page) == nullptr) missing += kPageSize;
  });
  return missing;
}

void CowBytes::read(uint64_t offset, Bytes to) const {
  for_each_page(offset, to.size(), [&](uint64_t page, uint64_t begin, uint64_t at, uint64_t part) {
    const Page* content = find(page);
    if (content != nullptr) {
      std::memcpy(to.data() + at, content->bytes.data() + begin, part);
    } else {
      std::memset(to.data() + at, 0, part);
    }
  });
}

void CowBytes::write(uint64_t offset, ConstBytes from) {
  for_each_page(offset, from.size(),
                [&](uint64_t page, uint64_t begin, uint64_t at, uint64_t part) {
                  std::memcpy(writable(page) + begin, from.data() + at, part);
                });
  if (!from.empty()) size_ = std::max(size_, offset + from.size());
}

void CowBytes::write_zeros(uint64_t offset, uint64_t length) {
  for_each_page(offset, length, [&](uint64_t page, uint64_t begin, uint64_t, uint64_t part) {
    if (part == kPageSize || find(page) == nullptr) {
      set(page, zero_page());
    } else {
      std::memset(writable(page) + begin, 0, part);
    }
  });
  if (length > 0) size_ = std::max(size_, offset + length);
}

void CowBytes::resize(uint64_t size) {
  if (size < size_) punch(size, round_up(size_, kPageSize) - size);
  size_ = size;
  const uint64_t nodes = round_up(size_, kPagesPerNode * kPageSize) / (kPagesPerNode * kPageSize);
  if (nodes_.size() > nodes) nodes_.resize(nodes);
}

void CowBytes::punch(uint64_t offset, uint64_t length) {
  const uint64_t end = std::min(offset + length, nodes_.size() * kPagesPerNode * kPageSize);
  if (offset >= end) return;
  for_each_page(offset, end - offset, [&](uint64_t page, uint64_t begin, uint64_t, uint64_t part) {
    if (part == kPageSize) {
      set(page, nullptr);
    } else if (find(page) != nullptr) {
      std::memset(writable(page) + begin, 0, part);
    }
  });
}

void CowBytes::allocate(uint64_t size) {
  for_each_page(0, size, [&](uint64_t page, uint64_t, uint64_t, uint64_t) {
    if (find(page) == nullptr) set(page, zero_page());
  });
  size_ = std::max(size_, size);
}

}  // namespace squall::sim
