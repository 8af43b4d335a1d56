// What counts as damage. A sealed segment was written in two steps, the trailer only after all
// before it was durable; so behind a valid trailer everything must verify, whatever crashes there
// were, and a sector that is recognisably a trailer but not valid has rotted. Where there is no
// trailer the segment was open when its writer died, and may end in anything; only what an index
// refers to was durable, and only that must verify.
//
// Records are read in windows of up to 1 MiB, in order. One that does not verify is read again by
// itself before it counts as damaged: a fault on the way from the medium need not repeat, and an
// I/O error of the window concerns perhaps one sector of it.
#include "pool/segment_check.h"

#include <algorithm>

#include "base/buffer.h"
#include "pool/segment_reader.h"

namespace squall {

namespace {
constexpr uint64_t kWindowBytes = kMiB;

// True when a block that garbage collection could have punched is all zeros, as far as it lies
// within the record.
bool has_punched_block(uint64_t offset, ConstBytes record) {
  uint64_t at = offset;
  while (at < offset + record.size()) {
    const uint64_t end =
        std::min(round_down(at, kBlockBytes) + kBlockBytes, offset + record.size());
    if (is_zero(record.subspan(at - offset, end - at))) return true;
    at = end;
  }
  return false;
}

std::string read_problem(const Error& error) {
  return "cannot be read: " + error.message();
}
}  // namespace

void sort_uses(std::vector<RecordUse>& uses) {
  // The most demanding use of each record comes first and stays.
  std::ranges::sort(uses, [](const RecordUse& a, const RecordUse& b) {
    return std::tie(a.sector, a.sectors, a.kind, b.blocks) <
           std::tie(b.sector, b.sectors, b.kind, a.blocks);
  });
  const auto same_record = [](const RecordUse& a, const RecordUse& b) {
    return a.sector == b.sector && a.sectors == b.sectors && a.kind == b.kind;
  };
  uses.erase(std::unique(uses.begin(), uses.end(), same_record), uses.end());
}

SegmentChecker::SegmentChecker(Reactor& reactor, Executor& executor, SegmentStore& segments,
                               Uuid pool, Pacer& pacer)
    : reactor_(reactor),
      executor_(executor),
      segments_(segments),
      pool_(pool),
      pool_seed_(pool_seed(pool)),
      pacer_(pacer),
      codec_(Codec::kNone),
      executor_codec_(Codec::kNone) {}

Task<Result<SegmentReport>> SegmentChecker::check(SegmentInfo segment,
                                                  std::vector<RecordUse> uses) {
  SegmentReport report;
  std::optional<SegmentFooter> footer;
  CO_TRY(co_await check_parts(segment, !uses.empty(), footer, report));
  if (!report.damages.empty()) {
    // Its end may have been written just now: only what is seen twice counts.
    report = {};
    CO_TRY(co_await check_parts(segment, !uses.empty(), footer, report));
  }
  std::vector<Item> items;
  if (footer) {
    items = items_of(*footer, uses, report);
  } else {
    for (const RecordUse& use : uses)
      items.push_back(
          {.entry = {.sector = use.sector, .sectors = use.sectors, .kind = use.kind}, .use = use});
  }
  CO_TRY(co_await check_items(segment, footer ? &*footer : nullptr, std::move(items), report));
  co_return report;
}

// Header, trailer and footer; the footer, when it is there and good.
Task<Result<void>> SegmentChecker::check_parts(const SegmentInfo& segment, bool has_uses,
                                               std::optional<SegmentFooter>& footer,
                                               SegmentReport& report) {
  footer.reset();
  std::optional<SegmentTrailer> trailer;
  CO_TRY(co_await check_trailer(segment, trailer, report));
  report.sealed = trailer.has_value() || !report.damages.empty();
  CO_TRY(co_await check_header(segment, report.sealed || has_uses, report));
  if (!trailer) co_return Result<void>();
  CO_TRY(co_await pacer_.spend(trailer->footer_bytes));
  auto read = co_await read_segment_footer(segments_, *trailer);
  if (read)
    footer = std::move(*read);
  else
    report.damages.push_back({.part = SegmentPart::kFooter,
                              .offset = trailer->footer_offset,
                              .length = trailer->footer_bytes,
                              .problem = read.error().message()});
  co_return Result<void>();
}

Task<Result<void>> SegmentChecker::check_trailer(const SegmentInfo& segment,
                                                 std::optional<SegmentTrailer>& trailer,
                                                 SegmentReport& report) {
  CO_TRY(co_await pacer_.spend(kSegmentTrailerBytes));
  if (segment.size_bytes < kSegmentHeaderBytes + kSegmentTrailerBytes) co_return Result<void>();
  const uint64_t offset = segment.size_bytes - kSegmentTrailerBytes;
  AlignedBuffer sector(kSegmentTrailerBytes);
  const auto bytes = co_await segments_.read(segment.id, sector.bytes(), offset);
  SegmentDamage damage{.part = SegmentPart::kTrailer, .offset = offset, .length = sector.size()};
  if (!bytes) {
    damage.problem = read_problem(bytes.error());
    report.damages.push_back(std::move(damage));
    co_return Result<void>();
  }
  if (*bytes != sector.size()) co_return Result<void>();  // cut off just now
  auto decoded = decode_segment_trailer(sector.bytes(), pool_, segment.id, segment.size_bytes);
  if (decoded) {
    trailer = std::move(*decoded);
  } else if (looks_like_segment_trailer(sector.bytes(), pool_)) {
    damage.problem = decoded.error().message();
    report.damages.push_back(std::move(damage));
  }
  co_return Result<void>();
}

// A header that was not yet durable may be anything.
Task<Result<void>> SegmentChecker::check_header(const SegmentInfo& segment, bool must_be_good,
                                                SegmentReport& report) {
  if (!must_be_good) co_return Result<void>();
  CO_TRY(co_await pacer_.spend(kSegmentHeaderBytes));
  AlignedBuffer bytes(kSegmentHeaderBytes);
  SegmentDamage damage{.part = SegmentPart::kHeader, .length = bytes.size()};
  if (const auto count = co_await segments_.read(segment.id, bytes.bytes(), 0); !count) {
    damage.problem = read_problem(count.error());
  } else if (const auto header = decode_segment_header(ConstBytes(bytes.bytes()).first(*count));
             !header) {
    damage.problem = header.error().message();
  } else if (header->pool != pool_) {
    damage.problem = "it is a segment of pool " + header->pool.to_string();
  } else if (header->segment != segment.id) {
    damage.problem = fmt::format("it is segment {} of this pool", header->segment);
  }
  if (!damage.problem.empty()) report.damages.push_back(std::move(damage));
  co_return Result<void>();
}

// The footer's records, each with its use; uses that fit none are damage already.
std::vector<SegmentChecker::Item> SegmentChecker::items_of(const SegmentFooter& footer,
                                                           const std::vector<RecordUse>& uses,
                                                           SegmentReport& report) {
  std::vector<Item> items;
  items.reserve(footer.records.size());
  for (const RecordEntry& entry : footer.records)
    items.push_back({.entry = entry, .in_footer = true});
  size_t at = 0;
  for (const RecordUse& use : uses) {
    while (at < items.size() && items[at].entry.sector < use.sector) ++at;
    std::string problem;
    if (at == items.size() || items[at].entry.sector != use.sector)
      problem = "no record begins there";
    else if (items[at].entry.sectors != use.sectors)
      problem =
          fmt::format("the record there is {} bytes long", items[at].entry.sectors * kSectorBytes);
    else if (items[at].entry.kind != use.kind)
      problem = fmt::format("the record there is a {}, not a {}", to_string(items[at].entry.kind),
                            to_string(use.kind));
    if (problem.empty()) {
      items[at].use = use;
      continue;
    }
    report.damages.push_back({.part = SegmentPart::kRecord,
                              .offset = use.sector * kSectorBytes,
                              .length = use.sectors * kSectorBytes,
                              .problem = std::move(problem),
                              .is_page = use.kind == RecordKind::kPage,
                              .used = true});
  }
  return items;
}

Task<Result<void>> SegmentChecker::check_items(const SegmentInfo& segment,
                                               const SegmentFooter* footer, std::vector<Item> items,
                                               SegmentReport& report) {
  for (size_t begin = 0; begin < items.size();) {
    const uint64_t offset = items[begin].entry.sector * kSectorBytes;
    size_t end = begin + 1;
    while (end < items.size() &&
           (items[end].entry.sector + items[end].entry.sectors) * kSectorBytes <=
               offset + kWindowBytes)
      ++end;
    CO_TRY(co_await check_window(segment, footer, std::span(items).subspan(begin, end - begin),
                                 report));
    begin = end;
  }
  co_return Result<void>();
}

Task<Result<void>> SegmentChecker::check_window(const SegmentInfo& segment,
                                                const SegmentFooter* footer, std::span<Item> items,
                                                SegmentReport& report) {
  // Aligned, so that a direct read needs no copy.
  const uint64_t begin = round_down(items.front().entry.sector * kSectorBytes, kBlockBytes);
  uint64_t end = 0;
  for (const Item& item : items)
    end = std::max<uint64_t>(end, (item.entry.sector + item.entry.sectors) * kSectorBytes);
  CO_TRY(co_await pacer_.spend(end - begin));
  AlignedBuffer window(round_up(end - begin, kBlockBytes));
  const auto read = co_await segments_.read(segment.id, window.bytes(), begin);
  const ConstBytes bytes = ConstBytes(window.bytes()).first(read ? *read : 0);
  co_await run_on(executor_, reactor_, [&] {
    for (Item& item : items) {
      const uint64_t at = item.entry.sector * kSectorBytes - begin;
      verify(segment.id, footer, item, bytes.subspan(std::min(at, bytes.size())));
    }
    return true;
  });
  for (Item& item : items) {
    ++report.records;
    if (item.problem.empty()) continue;
    // Once more, by itself.
    const uint64_t offset = item.entry.sector * kSectorBytes;
    AlignedBuffer again(item.entry.sectors * kSectorBytes);
    const auto count = co_await segments_.read(segment.id, again.bytes(), offset);
    if (count)
      verify(segment.id, footer, item, ConstBytes(again.bytes()).first(*count));
    else
      item.problem = read_problem(count.error());
    if (item.problem.empty() || (item.is_freed && !item.use)) continue;
    report.damages.push_back(
        {.part = item.in_footer_only ? SegmentPart::kFooter : SegmentPart::kRecord,
         .offset = offset,
         .length = item.entry.sectors * kSectorBytes,
         .problem = item.problem,
         .is_page = item.entry.kind == RecordKind::kPage,
         .used = item.use.has_value() && !item.in_footer_only,
         .good_blocks = item.good_blocks});
  }
  co_return Result<void>();
}

// `stored` begins with the record and may reach beyond it, or end before its end.
void SegmentChecker::verify(SegmentId segment, const SegmentFooter* footer, Item& item,
                            ConstBytes stored) {
  const RecordEntry& entry = item.entry;
  item.problem.clear();
  item.good_blocks = 0;
  item.in_footer_only = item.is_freed = false;
  const ConstBytes bytes = stored.first(std::min(stored.size(), entry.sectors * kSectorBytes));
  auto record = decode_record(bytes, record_seed(pool_seed_, segment, entry.sector));
  if (bytes.size() < entry.sectors * kSectorBytes) {
    item.problem = fmt::format("the segment ends after {} bytes of it", bytes.size());
    return;
  }
  if (!record) {
    item.problem = record.error().message();
    item.is_freed = has_punched_block(entry.sector * kSectorBytes, bytes);
    return;
  }
  const RecordHeader& header = record->header;
  if (header.kind != entry.kind || header.sectors() != entry.sectors ||
      (item.in_footer && (header.codec != entry.codec || header.raw_bytes != entry.raw_bytes))) {
    item.problem =
        fmt::format("it is a {} of {} bytes ({} on disk), not a {} of {} on disk",
                    to_string(header.kind), header.raw_bytes, header.sectors() * kSectorBytes,
                    to_string(entry.kind), entry.sectors * kSectorBytes);
    return;
  }
  std::vector<std::byte> payload(header.raw_bytes);
  if (auto decoded = executor_codec_.decode(header.codec, record->payload, payload); !decoded) {
    item.problem = decoded.error().message();
    return;
  }
  if (item.use && item.use->blocks * kBlockBytes > header.raw_bytes) {
    item.good_blocks = header.raw_bytes / kBlockBytes;
    item.problem = fmt::format("it holds {} bytes, and an index needs {}", header.raw_bytes,
                               item.use->blocks * kBlockBytes);
    return;
  }
  if (entry.fingerprints == 0 || footer == nullptr) return;
  std::vector<Fingerprint> taken;
  fingerprinter_.append(payload, taken);
  const auto stated =
      std::span(footer->fingerprints).subspan(entry.first_fingerprint, entry.fingerprints);
  if (std::ranges::equal(taken, stated)) return;
  item.in_footer_only = true;
  item.problem = "the fingerprints in the footer are not those of its content";
}

Task<Result<VerifiedRecord>> SegmentChecker::read(Address address) {
  if (address.is_hole() || address.sectors() == 0 || address.sectors() > kMaxRecordSectors ||
      address.offset_bytes() < kSegmentHeaderBytes)
    co_return fail(ErrorKind::kCorrupt, "there can be no record at such an address");
  CO_TRY(co_await pacer_.spend(address.stored_bytes()));
  AlignedBuffer stored(address.stored_bytes());
  std::optional<Error> error;
  for (int attempt = 0; attempt < 2; ++attempt) {
    const auto bytes =
        co_await segments_.read(address.segment(), stored.bytes(), address.offset_bytes());
    if (!bytes) {
      error = bytes.error();
      continue;
    }
    const auto record = decode_record(ConstBytes(stored.bytes()).first(*bytes),
                                      record_seed(pool_seed_, address.segment(), address.sector()));
    if (!record) {
      error = record.error();
      continue;
    }
    VerifiedRecord verified{.kind = record->header.kind};
    verified.payload.resize(record->header.raw_bytes);
    if (auto decoded = codec_.decode(record->header.codec, record->payload, verified.payload);
        !decoded)
      co_return std::unexpected(decoded.error());
    if (record->header.sectors() != address.sectors())
      co_return fail(ErrorKind::kCorrupt, "the record there is {} bytes long",
                     record->header.sectors() * kSectorBytes);
    co_return verified;
  }
  co_return std::unexpected(*std::move(error));
}

}  // namespace squall
