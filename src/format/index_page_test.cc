#include "format/index_page.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

#include "base/random.h"

namespace squall {
namespace {

using PageBytes = std::vector<std::byte>;

Address chunk(uint64_t n) {
  return Address::make(7, n, 5);
}

LeafPage sample_leaf() {
  return {.first_block = 3 * kLeafBlocks,
          .extents = {{0, 16, 0, chunk(1)}, {16, 4, 12, chunk(2)}, {511, 1, 15, chunk(3)}}};
}

InnerPage sample_inner() {
  InnerPage page{.level = 2, .first_block = page_span_blocks(2) * 5};
  page.children[0] = chunk(10);
  page.children[63] = chunk(11);
  page.children[64] = chunk(12);
  page.children[511] = chunk(13);
  return page;
}

LeafPage random_leaf(Random& random) {
  LeafPage page{.first_block = random.below(1 << 20) * kLeafBlocks, .extents = {}};
  for (unsigned block = static_cast<unsigned>(random.below(40)); block < kLeafBlocks;) {
    const auto count = static_cast<uint16_t>(
        random.between(1, std::min<uint64_t>(kChunkBlocksMax, kLeafBlocks - block)));
    page.extents.push_back(
        {.first_block = static_cast<uint16_t>(block),
         .count = count,
         .chunk_block = static_cast<uint16_t>(random.between(0, kChunkBlocksMax - count)),
         .chunk = chunk(random.between(1, 1000))});
    block += count + static_cast<unsigned>(random.chance(0.5) ? random.below(20) : 0);
  }
  if (page.extents.empty()) page.extents.push_back({1, 1, 0, chunk(1)});
  return page;
}

std::string golden_path(const char* name) {
  return std::string(SQUALL_SOURCE_DIR "/tests/golden/") + name;
}

std::string to_hex(ConstBytes bytes) {
  std::string hex;
  for (size_t i = 0; i < bytes.size(); ++i)
    hex += fmt::format("{:02x}{}", static_cast<unsigned>(bytes[i]), i % 16 == 15 ? "\n" : " ");
  if (!hex.empty()) hex.back() = '\n';
  return hex;
}

std::string read_text(const std::string& path) {
  std::ifstream stream(path);
  return {std::istreambuf_iterator<char>(stream), {}};
}

TEST(IndexPage, BytesAreThoseOfTheFirstVersion) {
  EXPECT_EQ(to_hex(encode_leaf_page(sample_leaf())),
            read_text(golden_path("index_leaf_page.v1.hex")));
  EXPECT_EQ(to_hex(encode_inner_page(sample_inner())),
            read_text(golden_path("index_inner_page.v1.hex")));
}

TEST(IndexPage, RoundTrips) {
  EXPECT_EQ(*decode_leaf_page(encode_leaf_page(sample_leaf())), sample_leaf());
  EXPECT_EQ(*decode_inner_page(encode_inner_page(sample_inner())), sample_inner());
  Random random(1);
  for (int i = 0; i < 500; ++i) {
    const LeafPage leaf = random_leaf(random);
    EXPECT_EQ(*decode_leaf_page(encode_leaf_page(leaf)), leaf);
    InnerPage inner{.level = 1, .first_block = 0};
    for (auto& child : inner.children)
      if (random.chance(0.3)) child = chunk(random.between(1, 4000));
    inner.children[random.below(kPageFanout)] = chunk(1);
    EXPECT_EQ(*decode_inner_page(encode_inner_page(inner)), inner);
  }
}

TEST(IndexPage, FullPagesFitARecord) {
  LeafPage leaf;
  InnerPage inner;
  for (unsigned i = 0; i < kPageFanout; ++i) {
    leaf.extents.push_back({static_cast<uint16_t>(i), 1, 0, chunk(i + 1)});
    inner.children[i] = chunk(i + 1);
  }
  EXPECT_EQ(encode_leaf_page(leaf).size(), 6168u);
  EXPECT_EQ(encode_inner_page(inner).size(), 4184u);
  EXPECT_EQ(*decode_inner_page(encode_inner_page(inner)), inner);
}

TEST(PageView, FindsInPlaceWhatDecodingGives) {
  Random random(2);
  for (int i = 0; i < 200; ++i) {
    const LeafPage leaf = random_leaf(random);
    const PageBytes bytes = encode_leaf_page(leaf);
    const PageView view = *PageView::open(bytes, 0, leaf.first_block);
    ASSERT_EQ(view.count(), leaf.extents.size());
    for (unsigned block = 0; block < kLeafBlocks; ++block) {
      unsigned expected = 0;
      while (expected < leaf.extents.size() &&
             leaf.extents[expected].first_block + leaf.extents[expected].count <= int(block))
        ++expected;
      ASSERT_EQ(view.find_extent(block), expected);
    }
  }
  const InnerPage inner = sample_inner();
  const PageBytes bytes = encode_inner_page(inner);
  const PageView view = *PageView::open(bytes, 2, inner.first_block);
  for (unsigned slot = 0; slot < kPageFanout; ++slot)
    EXPECT_EQ(*view.child(slot), inner.children[slot]);
  std::vector<unsigned> slots;
  for (unsigned s = view.next_child(0); s < kPageFanout; s = view.next_child(s + 1))
    slots.push_back(s);
  EXPECT_THAT(slots, testing::ElementsAre(0, 63, 64, 511));
}

TEST(PageView, RefusesAPageFromElsewhere) {
  const PageBytes bytes = encode_leaf_page(sample_leaf());
  EXPECT_TRUE(PageView::open(bytes, 0, 3 * kLeafBlocks));
  EXPECT_EQ(PageView::open(bytes, 0, 4 * kLeafBlocks).error().kind(), ErrorKind::kCorrupt);
  EXPECT_EQ(PageView::open(bytes, 1, 3 * kLeafBlocks).error().kind(), ErrorKind::kCorrupt);
}

TEST(PageView, RefusesANewerFormatAndTakesACompatibleOne) {
  PageBytes bytes = encode_leaf_page(sample_leaf());
  bytes[5] = std::byte{9};  // a newer minor version may append bytes
  bytes.resize(bytes.size() + 8);
  EXPECT_EQ(*decode_leaf_page(bytes), sample_leaf());
  bytes[6] = std::byte{9};  // unless it says that older readers would misread it
  EXPECT_EQ(decode_leaf_page(bytes).error().kind(), ErrorKind::kUnsupported);
  bytes[6] = std::byte{0};
  bytes[4] = std::byte{2};
  EXPECT_EQ(decode_leaf_page(bytes).error().kind(), ErrorKind::kUnsupported);
}

TEST(PageView, RefusesEveryTruncationAndTrailingBytes) {
  for (const PageBytes& bytes :
       {encode_leaf_page(sample_leaf()), encode_inner_page(sample_inner())}) {
    for (size_t size = 0; size < bytes.size(); ++size) {
      const PageBytes cut(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(size));
      EXPECT_FALSE(PageView::open(cut));
    }
    PageBytes longer = bytes;
    longer.push_back({});
    EXPECT_FALSE(PageView::open(longer));
  }
}

// Changes 24 + 12 * extent + offset of the sample leaf.
PageBytes leaf_with(size_t extent, size_t offset, uint8_t value) {
  PageBytes bytes = encode_leaf_page(sample_leaf());
  bytes[24 + 12 * extent + offset] = std::byte{value};
  return bytes;
}

TEST(IndexPage, RefusesExtentsThatBreakTheRules) {
  EXPECT_EQ(decode_leaf_page(leaf_with(1, 0, 15)).error().kind(), ErrorKind::kCorrupt);  // overlap
  EXPECT_FALSE(decode_leaf_page(leaf_with(0, 2, 17)));  // longer than a chunk
  EXPECT_FALSE(decode_leaf_page(leaf_with(1, 3, 13)));  // past its chunk's end
  EXPECT_FALSE(decode_leaf_page(leaf_with(1, 2, 0)));   // empty
  EXPECT_FALSE(decode_leaf_page(leaf_with(2, 2, 2)));   // past the leaf's end
  EXPECT_FALSE(decode_leaf_page(leaf_with(2, 1, 2)));   // begins past the leaf
  PageBytes bytes = encode_leaf_page(sample_leaf());
  std::fill_n(bytes.begin() + 24 + 4, 8, std::byte{0});  // a hole as chunk
  EXPECT_FALSE(decode_leaf_page(bytes));
  bytes = encode_inner_page(sample_inner());
  std::fill_n(bytes.begin() + 24 + 64, 8, std::byte{0});  // a hole as child
  EXPECT_FALSE(decode_inner_page(bytes));
  EXPECT_FALSE(PageView::open(bytes)->child(0));
  bytes = encode_inner_page(sample_inner());
  bytes[24 + 1] = std::byte{1};  // one bit more than there are addresses
  EXPECT_FALSE(PageView::open(bytes));
}

TEST(IndexPage, ARandomlyDamagedPageDoesNoHarm) {
  Random random(3);
  for (int i = 0; i < 20000; ++i) {
    PageBytes bytes =
        i % 2 == 0 ? encode_leaf_page(sample_leaf()) : encode_inner_page(sample_inner());
    for (uint64_t n = random.between(1, 4); n > 0; --n)
      bytes[random.below(bytes.size())] = static_cast<std::byte>(random.below(256));
    const auto leaf = decode_leaf_page(bytes);
    if (leaf) {
      EXPECT_EQ(*decode_leaf_page(encode_leaf_page(*leaf)), *leaf);
    }
    const auto inner = decode_inner_page(bytes);
    if (inner) {
      EXPECT_EQ(*decode_inner_page(encode_inner_page(*inner)), *inner);
    }
  }
}

}  // namespace
}  // namespace squall
