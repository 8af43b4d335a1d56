#include "pool/segment_numbers.h"

#include <charconv>

namespace squall {

namespace {
constexpr int kAttempts = 100;  // conflicts with other nodes taking ranges at the same moment
constexpr SegmentId kEnd = SegmentId{1} << 33;

Result<SegmentId> parse_number(const std::string& text) {
  SegmentId number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number == 0 || number > kEnd)
    return fail(ErrorKind::kCorrupt, "catalog: pool/next_segment is '{}', not a segment number",
                text);
  return number;
}
}  // namespace

Task<Result<SegmentId>> SegmentNumbers::take() {
  co_await mutex_.acquire();
  SemaphoreGuard guard(mutex_);
  if (next_ == end_) CO_TRY(co_await take_range());
  co_return next_++;
}

Task<Result<void>> SegmentNumbers::take_range() {
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    CO_TRY_ASSIGN(const std::optional<std::string> current,
                  co_await catalog_.get("pool", "next_segment"));
    SegmentId next = 1;
    if (current) {
      CO_TRY_ASSIGN(next, parse_number(*current));
    }
    next = std::max(next, first_free_);
    if (next + kRange > kEnd)
      co_return fail(ErrorKind::kNoSpace, "pool: all segment numbers have been used");
    MetaTransaction transaction{.partition = "pool"};
    transaction.compares.push_back({"next_segment", current});
    transaction.puts.push_back({"next_segment", std::to_string(next + kRange)});
    auto committed = co_await catalog_.commit(std::move(transaction));
    if (committed) {
      next_ = next;
      end_ = next + kRange;
      co_return Result<void>();
    }
    // After any error but a conflict the outcome is unknown; the range is then simply not used.
    if (committed.error().kind() != ErrorKind::kConflict) co_return committed;
  }
  co_return fail(ErrorKind::kBusy, "pool: no range of segment numbers after {} attempts",
                 kAttempts);
}

}  // namespace squall
