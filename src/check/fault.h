// Fault: something that a check found wrong: what it is, where it lies, who is affected, what to
// do. A plain value.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "format/address.h"

namespace squall {

enum class FaultKind : uint8_t {
  kPool,     // it cannot be opened, or its own values are wrong
  kCatalog,  // an entry of the catalog, or its database
  kStore,    // a store that is away
  kSegment,  // a segment that is missing
  kHeader,   // a segment's
  kRecord,   // a chunk or an index page
  kFooter,   // a segment's, with its fingerprints
  kTrailer,  // a segment's
  kCounter,  // a number that is handed out from, too low
  kLog,      // a volume's log in the pool
  kJournal,  // the host's write log
};
std::string_view to_string(FaultKind kind);
Result<FaultKind> parse_fault_kind(std::string_view text);

// A range of a volume, snapshot or image that cannot be read.
struct AffectedRange {
  std::string object;   // "volume NAME", "snapshot VOLUME@NAME", "image NAME"
  uint64_t offset = 0;  // bytes
  uint64_t length = 0;
  bool operator==(const AffectedRange&) const = default;
};

struct Fault {
  FaultKind kind = FaultKind::kPool;
  std::string object;  // what is damaged: "segment 5 in store default", "volume vm-1"
  // In segments and files: where.
  SegmentId segment = 0;
  uint64_t offset = 0;
  uint64_t length = 0;
  std::string problem;
  std::string advice;
  std::vector<AffectedRange> affected;
  uint64_t affected_left_out = 0;  // ranges beyond those listed

  // One line: object, place, problem, who is affected, what to do.
  std::string to_line() const;
};

}  // namespace squall
