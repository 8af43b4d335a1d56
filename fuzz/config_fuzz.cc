// Any ASCII text is a configuration or an error, and a configuration written out reads back the
// same. ASCII only, because toml++ 3.3 takes letters such as U+00BE outside of strings for
// impossible.
#include <algorithm>
#include <cstdint>

#include "api/config.h"
#include "base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace squall;
  const Paths paths{"/home", "/run"};
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (!std::ranges::all_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x80; })) {
    return 0;
  }
  const auto config = parse_config(text, "squall.toml", paths);
  if (!config) {
    CHECK(config.error().message().starts_with("squall.toml:"));
    return 0;
  }
  const auto again = parse_config(format_config(*config), "again", paths);
  CHECK(again && again->pool.directory == config->pool.directory);
  CHECK(again->journal_bytes == config->journal_bytes);
  CHECK(again->nbd_listen.size() == config->nbd_listen.size());
  return 0;
}
