// Layout, little-endian. Header, 24 bytes:
//    0  u32  magic "SQIX"
//    4  u8   major version
//    5  u8   minor version
//    6  u8   oldest minor version whose readers understand this page
//    7  u8   level
//    8  u16  count of entries
//   10  6    zero
//   16  u64  first block covered
// Leaf: `count` extents of 12 bytes {u16 first block, u8 count, u8 chunk block, u64 chunk address}.
// Inner page: a bitmap of 512 bits (64 bytes), then an 8-byte address for each bit set, in order: a
// sparse page is short, and a child is found by counting bits, without decoding.
// A newer minor version may append bytes behind the entries.
#include "format/index_page.h"

#include <bit>

namespace squall {
namespace {

constexpr uint32_t kMagic = 0x58495153;  // "SQIX"
constexpr uint8_t kMajor = 1;
constexpr uint8_t kMinor = 0;
constexpr uint8_t kOldestMinor = 0;

constexpr size_t kMajorAt = 4, kMinorAt = 5, kOldestMinorAt = 6, kLevelAt = 7, kCountAt = 8;
constexpr size_t kZeroAt = 10, kZeroBytes = 6, kFirstBlockAt = 16, kHeaderBytes = 24;
constexpr size_t kExtentBytes = 12, kBitmapBytes = kPageFanout / 8, kChildBytes = 8;
constexpr unsigned kBitmapWords = kPageFanout / 64;
static_assert(kZeroAt + kZeroBytes == kFirstBlockAt && kFirstBlockAt + 8 == kHeaderBytes);
static_assert(kExtentBytes == 2 + 1 + 1 + sizeof(Address) && kChildBytes == sizeof(Address));
static_assert(kHeaderBytes + kLeafBlocks * kExtentBytes == 6168, "the largest leaf");
static_assert(kHeaderBytes + kBitmapBytes + kPageFanout * kChildBytes == 4184, "largest inner");

bool is_record(Address address) {
  return !address.is_hole() && address.sectors() > 0;
}

bool is_valid(const PageExtent& extent) {
  return extent.count > 0 && extent.first_block + extent.count <= kLeafBlocks &&
         extent.chunk_block + extent.count <= kChunkBlocksMax && is_record(extent.chunk);
}

bool is_valid_place(unsigned level, uint64_t first_block) {
  return level <= kPageLevelMax && first_block % page_span_blocks(level) == 0 &&
         first_block < page_span_blocks(kPageLevelMax);
}

PageExtent load_extent(const std::byte* from) {
  PageExtent extent;
  extent.first_block = load_le<uint16_t>(from);
  extent.count = load_le<uint8_t>(from + 2);
  extent.chunk_block = load_le<uint8_t>(from + 3);
  extent.chunk = Address::from_raw(load_le<uint64_t>(from + 4));
  return extent;
}

void store_extent(std::byte* to, const PageExtent& extent) {
  store_le<uint16_t>(to, extent.first_block);
  store_le<uint8_t>(to + 2, static_cast<uint8_t>(extent.count));
  store_le<uint8_t>(to + 3, static_cast<uint8_t>(extent.chunk_block));
  store_le<uint64_t>(to + 4, extent.chunk.raw());
}

size_t page_bytes(unsigned level, size_t count) {
  return kHeaderBytes + (level == 0 ? count * kExtentBytes : kBitmapBytes + count * kChildBytes);
}

std::vector<std::byte> start_page(unsigned level, uint64_t first_block, size_t count) {
  CHECK(is_valid_place(level, first_block) && count > 0 && count <= kPageFanout);
  std::vector<std::byte> bytes(page_bytes(level, count));
  store_le<uint32_t>(bytes.data(), kMagic);
  store_le<uint8_t>(&bytes[kMajorAt], kMajor);
  store_le<uint8_t>(&bytes[kMinorAt], kMinor);
  store_le<uint8_t>(&bytes[kOldestMinorAt], kOldestMinor);
  store_le<uint8_t>(&bytes[kLevelAt], static_cast<uint8_t>(level));
  store_le<uint16_t>(&bytes[kCountAt], static_cast<uint16_t>(count));
  store_le<uint64_t>(&bytes[kFirstBlockAt], first_block);
  return bytes;
}

Result<void> check_version(ConstBytes bytes) {
  if (bytes.size() < kHeaderBytes)
    return fail(ErrorKind::kCorrupt, "index page: {} bytes are too few for a header", bytes.size());
  if (load_le<uint32_t>(bytes.data()) != kMagic)
    return fail(ErrorKind::kCorrupt, "index page: wrong magic number {:#x}",
                load_le<uint32_t>(bytes.data()));
  const auto major = load_le<uint8_t>(&bytes[kMajorAt]);
  const auto oldest = load_le<uint8_t>(&bytes[kOldestMinorAt]);
  if (major != kMajor || oldest > kMinor)
    return fail(ErrorKind::kUnsupported,
                "index page: version {}.{} is not readable by this build ({}.{}); use a newer one",
                major, oldest, kMajor, kMinor);
  return {};
}

}  // namespace

std::vector<std::byte> encode_leaf_page(const LeafPage& page) {
  auto bytes = start_page(0, page.first_block, page.extents.size());
  std::byte* to = bytes.data() + kHeaderBytes;
  unsigned end = 0;
  for (const PageExtent& extent : page.extents) {
    CHECK(is_valid(extent) && extent.first_block >= end);
    end = extent.first_block + extent.count;
    store_extent(to, extent);
    to += kExtentBytes;
  }
  return bytes;
}

std::vector<std::byte> encode_inner_page(const InnerPage& page) {
  CHECK(page.level > 0);
  size_t count = 0;
  for (Address child : page.children) count += !child.is_hole();
  auto bytes = start_page(page.level, page.first_block, count);
  std::byte* bitmap = bytes.data() + kHeaderBytes;
  std::byte* to = bitmap + kBitmapBytes;
  for (unsigned slot = 0; slot < kPageFanout; ++slot) {
    if (page.children[slot].is_hole()) continue;
    CHECK(is_record(page.children[slot]));
    bitmap[slot / 8] |= std::byte{1} << (slot % 8);
    store_le<uint64_t>(to, page.children[slot].raw());
    to += kChildBytes;
  }
  return bytes;
}

Result<PageView> PageView::open(ConstBytes bytes) {
  TRY(check_version(bytes));
  PageView view;
  view.level_ = load_le<uint8_t>(&bytes[kLevelAt]);
  view.count_ = load_le<uint16_t>(&bytes[kCountAt]);
  view.first_block_ = load_le<uint64_t>(&bytes[kFirstBlockAt]);
  view.entries_ = bytes.data() + kHeaderBytes;
  if (!is_valid_place(view.level_, view.first_block_)) return view.corrupt("impossible place", 0);
  if (view.count_ == 0 || view.count_ > kPageFanout)
    return view.corrupt("entry count", view.count_);
  if (!is_zero(bytes.subspan(kZeroAt, kZeroBytes))) return view.corrupt("reserved bytes", kZeroAt);
  const size_t expected = page_bytes(view.level_, view.count_);
  const bool may_be_longer = load_le<uint8_t>(&bytes[kMinorAt]) > kMinor;
  if (bytes.size() < expected || (bytes.size() > expected && !may_be_longer))
    return view.corrupt("length", static_cast<unsigned>(bytes.size()));
  if (view.is_leaf()) return view;
  unsigned bits = 0;
  for (unsigned word = 0; word < kBitmapWords; ++word)
    bits += static_cast<unsigned>(std::popcount(view.bitmap_word(word)));
  if (bits != view.count_) return view.corrupt("bitmap", bits);
  return view;
}

Result<PageView> PageView::open(ConstBytes bytes, unsigned level, uint64_t first_block) {
  TRY_ASSIGN(PageView view, open(bytes));
  if (view.level_ != level || view.first_block_ != first_block)
    return fail(ErrorKind::kCorrupt,
                "index page: found level {} block {} where level {} block {} belongs", view.level_,
                view.first_block_, level, first_block);
  return view;
}

std::unexpected<Error> PageView::corrupt(const char* what, unsigned index) const {
  return fail(ErrorKind::kCorrupt, "index page of level {} at block {}: bad {} ({})", level_,
              first_block_, what, index);
}

uint64_t PageView::bitmap_word(unsigned word) const {
  return load_le<uint64_t>(entries_ + size_t{word} * 8);
}

Result<Address> PageView::child(unsigned slot) const {
  CHECK(!is_leaf() && slot < kPageFanout);
  const uint64_t bit = uint64_t{1} << (slot % 64);
  const uint64_t own_word = bitmap_word(slot / 64);
  if ((own_word & bit) == 0) return Address();
  auto rank = static_cast<unsigned>(std::popcount(own_word & (bit - 1)));
  for (unsigned word = 0; word < slot / 64; ++word)
    rank += static_cast<unsigned>(std::popcount(bitmap_word(word)));
  return child_at(slot, rank);
}

Result<Address> PageView::child_at(unsigned slot, unsigned rank) const {
  const auto address =
      Address::from_raw(load_le<uint64_t>(entries_ + kBitmapBytes + size_t{rank} * kChildBytes));
  if (!is_record(address)) return corrupt("child", slot);
  return address;
}

Result<void> PageView::read_children(std::array<Address, kPageFanout>& children) const {
  children.fill(Address());
  unsigned rank = 0;
  for (unsigned slot = next_child(0); slot < kPageFanout; slot = next_child(slot + 1)) {
    TRY_ASSIGN(children[slot], child_at(slot, rank));
    ++rank;
  }
  return {};
}

unsigned PageView::next_child(unsigned slot) const {
  CHECK(!is_leaf());
  if (slot >= kPageFanout) return kPageFanout;
  unsigned word = slot / 64;
  uint64_t bits = bitmap_word(word) & (~uint64_t{0} << (slot % 64));
  while (bits == 0) {
    if (++word == kBitmapWords) return kPageFanout;
    bits = bitmap_word(word);
  }
  return word * 64 + static_cast<unsigned>(std::countr_zero(bits));
}

Result<PageExtent> PageView::extent(unsigned index) const {
  CHECK(is_leaf() && index < count_);
  const PageExtent extent = load_extent(entries_ + size_t{index} * kExtentBytes);
  if (!is_valid(extent)) return corrupt("extent", index);
  return extent;
}

unsigned PageView::find_extent(unsigned block) const {
  CHECK(is_leaf());
  unsigned low = 0;
  unsigned high = count_;
  while (low < high) {
    const unsigned middle = (low + high) / 2;
    const std::byte* entry = entries_ + size_t{middle} * kExtentBytes;
    const unsigned end = load_le<uint16_t>(entry) + load_le<uint8_t>(entry + 2);
    if (end <= block)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

Result<void> PageView::validate() const {
  if (!is_leaf()) {
    std::array<Address, kPageFanout> children;
    return read_children(children);
  }
  unsigned end = 0;
  for (unsigned i = 0; i < count_; ++i) {
    TRY_ASSIGN(const PageExtent found, extent(i));
    if (found.first_block < end) return corrupt("extent order", i);
    end = found.first_block + found.count;
  }
  return {};
}

Result<LeafPage> decode_leaf_page(ConstBytes bytes) {
  TRY_ASSIGN(const PageView view, PageView::open(bytes));
  if (view.level() != 0)
    return fail(ErrorKind::kCorrupt, "index page: level {} where a leaf belongs", view.level());
  TRY(view.validate());
  LeafPage page;
  page.first_block = view.first_block();
  page.extents.reserve(view.count());
  for (unsigned i = 0; i < view.count(); ++i) page.extents.push_back(*view.extent(i));
  return page;
}

Result<InnerPage> decode_inner_page(ConstBytes bytes) {
  TRY_ASSIGN(const PageView view, PageView::open(bytes));
  if (view.level() == 0)
    return fail(ErrorKind::kCorrupt, "index page: a leaf where an inner page belongs");
  InnerPage page;
  page.level = static_cast<uint8_t>(view.level());
  page.first_block = view.first_block();
  TRY(view.read_children(page.children));
  return page;
}

}  // namespace squall
