// The pure decoders of the NBD protocol on arbitrary bytes: what decodes as a request encodes to
// the same bytes, and nothing decoded lies outside the input.
#include <algorithm>

#include "base/check.h"
#include "format/nbd.h"

namespace {

using namespace squall;

void check_inside(std::string_view part, ConstBytes whole) {
  if (part.empty()) return;
  const auto text = as_text(whole);
  CHECK(part.data() >= text.data() && part.data() + part.size() <= text.data() + text.size());
  CHECK(part.size() <= nbd::kMaxNameBytes && part.find('\0') == part.npos);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  if (const auto info = nbd::decode_info_request(bytes)) {
    check_inside(info->name, bytes);
    CHECK(4 + info->name.size() + 2 + 2 * info->items.size() == size);
  }
  if (const auto contexts = nbd::decode_meta_context_request(bytes)) {
    check_inside(contexts->name, bytes);
    size_t total = 8 + contexts->name.size();
    for (const auto query : contexts->queries) {
      check_inside(query, bytes);
      total += 4 + query.size();
    }
    CHECK(total == size);
  }
  if (size >= nbd::kRequestBytes) {
    const auto from = bytes.first(nbd::kRequestBytes);
    if (const auto request = nbd::decode_request(from)) {
      std::byte again[nbd::kRequestBytes];
      nbd::encode_request(*request, again);
      CHECK(std::ranges::equal(again, from));
    }
  }
  if (size >= nbd::kOptionHeaderBytes) {
    const auto from = bytes.first(nbd::kOptionHeaderBytes);
    if (const auto header = nbd::decode_option_header(from)) {
      std::byte again[nbd::kOptionHeaderBytes];
      nbd::encode_option_header(*header, again);
      CHECK(std::ranges::equal(again, from));
    }
  }
  return 0;
}
