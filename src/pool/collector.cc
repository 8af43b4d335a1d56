// A collection, step by step. S is the set of segments that are sealed when it begins; only records
// in S are ever freed.
//
//  1. The segments being written are ended where that is worth while; the footers of S are read.
//  2. From here on a deduplication hit on a record in S marks it (see may_reference()).
//  3. Barrier: operations that began before 2 have ended, so records of theirs that lie in S are
//     reachable from a root, or garbage.
//  4. The source takes its roots, in one moment, and marks all they reach. What is published from
//     that moment on comes from those roots, from records outside S, or from hits (2).
//  5. The instant marking ends, what is unmarked is condemned: deduplication is refused it. The
//     version in the catalog (key pool/gc) is raised, which tells nodes that share the pool.
//  6. Barrier: reads that began before 5 have ended. They may hold addresses that came from roots
//     replaced since.
//  7. Sweep: segments without a live record are removed, of the others the dead ranges are punched.
//     Copies in memory of what is freed are dropped after its bytes are gone.
//  8. Barrier, before everything may be referred to again: an operation that read a record before
//     7 must not refer to it after. Who reads it later finds no record. (A dead record too small to
//     be punched stays readable and may even be referred to again: it is whole, and the next
//     collection finds it in the footer and marked.)
//
// A read or list error before 5 ends the collection and nothing is freed. Nothing here is durable
// but the version: after a crash everything starts over. What is freed was unreachable from every
// root in the catalog, since removals and commits are durable before memory knows of them.
//
// Blocking: walks over records yield every few thousand, see Pacer.
#include "pool/collector.h"

#include <algorithm>
#include <array>

#include "base/log.h"

namespace squall {

namespace {
constexpr std::array<std::string_view, 6> kPhaseNames = {"idle",    "waiting",  "reading",
                                                         "marking", "sweeping", "moving"};
constexpr std::string_view kVersionKey = "gc";
// In the background a segment is ended for a collection only when it holds a good deal; a requested
// collection ends every one.
constexpr uint64_t kRetireBytes = 8 * kMiB;
constexpr int kRoundsMax = 16;
// What a round copies, it takes in addition until the next one has freed the old places: a small
// part of what the pool holds.
constexpr uint64_t kCompactionParts = 16;
constexpr uint64_t kCompactionBytesMin = 16 * kMiB;
constexpr uint64_t kCompactionBytesMax = 512 * kMiB;
constexpr size_t kRecordsPerTurn = 4096;
// What a file system may take beyond the data, before a segment is worth punching (again): its maps
// of a punched file are part of the allocated bytes.
constexpr uint64_t kPunchSlackParts = 64;
}  // namespace

Collector::Collector(Reactor& reactor, Pool& pool, SegmentStore& segments, MetaStore& catalog,
                     LiveSource& source, CollectorConfig config)
    : reactor_(reactor),
      pool_(pool),
      segments_(segments),
      catalog_(catalog),
      source_(source),
      config_(config),
      pacer_(reactor, 0, [this] { return watch(); }),
      wanted_(reactor),
      done_(reactor) {
  timer_.context = this;
  timer_.on_expire = [](Timer& timer) {
    static_cast<Collector*>(timer.context)->wanted_.wake_all();
  };
}

Collector::~Collector() {
  CHECK(gate_.is_closed());
}

void Collector::start() {
  appended_before_ = appended_bytes();
  last_began_ns_ = reactor_.now_ns();
  spawn(run());
}

uint64_t Collector::request() {
  ++requested_;
  pacer_.set_rate(0);
  wanted_.wake_all();
  return requested_;
}

Task<Result<CollectionReport>> Collector::collect() {
  const uint64_t ticket = request();
  while (served_ < ticket && !stopping_) co_await done_.wait();
  if (served_ < ticket) co_return fail(ErrorKind::kCancelled, "squalld is stopping");
  if (last_error_) co_return std::unexpected(*last_error_);
  co_return last_;
}

void Collector::cancel() {
  if (phase_ == Phase::kIdle) return;
  cancelled_ = true;
  pool_.epochs().wake();
}

CollectorStatus Collector::status() const {
  return {.running = phase_ != Phase::kIdle || requested_ > served_,
          .phase = std::string(kPhaseNames[static_cast<size_t>(phase_)]),
          .percent = percent_,
          .ticket = served_,
          .ended = ended_,
          .error = last_error_ ? last_error_->message() : "",
          .last = last_};
}

Task<void> Collector::stop() {
  stopping_ = true;
  cancel();
  reactor_.disarm(timer_);
  wanted_.wake_all();
  done_.wake_all();
  co_await gate_.close();
}

// ---- when ----

uint64_t Collector::appended_bytes() const {
  return pool_.appended_bytes();
}

uint64_t Collector::enough_bytes() const {
  return std::max(config_.appended_min_bytes,
                  last_.live_bytes / 100 * config_.appended_min_percent);
}

// Between steps: whether to stop, and whether to hurry, because the next collection is due already.
bool Collector::watch() {
  if (!is_hurried_ && appended_bytes() - appended_before_ >= enough_bytes() + report_.moved_bytes) {
    is_hurried_ = true;
    pacer_.set_rate(0);
  }
  return cancelled_;
}

bool Collector::is_due() const {
  if (!config_.background || !pool_.is_recovered()) return false;
  if (appended_bytes() - appended_before_ >= enough_bytes()) return true;
  return source_.removals() != removals_before_ &&
         reactor_.now_ns() - last_began_ns_ >= config_.removal_age_ms * 1'000'000;
}

Task<void> Collector::run() {
  const Gate::Pass pass = gate_.enter();
  while (!stopping_) {
    if (requested_ > served_ || is_due()) {
      co_await run_one();
      continue;
    }
    reactor_.arm(timer_, reactor_.now_ns() + config_.interval_ms * 1'000'000);
    co_await wanted_.wait();
    reactor_.disarm(timer_);
  }
}

void Collector::enter(Phase phase, uint64_t done, uint64_t all) {
  phase_ = phase;
  percent_ = all == 0 ? 100 : done * 100 / all;
}

Task<void> Collector::run_one() {
  const uint64_t ticket = requested_;
  is_thorough_ = ticket > served_;
  cancelled_ = false;
  pacer_.set_rate(is_thorough_ ? 0 : config_.rate_bytes_per_s);
  is_hurried_ = is_thorough_;
  appended_before_ = appended_bytes();
  removals_before_ = source_.removals();
  last_began_ns_ = reactor_.now_ns();
  report_ = {.started_s = reactor_.wall_clock_s()};
  auto done = co_await collect_and_compact();
  report_.duration_ms = (reactor_.now_ns() - last_began_ns_) / 1'000'000;
  last_error_.reset();
  if (!done) last_error_ = done.error();
  ended_ = true;
  if (done || condemned_) last_ = report_;
  if (!done && done.error().kind() != ErrorKind::kCancelled)
    LOG_ERROR("garbage collection ended early: {}", done.error().message());
  if (done)
    LOG_INFO("garbage collection: {} bytes freed, {} moved in {} ms; {} live of {} held",
             report_.freed_bytes, report_.moved_bytes, report_.duration_ms, report_.live_bytes,
             report_.held_bytes);
  condemned_ = false;
  enter(Phase::kIdle);
  // A cancel is meant for those who wait as well.
  served_ = cancelled_ ? requested_ : ticket;
  done_.wake_all();
}

// What compaction leaves behind is freed by another round, so each begins with what the one before
// has gained.
Task<Result<void>> Collector::collect_and_compact() {
  for (int round = 0; round < kRoundsMax; ++round) {
    auto done = co_await collect_once();
    uint64_t moved = 0;
    if (done && round + 1 < kRoundsMax) {
      auto compacted = co_await compact();
      if (compacted) moved = *compacted;
      if (!compacted && compacted.error().kind() == ErrorKind::kNoSpace)
        LOG_WARN("garbage collection cannot compact: {}", compacted.error().message());
      else if (!compacted)
        done = std::unexpected(compacted.error());
    }
    candidates_.clear();
    marks_.reset();
    allocated_.clear();
    report_.moved_bytes += moved;
    if (!done || moved == 0) co_return done;
  }
  co_return Result<void>();
}

// ---- one collection ----

Task<Result<void>> Collector::collect_once() {
  enter(Phase::kWaiting);
  CO_TRY(co_await wait_recovered());
  pool_.retire_segments(is_thorough_ ? 0 : kRetireBytes);
  co_await pool_.wait_sealing();
  CO_TRY(co_await load_segments());
  pool_.set_reference_guard([this](Address address) { return may_reference(address); });
  auto marked = [](Collector& self) -> Task<Result<void>> {
    CO_TRY(co_await self.barrier());
    self.enter(Phase::kMarking);
    co_return co_await self.source_.mark_live(
        *self.marks_, self.pacer_,
        [&self](uint64_t done, uint64_t all) { self.enter(Phase::kMarking, done, all); });
  };
  if (auto done = co_await marked(*this); !done) {
    pool_.set_reference_guard(nullptr);
    co_return done;
  }
  condemned_ = true;
  auto swept = co_await sweep();
  // Not cut short: operations end by themselves.
  const bool never = false;
  co_await pool_.epochs().barrier(reactor_, never);
  pool_.set_reference_guard(nullptr);
  auto measured = co_await measure();
  co_return swept ? std::move(measured) : std::move(swept);
}

Task<Result<void>> Collector::wait_recovered() {
  constexpr uint64_t kPauseNs = 10'000'000;
  while (!pool_.is_recovered()) {
    co_await sleep_ns(reactor_, kPauseNs);
    CO_TRY(co_await pacer_.spend(0));
  }
  co_return Result<void>();
}

Task<Result<void>> Collector::barrier() {
  co_await pool_.epochs().barrier(reactor_, cancelled_);
  co_return co_await pacer_.spend(0);
}

// A segment whose footer cannot be read keeps all it holds.
Task<Result<void>> Collector::load_segments() {
  enter(Phase::kReading);
  condemned_ = false;
  report_.segments = report_.records = report_.unreadable_segments = 0;
  report_.live_records = report_.live_bytes = report_.held_bytes = 0;
  marks_ = std::make_unique<Marks>([this](SegmentId id) { return pool_.has_segment(id); });
  CO_TRY_ASSIGN(const std::vector<SegmentInfo> found, co_await segments_.list());
  std::map<SegmentId, SegmentInfo> known;
  for (const SegmentInfo& info : found) known.emplace(info.id, info);
  const std::vector<SegmentId> sealed = pool_.sealed_segments();
  for (size_t i = 0; i < sealed.size(); ++i) {
    const auto info = known.find(sealed[i]);
    if (info == known.end()) continue;
    auto footer = co_await pool_.load_footer(sealed[i], info->second.size_bytes);
    if (!footer) {
      LOG_WARN("garbage collection leaves segment {} alone: {}", sealed[i],
               footer.error().message());
      ++report_.unreadable_segments;
      continue;
    }
    report_.records += footer->records.size();
    marks_->add_segment(*footer);
    allocated_[sealed[i]] = info->second.allocated_bytes;
    enter(Phase::kReading, i, sealed.size());
    CO_TRY(co_await pacer_.spend(footer->trailer.footer_bytes));
  }
  report_.segments = marks_->segments().size();
  co_return Result<void>();
}

bool Collector::may_reference(Address address) {
  if (condemned_) return marks_->is_live(address);
  marks_->mark_whole(address);
  return true;
}

// Compared, since nodes that share the pool will raise it, too. A full disk must not keep garbage
// collection from making room, and today nobody else reads it.
Task<Result<void>> Collector::raise_version() {
  CO_TRY_ASSIGN(const auto current, co_await catalog_.get("pool", std::string(kVersionKey)));
  const uint64_t version = current ? std::strtoull(current->c_str(), nullptr, 10) : 0;
  MetaTransaction transaction{.partition = "pool"};
  transaction.compares.push_back({std::string(kVersionKey), current});
  transaction.puts.push_back({std::string(kVersionKey), std::to_string(version + 1)});
  auto raised = co_await catalog_.commit(std::move(transaction));
  if (!raised && raised.error().kind() != ErrorKind::kNoSpace) co_return raised;
  co_return Result<void>();
}

// ---- sweep ----

Task<Result<void>> Collector::sweep() {
  enter(Phase::kSweeping);
  CO_TRY(co_await raise_version());
  CO_TRY(co_await barrier());
  Result<void> outcome;
  uint64_t done = 0;
  for (const auto& [id, marks] : marks_->segments()) {
    enter(Phase::kSweeping, done++, marks_->segments().size());
    // A segment that gives an error does not keep the others from being swept.
    if (auto swept = co_await sweep_segment(id, marks); !swept) {
      if (swept.error().kind() == ErrorKind::kCancelled) co_return swept;
      if (outcome) outcome = std::move(swept);
    }
  }
  co_return outcome;
}

Task<Result<void>> Collector::sweep_segment(SegmentId id, const SegmentMarks& marks) {
  const SegmentMarks::Totals totals = marks.totals();
  CO_TRY(co_await pacer_.spend(0));
  report_.live_records += totals.records;
  report_.live_bytes += totals.live_bytes;
  report_.freed_records += marks.size() - totals.records;
  if (totals.records == 0) co_return co_await remove_segment(id, marks);
  SegmentTotals now = pool_.segment_totals(id);
  if (now.stored_bytes > 0)  // of the payloads' length only the sum is known
    now.raw_bytes = static_cast<uint64_t>(static_cast<double>(now.raw_bytes) *
                                          static_cast<double>(totals.stored_bytes) /
                                          static_cast<double>(now.stored_bytes));
  now.records = totals.records;
  now.stored_bytes = totals.stored_bytes;
  pool_.set_segment_totals(id, std::move(now));
  const std::vector<ByteRange> dead = totals.records < marks.size() && segments_.can_punch()
                                          ? marks.dead_ranges()
                                          : std::vector<ByteRange>();
  uint64_t held = marks.segment_bytes();
  for (const ByteRange& range : dead) held -= range.end - range.begin;
  candidates_.push_back({id, &marks, held, totals.live_bytes});
  if (!dead.empty()) co_return co_await punch(id, marks, dead, held);
  co_return Result<void>();
}

Task<Result<void>> Collector::remove_segment(SegmentId id, const SegmentMarks& marks) {
  CO_TRY(co_await segments_.remove(id));
  pool_.set_segment_totals(id, std::nullopt);
  ++report_.removed_segments;
  report_.freed_bytes += allocated_.at(id);
  co_return co_await forget_dead(id, marks);
}

// `needed`: what the segment should take on disk afterwards.
Task<Result<void>> Collector::punch(SegmentId id, const SegmentMarks& marks,
                                    const std::vector<ByteRange>& ranges, uint64_t needed) {
  const uint64_t held = allocated_.at(id);
  const uint64_t gain = held > needed ? held - needed : 0;
  if (gain == 0 || gain < (marks.segment_bytes() - needed) / kPunchSlackParts)
    co_return Result<void>();
  Result<void> punched;
  for (const ByteRange& range : ranges) {
    punched = co_await segments_.punch(id, range.begin, range.end - range.begin);
    if (!punched) break;
    punched = co_await pacer_.spend(range.end - range.begin > kMiB ? kMiB : kBlockBytes);
    if (!punched) break;
  }
  report_.freed_bytes += punched ? gain : 0;
  // Whatever was punched: no copy of it may stay. The sync gives the store its handles back.
  const auto forgotten = co_await forget_dead(id, marks);
  auto synced = co_await segments_.sync(id);
  CO_TRY(std::move(punched));
  CO_TRY(forgotten);
  co_return synced;
}

Task<Result<void>> Collector::forget_dead(SegmentId id, const SegmentMarks& marks) {
  for (size_t i = 0; i < marks.size(); ++i) {
    if (marks.live(i) == 0) pool_.forget(Address::make(id, marks.sector(i), marks.sectors(i)));
    if (i % kRecordsPerTurn == kRecordsPerTurn - 1) co_await yield_to(reactor_);
  }
  co_return Result<void>();
}

// ---- compaction ----

Task<Result<uint64_t>> Collector::compact() {
  uint64_t held = 0;
  for (const CompactionCandidate& candidate : candidates_) held += candidate.held_bytes;
  uint64_t available = 0;
  if (const auto stores = segments_.stores())
    for (const StoreInfo& store : *stores) available = std::max(available, store.available_bytes);
  const CompactionGoal goal{
      .begin_percent = config_.compact_percent,
      .end_percent = config_.compact_percent - (config_.compact_percent - 100) / 3,
      .slack_bytes = config_.compact_slack_bytes,
      .budget_bytes =
          std::min(std::clamp(held / kCompactionParts, kCompactionBytesMin, kCompactionBytesMax),
                   available / 4),
      .can_punch = segments_.can_punch()};
  CompactionPlan plan(candidates_, goal);
  CompactionPlan::sort(candidates_);
  for (const CompactionCandidate& candidate : candidates_) {
    if (!plan.consider(candidate)) break;
    CO_TRY(co_await pacer_.spend(0));
  }
  if (plan.empty()) co_return 0;
  enter(Phase::kMoving);
  co_return co_await source_.relocate(
      [&plan](Address address) { return plan.leaves(address); }, pacer_,
      [this](uint64_t done, uint64_t all) { enter(Phase::kMoving, done, all); });
}

Task<Result<void>> Collector::measure() {
  CO_TRY_ASSIGN(const std::vector<SegmentInfo> found, co_await segments_.list());
  for (const SegmentInfo& info : found) {
    report_.held_bytes += info.allocated_bytes;
    // What was appended meanwhile counts as live until the next collection has looked.
    if (!marks_->segments().contains(info.id)) report_.live_bytes += info.allocated_bytes;
  }
  co_return Result<void>();
}

}  // namespace squall
