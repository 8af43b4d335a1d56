#include "check/fault.h"

#include <fmt/format.h>

#include <algorithm>

namespace squall {

namespace {
// In a line for people; the rest is in the JSON form.
constexpr size_t kRangesShown = 8;
constexpr std::string_view kKinds[] = {"pool",    "catalog", "store",  "segment",
                                       "header",  "record",  "footer", "trailer",
                                       "counter", "log",     "journal"};
static_assert(std::size(kKinds) == static_cast<size_t>(FaultKind::kJournal) + 1);
}  // namespace

std::string_view to_string(FaultKind kind) {
  return kKinds[static_cast<size_t>(kind)];
}

Result<FaultKind> parse_fault_kind(std::string_view text) {
  for (size_t i = 0; i < std::size(kKinds); ++i)
    if (kKinds[i] == text) return static_cast<FaultKind>(i);
  return fail(ErrorKind::kInvalid, "'{}' is no kind of fault", text);
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
