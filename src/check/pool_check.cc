// The order matters on a pool in use. Roots are walked first and segments listed afterwards, so
// that every segment a root leads to is in the list, unless it was removed since. What looks bad is
// only suspected until the last phase (damage.h), which walks the roots that the catalog holds by
// then: damage that no present root leads to is no damage.
#include "check/pool_check.h"

#include <algorithm>

#include "base/buffer.h"
#include "check/catalog_check.h"
#include "check/damage.h"
#include "check/log_check.h"
#include "check/root_walk.h"
#include "journal/journal_check.h"

namespace squall {

namespace {
constexpr size_t kFaultsMax = 10'000;
// How much of the whole the phases are, in percent.
constexpr uint64_t kVolumesPercent = 20;
constexpr uint64_t kSegmentsPercent = 75;
constexpr const char* kCatalogAdvice = "stop squalld and put a copy of the catalog back";

class PoolCheck {
 public:
  PoolCheck(CheckTarget target, CheckOptions options)
      : target_(target),
        options_(std::move(options)),
        pacer_(target.reactor, options_.rate_bytes_per_s, options_.cancelled),
        checker_(target.reactor, target.executor, target.segments, target.pool, pacer_) {}

  Task<Result<CheckReport>> run();

 private:
  Result<void> check_stores();
  Task<Result<bool>> check_catalog();
  Task<Result<void>> mark_roots();
  Task<Result<void>> check_segments();
  Task<Result<void>> check_segment(SegmentInfo segment);
  Task<Result<void>> check_host_journal();
  void note_missing();

  void add(Fault fault);
  void add_all(std::vector<Fault> faults);
  void add_catalog_fault(std::string problem);
  void progress(std::string phase, uint64_t percent);

  CheckTarget target_;
  CheckOptions options_;
  Pacer pacer_;
  SegmentChecker checker_;
  CheckReport report_;
  std::set<std::string> store_names_;
  bool store_is_away_ = false;
  CatalogView view_;
  UsesBySegment uses_;
  SegmentStores stores_;
  Damage damage_;
};

void PoolCheck::add(Fault fault) {
  if (report_.faults.size() < kFaultsMax)
    report_.faults.push_back(std::move(fault));
  else
    ++report_.faults_left_out;
}

void PoolCheck::add_all(std::vector<Fault> faults) {
  for (Fault& fault : faults) add(std::move(fault));
}

void PoolCheck::add_catalog_fault(std::string problem) {
  add({.kind = FaultKind::kCatalog,
       .object = "catalog",
       .problem = std::move(problem),
       .advice = kCatalogAdvice});
}

void PoolCheck::progress(std::string phase, uint64_t percent) {
  if (options_.on_progress)
    options_.on_progress({.phase = std::move(phase),
                          .percent = percent,
                          .read_bytes = pacer_.spent_bytes(),
                          .faults = report_.faults.size() + damage_.suspects()});
}

Task<Result<CheckReport>> PoolCheck::run() {
  CO_TRY(check_stores());
  CO_TRY_ASSIGN(const bool readable, co_await check_catalog());
  if (readable) {
    CO_TRY(co_await mark_roots());
    CO_TRY(co_await check_segments());
    progress("logs", kVolumesPercent + kSegmentsPercent);
    CO_TRY_ASSIGN(auto faults, co_await check_logs(target_.logs, target_.catalog, view_, pacer_));
    add_all(std::move(faults));
    CO_TRY(co_await check_host_journal());
    progress("damage", kVolumesPercent + kSegmentsPercent);
    CO_TRY_ASSIGN(auto damage,
                  co_await damage_.confirm(target_.catalog, checker_, store_names_, stores_));
    add_all(std::move(damage));
  }
  report_.read_bytes = pacer_.spent_bytes();
  damage_ = {};
  progress("done", 100);
  co_return std::move(report_);
}

Result<void> PoolCheck::check_stores() {
  TRY_ASSIGN(const auto stores, target_.segments.stores());
  for (const StoreInfo& store : stores) {
    store_names_.insert(store.name);
    if (store.available) continue;
    store_is_away_ = true;
    add({.kind = FaultKind::kStore,
         .object = "store " + store.name,
         .problem = "it is away: " + store.problem,
         .advice = "bring its disk back and check again: what lies there was not verified"});
  }
  return {};
}

// False when it cannot be read at all, so that nothing else can be told.
Task<Result<bool>> PoolCheck::check_catalog() {
  progress("catalog", 0);
  const auto problems = co_await target_.catalog.check_structure();
  if (problems) {
    for (const std::string& problem : *problems) add_catalog_fault(problem);
  } else {
    if (problems.error().kind() != ErrorKind::kCorrupt) co_return std::unexpected(problems.error());
    add_catalog_fault(problems.error().message());
  }
  auto view = co_await read_catalog(target_.catalog, store_names_);
  if (!view) {
    if (view.error().kind() != ErrorKind::kCorrupt) co_return std::unexpected(view.error());
    add_catalog_fault(view.error().message());
    co_return false;
  }
  view_ = std::move(*view);
  add_all(std::move(view_.faults));
  co_return true;
}

Task<Result<void>> PoolCheck::mark_roots() {
  RootMarker marker(checker_);
  for (const CatalogRoot& root : view_.roots) {
    progress("volumes", kVolumesPercent * report_.roots / view_.roots.size());
    CO_TRY(co_await marker.mark(root.root));
    ++report_.roots;
  }
  report_.pages = marker.pages();
  uses_ = marker.take_uses();
  damage_.suspect(marker.take_bad());
  co_return Result<void>();
}

Task<Result<void>> PoolCheck::check_segments() {
  const auto found = co_await target_.segments.list();
  if (!found) {
    add({.kind = FaultKind::kSegment,
         .object = "segments",
         .problem = found.error().message(),
         .advice = "restart squalld and check again: no segment was verified"});
    co_return Result<void>();
  }
  uint64_t all_bytes = 1;
  SegmentId highest = 0;
  for (const SegmentInfo& segment : *found) {
    stores_[segment.id] = segment.store;
    all_bytes += segment.allocated_bytes;
    highest = std::max(highest, segment.id);
  }
  CO_TRY_ASSIGN(auto counters, co_await check_counters(target_.catalog, view_, highest));
  add_all(std::move(counters));
  uint64_t done_bytes = 0;
  for (const SegmentInfo& segment : *found) {
    progress("segments", kVolumesPercent + kSegmentsPercent * done_bytes / all_bytes);
    CO_TRY(co_await check_segment(segment));
    done_bytes += segment.allocated_bytes;
  }
  note_missing();
  co_return Result<void>();
}

Task<Result<void>> PoolCheck::check_host_journal() {
  if (target_.journal_directory.empty()) co_return Result<void>();
  progress("journal", kVolumesPercent + kSegmentsPercent);
  const auto totals = co_await check_journal(
      target_.reactor, *target_.files, target_.journal_directory,
      [this](const JournalProblem& problem) {
        add({.kind = FaultKind::kJournal,
             .object = fmt::format("journal file {}, offset {}", problem.file, problem.offset),
             .offset = problem.offset,
             .problem = problem.what,
             .advice = "take a snapshot of every volume while squalld runs: that moves what the "
                       "journal holds into the pool"});
      });
  if (totals) {
    CO_TRY(co_await pacer_.spend(totals->bytes_read));
    co_return Result<void>();
  }
  add({.kind = FaultKind::kJournal,
       .object = "journal " + target_.journal_directory,
       .problem = totals.error().message(),
       .advice = "see whether its disk is there"});
  co_return Result<void>();
}

Task<Result<void>> PoolCheck::check_segment(SegmentInfo segment) {
  std::vector<RecordUse> uses;
  if (const auto mine = uses_.find(segment.id); mine != uses_.end()) {
    uses = std::move(mine->second);
    uses_.erase(mine);
  }
  sort_uses(uses);
  CO_TRY_ASSIGN(SegmentReport report, co_await checker_.check(segment, std::move(uses)));
  ++report_.segments;
  report_.records += report.records;
  if (!report.sealed) ++report_.unsealed_segments;
  if (report.damages.empty()) co_return Result<void>();
  // Removed in the meantime? What is needed of it is told by the roots; the rest is of no interest.
  AlignedBuffer byte(1);
  const auto there = co_await target_.segments.read(segment.id, byte.bytes(), 0);
  if (!there && there.error().kind() == ErrorKind::kNotFound)
    std::erase_if(report.damages, [](const SegmentDamage& damage) { return !damage.used; });
  add_all(damage_.note(segment, report, stores_));
  co_return Result<void>();
}

// What is left are uses of segments that are not there.
void PoolCheck::note_missing() {
  for (auto& [segment, uses] : uses_) {
    sort_uses(uses);
    for (const RecordUse& use : uses)
      damage_.suspect(Address::make(segment, use.sector, use.sectors),
                      {store_is_away_ ? "its segment is in no store that is there"
                                      : "its segment does not exist",
                       0, use.kind == RecordKind::kPage});
  }
  uses_.clear();
}

}  // namespace

Task<Result<CheckReport>> check_pool(CheckTarget target, CheckOptions options) {
  PoolCheck check(target, std::move(options));
  co_return co_await check.run();
}

}  // namespace squall
