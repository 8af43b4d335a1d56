// Index pages: nothing is read outside the input, what decodes encodes to a page that decodes to
// the same value, and what the in-place view finds agrees with what decoding gives.
#include <cstddef>
#include <cstdint>

#include "format/index_page.h"

using namespace squall;

namespace {

void check_leaf(ConstBytes bytes, const PageView& view) {
  for (unsigned block = 0; block < kLeafBlocks; ++block) {
    const unsigned index = view.find_extent(block);
    CHECK(index <= view.count());
    if (index < view.count()) static_cast<void>(view.extent(index));
  }
  const auto page = decode_leaf_page(bytes);
  CHECK(page.has_value() == view.validate().has_value());
  if (!page) return;
  CHECK(*decode_leaf_page(encode_leaf_page(*page)) == *page);
  for (unsigned i = 0; i < view.count(); ++i)
    CHECK(view.find_extent(page->extents[i].first_block) == i);
}

void check_inner(ConstBytes bytes, const PageView& view) {
  const auto page = decode_inner_page(bytes);
  CHECK(page.has_value() == view.validate().has_value());
  for (unsigned slot = 0; slot < kPageFanout; ++slot) {
    const auto child = view.child(slot);
    CHECK(!page || *child == page->children[slot]);
    CHECK(view.next_child(slot) >= slot);
  }
  if (page) CHECK(*decode_inner_page(encode_inner_page(*page)) == *page);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const ConstBytes bytes = std::as_bytes(std::span(data, size));
  const auto view = PageView::open(bytes);
  if (!view) {
    CHECK(!decode_leaf_page(bytes) && !decode_inner_page(bytes));
    return 0;
  }
  if (view->level() == 0)
    check_leaf(bytes, *view);
  else
    check_inner(bytes, *view);
  return 0;
}
