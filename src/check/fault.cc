#include "check/fault.h"

#include <fmt/format.h>

#include <algorithm>

namespace squall {

namespace {
// In a line for people; the rest is in the JSON form.
constexpr size_t kRangesShown = 8;
}  // namespace

std::string_view to_string(FaultKind kind) {
  switch (kind) {
    case FaultKind::kPool:
      return "pool";
    case FaultKind::kCatalog:
      return "catalog";
    case FaultKind::kStore:
      return "store";
    case FaultKind::kSegment:
      return "segment";
    case FaultKind::kHeader:
      return "header";
    case FaultKind::kRecord:
      return "record";
    case FaultKind::kFooter:
      return "footer";
    case FaultKind::kTrailer:
      return "trailer";
    case FaultKind::kCounter:
      return "counter";
    case FaultKind::kLog:
      return "log";
    case FaultKind::kJournal:
      return "journal";
  }
  return "unknown";
}

std::string Fault::to_line() const {
  std::string line = object;
  if (length > 0) line += fmt::format(", offset {}, {} bytes", offset, length);
  line += ": " + problem;
  const size_t shown = std::min(affected.size(), kRangesShown);
  for (size_t i = 0; i < shown; ++i)
    line += fmt::format("{}{} bytes {} to {}", i == 0 ? "; affects " : ", ", affected[i].object,
                        affected[i].offset, affected[i].offset + affected[i].length - 1);
  if (const uint64_t more = affected.size() - shown + affected_left_out; more > 0)
    line += fmt::format(" and {} ranges more", more);
  if (!advice.empty()) line += "; " + advice;
  return line;
}

}  // namespace squall
