#include "check/damage.h"

#include <algorithm>

namespace squall {

namespace {
constexpr size_t kRangesMax = 1000;  // listed per fault
constexpr int kWalksMax = 50;        // of a root that changes all the time
// Bad records with so little between them are one fault.
constexpr uint64_t kSameFaultBytes = kBlockBytes;

FaultKind kind_of(SegmentPart part) {
  switch (part) {
    case SegmentPart::kHeader:
      return FaultKind::kHeader;
    case SegmentPart::kFooter:
      return FaultKind::kFooter;
    case SegmentPart::kTrailer:
      return FaultKind::kTrailer;
    case SegmentPart::kRecord:
      return FaultKind::kRecord;
  }
  return FaultKind::kRecord;
}

// One fault for what lies together and is bad for the same reason.
bool continues(const Fault& fault, Address address, const std::string& problem) {
  return fault.segment == address.segment() && fault.problem == problem &&
         address.offset_bytes() <= fault.offset + fault.length + kSameFaultBytes;
}

void add_range(std::vector<AffectedRange>& ranges, uint64_t& left_out, AffectedRange range) {
  if (!ranges.empty() && ranges.back().object == range.object &&
      ranges.back().offset + ranges.back().length == range.offset) {
    ranges.back().length += range.length;
  } else if (ranges.size() < kRangesMax) {
    ranges.push_back(std::move(range));
  } else {
    ++left_out;
  }
}

// Ranges in order, joined where they touch.
void tidy(std::vector<AffectedRange>& ranges) {
  std::ranges::sort(ranges, {},
                    [](const AffectedRange& r) { return std::tie(r.object, r.offset); });
  std::vector<AffectedRange> joined;
  for (AffectedRange& range : ranges) {
    if (!joined.empty() && joined.back().object == range.object &&
        range.offset <= joined.back().offset + joined.back().length)
      joined.back().length =
          std::max(joined.back().offset + joined.back().length, range.offset + range.length) -
          joined.back().offset;
    else
      joined.push_back(std::move(range));
  }
  ranges = std::move(joined);
}
}  // namespace

std::string describe_segment(SegmentId segment, const SegmentStores& stores) {
  const auto store = stores.find(segment);
  if (store == stores.end()) return fmt::format("segment {}", segment);
  return fmt::format("segment {} in store {}", segment, store->second);
}

std::vector<Fault> Damage::note(const SegmentInfo& segment, const SegmentReport& report,
                                const SegmentStores& stores) {
  std::vector<Fault> faults;
  for (const SegmentDamage& damage : report.damages) {
    if (damage.part != SegmentPart::kRecord) {
      faults.push_back({.kind = kind_of(damage.part),
                        .object = fmt::format("{} of {}", to_string(kind_of(damage.part)),
                                              describe_segment(segment.id, stores)),
                        .segment = segment.id,
                        .offset = damage.offset,
                        .length = damage.length,
                        .problem = damage.problem,
                        .advice = "run: squall check --repair, which rebuilds it"});
      continue;
    }
    const Address address =
        Address::make(segment.id, damage.offset / kSectorBytes, damage.length / kSectorBytes);
    suspect(address, {damage.problem, damage.good_blocks, damage.is_page});
    // It may be needed all the same, by a root that is newer than the look at it.
    if (!damage.used) suspect_unused(address, damage.problem);
  }
  return faults;
}

Task<Result<std::vector<Fault>>> Damage::confirm(MetaStore& catalog, SegmentChecker& checker,
                                                 const std::set<std::string>& store_names,
                                                 const SegmentStores& stores) {
  if (suspects() == 0) co_return std::vector<Fault>();
  DamageFinder finder(checker, bad_);
  CO_TRY_ASSIGN(const CatalogView view, co_await read_catalog(catalog, store_names));
  for (const CatalogRoot& root : view.roots) CO_TRY(co_await find_hits(catalog, finder, root));
  std::vector<Fault> faults = faults_of_used(stores);
  CO_TRY(co_await add_unused(checker, stores, faults));
  co_return faults;
}

// A root that was replaced during the walk may have led to what is gone for good reason.
Task<Result<void>> Damage::find_hits(MetaStore& catalog, DamageFinder& finder, CatalogRoot root) {
  for (int walk = 0; walk < kWalksMax; ++walk) {
    CO_TRY_ASSIGN(const auto hits, co_await finder.find(root.root));
    if (hits.empty()) co_return Result<void>();
    CO_TRY_ASSIGN(const auto now, co_await current_root(catalog, root));
    if (!now) co_return Result<void>();
    if (*now == root.root) {
      add_hits(root, hits);
      co_return Result<void>();
    }
    root.root = *now;
  }
  co_return fail(ErrorKind::kBusy,
                 "{} changes so fast that damage in it cannot be told from change; check again "
                 "when it is quieter",
                 root.object);
}

void Damage::add_hits(const CatalogRoot& root, const std::vector<DamageFinder::Hit>& hits) {
  for (const DamageFinder::Hit& hit : hits) {
    Affected& affected = hits_[hit.record];
    const uint64_t offset = hit.first_block * kBlockBytes;
    if (offset >= root.size_bytes) continue;
    const uint64_t length = std::min(hit.count * kBlockBytes, root.size_bytes - offset);
    add_range(affected.ranges, affected.left_out, {root.object, offset, length});
  }
}

std::vector<Fault> Damage::faults_of_used(const SegmentStores& stores) const {
  std::vector<Fault> faults;
  for (const auto& [address, affected] : hits_) {
    const BadRecord& bad = bad_.at(address);
    const std::string problem = (bad.is_page ? "index page: " : "chunk: ") + bad.problem;
    if (faults.empty() || !continues(faults.back(), address, problem))
      faults.push_back(
          {.kind = FaultKind::kRecord,
           .object = describe_segment(address.segment(), stores),
           .segment = address.segment(),
           .offset = address.offset_bytes(),
           .problem = problem,
           .advice = "restore the affected ranges from a backup, or roll back to a snapshot that "
                     "is not affected"});
    Fault& fault = faults.back();
    fault.length = address.offset_bytes() + address.stored_bytes() - fault.offset;
    fault.affected_left_out += affected.left_out;
    for (const AffectedRange& range : affected.ranges)
      add_range(fault.affected, fault.affected_left_out, range);
  }
  for (Fault& fault : faults) tidy(fault.affected);
  return faults;
}

// Freed in the meantime, or its segment removed: no fault.
Task<Result<void>> Damage::add_unused(SegmentChecker& checker, const SegmentStores& stores,
                                      std::vector<Fault>& faults) const {
  for (const auto& [address, problem] : unused_) {
    if (hits_.contains(address)) continue;
    const auto again = co_await checker.read(address);
    if (again || again.error().kind() == ErrorKind::kNotFound) continue;
    if (again.error().kind() == ErrorKind::kCancelled) co_return std::unexpected(again.error());
    faults.push_back({.kind = FaultKind::kRecord,
                      .object = describe_segment(address.segment(), stores),
                      .segment = address.segment(),
                      .offset = address.offset_bytes(),
                      .length = address.stored_bytes(),
                      .problem = "unused record: " + problem,
                      .advice = "nothing needs it and garbage collection will drop it; watch the "
                                "disk"});
  }
  co_return Result<void>();
}

}  // namespace squall
