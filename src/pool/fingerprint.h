// Fingerprints of 4 KiB blocks: the first 20 bytes of SHA-256 (docs/FORMAT.md, "Segments"). Equal
// fingerprints only suggest equal blocks: whoever shares a block compares its bytes.
#pragma once

#include <memory>
#include <vector>

#include "base/bytes.h"
#include "format/segment.h"

namespace squall {

// Keeps the library's context; one thread's.
class Fingerprinter {
 public:
  Fingerprinter();
  ~Fingerprinter();
  Fingerprinter(const Fingerprinter&) = delete;
  Fingerprinter& operator=(const Fingerprinter&) = delete;

  // `block` is kBlockBytes long.
  Fingerprint operator()(ConstBytes block);
  // One per whole block of `payload`, behind what is in `to`.
  void append(ConstBytes payload, std::vector<Fingerprint>& to);

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

}  // namespace squall
