#include "check/repair.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <set>

#include "check/catalog_check.h"
#include "pool/recovery.h"
#include "pool/segment_reader.h"

namespace squall {

namespace {
constexpr const char* kQuarantine = "quarantine";
// Numbers of what was removed since are not known any more, and none may be used twice.
constexpr uint64_t kIdMargin = uint64_t{1} << 20;
constexpr uint64_t kSegmentMargin = 4096;

class Repair {
 public:
  Repair(CheckTarget target, CheckReport report)
      : target_(std::move(target)), report_(std::move(report)) {}

  Task<Result<std::vector<std::string>>> run();

 private:
  struct SegmentFaults {
    bool header = false;
    bool footer = false;      // or trailer
    uint64_t used_bytes = 0;  // where the last record ends that is damaged and needed
  };

  Task<Result<void>> repair_catalog(const CatalogView& view);
  Task<Result<void>> repair_entry(MetaEntry entry);
  Task<Result<void>> put(std::string partition, std::string key, std::optional<std::string> value);
  Task<Result<void>> raise_counter(std::string key, uint64_t in_use, uint64_t margin);
  Task<Result<void>> repair_segments(std::vector<SegmentInfo> segments);
  Task<Result<void>> rebuild(SegmentInfo segment, SegmentFaults faults);
  Task<Result<void>> seal_open(std::vector<SegmentInfo> segments);
  void say(std::string line) { actions_.push_back(std::move(line)); }

  CheckTarget target_;
  CheckReport report_;
  std::map<SegmentId, SegmentFaults> faults_;
  std::vector<std::string> actions_;
};

// Whether an entry's value is whole, going by the checksum that it carries itself.
bool is_whole(const MetaEntry& entry) {
  if (entry.partition.starts_with("n/")) return decode_node_head(entry.value).has_value();
  if (entry.partition.starts_with("v/") && entry.key == "head")
    return decode_volume_head(entry.value).has_value();
  if (entry.partition.starts_with("v/") || entry.partition.starts_with("i/"))
    return decode_snapshot_head(entry.value).has_value();
  return false;
}

Task<Result<std::vector<std::string>>> Repair::run() {
  for (const Fault& fault : report_.faults) {
    if (fault.segment == 0) continue;
    SegmentFaults& faults = faults_[fault.segment];
    if (fault.kind == FaultKind::kHeader) faults.header = true;
    if (fault.kind == FaultKind::kFooter || fault.kind == FaultKind::kTrailer) faults.footer = true;
    if (fault.kind == FaultKind::kRecord && !fault.affected.empty())
      faults.used_bytes = std::max(faults.used_bytes, fault.offset + fault.length);
  }
  CO_TRY_ASSIGN(const auto stores, target_.segments.stores());
  std::set<std::string> names;
  for (const StoreInfo& store : stores) names.insert(store.name);
  // Twice: the snapshots of a volume that goes are of no use either.
  CatalogView view;
  for (int round = 0; round < 2; ++round) {
    CO_TRY_ASSIGN(view, co_await read_catalog(target_.catalog, names));
    CO_TRY(co_await repair_catalog(view));
  }
  CO_TRY_ASSIGN(auto segments, co_await target_.segments.list());
  const SegmentId highest = segments.empty() ? 0 : segments.back().id;
  CO_TRY(co_await raise_counter(kNextSegmentKey, highest, kSegmentMargin));
  CO_TRY(co_await raise_counter(kNextIdKey, view.highest_id, kIdMargin));
  CO_TRY(co_await repair_segments(std::move(segments)));
  co_return std::move(actions_);
}

Task<Result<void>> Repair::put(std::string partition, std::string key,
                               std::optional<std::string> value) {
  MetaTransaction transaction;
  transaction.partition = std::move(partition);
  transaction.puts.push_back({std::move(key), std::move(value)});
  co_return co_await target_.catalog.commit(std::move(transaction));
}

Task<Result<void>> Repair::repair_catalog(const CatalogView& view) {
  for (const MetaEntry& entry : view.bad_entries) {
    const bool is_counter = entry.partition == kPoolPartition &&
                            (entry.key == kNextIdKey || entry.key == kNextSegmentKey);
    // A store's path is of use even so: the store's marker proves it.
    const bool is_store = entry.partition == kPoolPartition && entry.key.starts_with("store/");
    if ((is_counter && !entry.restored) || (is_store && !entry.restored)) continue;
    CO_TRY(co_await repair_entry(entry));
  }
  co_return Result<void>();
}

Task<Result<void>> Repair::repair_entry(MetaEntry entry) {
  const std::string name = "catalog entry " + entry.partition + " " + entry.key;
  if (entry.damaged && entry.restored) {
    CO_TRY(co_await put(entry.partition, entry.key, *entry.restored));
    say(name + ": one byte had changed; put right");
    co_return Result<void>();
  }
  if (entry.damaged && is_whole(entry)) {
    CO_TRY(co_await put(entry.partition, entry.key, entry.value));
    say(name + ": its value is whole, only the checksum was wrong; written anew");
    co_return Result<void>();
  }
  // There first, then gone here: killed in between, the next repair does both again.
  CO_TRY(co_await put(kQuarantine, entry.partition + "/" + entry.key, entry.value));
  CO_TRY(co_await put(entry.partition, entry.key, std::nullopt));
  say(
      fmt::format("{}: moved to the catalog's {} as {}/{}; restore the object from a backup of the "
                  "catalog, or make it anew",
                  name, kQuarantine, entry.partition, entry.key));
  co_return Result<void>();
}

Task<Result<void>> Repair::raise_counter(std::string key, uint64_t in_use, uint64_t margin) {
  const auto value = co_await target_.catalog.get(kPoolPartition, key);
  if (!value && value.error().kind() != ErrorKind::kCorrupt)
    co_return std::unexpected(value.error());
  uint64_t number = 0;
  if (value && !*value) number = 1;  // nothing was ever handed out
  if (value && *value) {
    const char* end = (*value)->data() + (*value)->size();
    const auto parsed = std::from_chars((*value)->data(), end, number);
    if (parsed.ec != std::errc() || parsed.ptr != end) number = 0;
  }
  if (number > in_use) co_return Result<void>();
  const uint64_t raised = in_use + margin;
  CO_TRY(co_await put(kPoolPartition, key, std::to_string(raised)));
  say(fmt::format("catalog entry pool {}: raised to {}, above {} which is in use", key, raised,
                  in_use));
  co_return Result<void>();
}

Task<Result<void>> Repair::repair_segments(std::vector<SegmentInfo> segments) {
  std::vector<SegmentInfo> open;
  for (const SegmentInfo& segment : segments) {
    const auto faults = faults_.find(segment.id);
    if (faults != faults_.end() && (faults->second.header || faults->second.footer)) {
      CO_TRY(co_await rebuild(segment, faults->second));
      continue;
    }
    // One that was open and whose end holds damage that is needed is left to the daemon and to
    // whoever wants to look at it.
    if (faults != faults_.end() && faults->second.used_bytes > 0) continue;
    const auto trailer = co_await read_segment_trailer(target_.segments, target_.pool, segment.id,
                                                       segment.size_bytes);
    if (!trailer && trailer.error().kind() == ErrorKind::kCorrupt) open.push_back(segment);
  }
  co_return co_await seal_open(std::move(open));
}

Task<Result<void>> Repair::rebuild(SegmentInfo segment, SegmentFaults faults) {
  const std::string name = fmt::format("segment {} in store {}", segment.id, segment.store);
  CO_TRY_ASSIGN(SegmentScan scan, co_await scan_segment(target_.segments, target_.pool, segment.id,
                                                        segment.size_bytes, [] { return false; }));
  if (scan.records.empty()) {
    if (faults.used_bytes > 0) {
      say(name + ": no record in it is valid, and volumes need it; left as it is");
      co_return Result<void>();
    }
    CO_TRY_ASSIGN(const std::string place, co_await target_.segments.quarantine(segment.id));
    say(fmt::format("{}: no record in it is valid and nothing needs it; moved to {}", name, place));
    co_return Result<void>();
  }
  if (faults.header) {
    CO_TRY(co_await rewrite_segment_header(target_.segments, target_.pool, segment.id));
    say(name + ": header made anew");
  }
  if (!faults.footer) co_return Result<void>();
  // Nothing that lies in front of the old footer is cut off, nor what is needed, be it damaged.
  const auto trailer =
      co_await read_segment_trailer(target_.segments, target_.pool, segment.id, segment.size_bytes);
  scan.end_bytes = std::max(scan.end_bytes, faults.used_bytes);
  if (trailer) scan.end_bytes = std::max(scan.end_bytes, trailer->footer_offset);
  const size_t records = scan.records.size();
  CO_TRY(co_await seal_segment(target_.segments, target_.pool, segment.id, std::move(scan)));
  say(fmt::format("{}: footer and trailer made anew from {} records", name, records));
  co_return Result<void>();
}

Task<Result<void>> Repair::seal_open(std::vector<SegmentInfo> segments) {
  if (segments.empty()) co_return Result<void>();
  Recovery recovery(
      target_.reactor, target_.segments, target_.pool,
      [this](SegmentId id, SegmentTotals totals, bool sealed) {
        say(fmt::format("segment {} in store {}: {}", id, totals.store,
                        sealed ? fmt::format("was open; sealed with {} records", totals.records)
                               : "was open and cannot be sealed; see the log"));
      });
  co_await recovery.run(std::move(segments));
  co_return Result<void>();
}

}  // namespace

Task<Result<std::vector<std::string>>> repair_pool(CheckTarget target, CheckReport report) {
  Repair repair(std::move(target), std::move(report));
  co_return co_await repair.run();
}

}  // namespace squall
