#include "base/error.h"
#include "volume/manager.h"

namespace squall {

namespace {
constexpr std::string_view kCacheModes[] = {"writeback", "none", "writethrough", "directsync",
                                            "unsafe"};
constexpr std::string_view kDurabilities[] = {"host", "pool"};
}  // namespace

Result<CacheMode> parse_cache_mode(std::string_view text) {
  for (size_t i = 0; i < std::size(kCacheModes); ++i)
    if (kCacheModes[i] == text) return static_cast<CacheMode>(i);
  return fail(ErrorKind::kInvalid,
              "cache mode '{}' is not one of writeback, none, writethrough, directsync, unsafe",
              text);
}
std::string_view to_string(CacheMode mode) {
  return kCacheModes[static_cast<size_t>(mode)];
}

Result<Durability> parse_durability(std::string_view text) {
  for (size_t i = 0; i < std::size(kDurabilities); ++i)
    if (kDurabilities[i] == text) return static_cast<Durability>(i);
  return fail(ErrorKind::kInvalid, "durability '{}' is not one of host, pool", text);
}
std::string_view to_string(Durability durability) {
  return kDurabilities[static_cast<size_t>(durability)];
}

}  // namespace squall
