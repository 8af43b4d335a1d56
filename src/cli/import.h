// `image import`: from any source into the pool.
#pragma once

#include <string>

#include "cli/context.h"

namespace squall {

struct ImportOptions {
  std::string name;
  std::string source;  // a path, an http(s) URL, or "-"
  std::string format;  // empty: find out
  std::string store;
  uint64_t size_bytes = 0;  // for stdin
  bool deduplicate = true;
  bool verify = false;  // read both sides again and compare
};

// The image exists when this succeeds; otherwise nothing is left.
Result<ImageInfo> import_image(Context& context, const ImportOptions& options);

}  // namespace squall
