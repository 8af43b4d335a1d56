// The request path: reads assemble dirty map, frozen map and index; writes go through admission,
// lease, journal and acknowledgement. A read's plan is made without suspension, so it is one
// consistent moment: journal files it needs are pinned, the root is taken by value.
#include "volume/volume.h"

#include <algorithm>

#include "base/log.h"
#include "volume/base_reader.h"
#include "volume/extents.h"

namespace squall {

using journal_format::RecordType;

std::string volume_partition(std::string_view name) {
  return fmt::format("v/{}", name);
}
std::string snapshot_key(std::string_view snapshot) {
  return fmt::format("snap/{}", snapshot);
}

Volume::Volume(VolumeContext& context, std::string name, VolumeHead head, std::string head_value,
               VolumeCounters& counters)
    : context_(context),
      name_(std::move(name)),
      head_(std::move(head)),
      head_value_(std::move(head_value)),
      room_(context.room.store(head_.store)),
      counters_(counters),
      root_{head_.root, head_.root_height},
      commit_done_(context.reactor),
      intake_(context.reactor),
      commit_mutex_(context.reactor),
      head_mutex_(context.reactor),
      log_mutex_(context.reactor) {
  active_.count_in(&room_.dirty_bytes);
  frozen_.count_in(&room_.dirty_bytes);
  if (head_.lost) fail_lost("as its head says");
  context_.journal.attach(head_.id, this);
}

Volume::~Volume() {
  context_.journal.detach(head_.id, this);
}

bool Volume::has_write_cache() const {
  return cache_mode() != CacheMode::kWritethrough && cache_mode() != CacheMode::kDirectsync;
}

// ---- reads ----

struct Volume::ReadPlan {
  enum class Source : uint8_t { kBase, kZero, kJournal };
  struct Step {
    uint64_t begin;
    uint64_t end;
    Source source;
    JournalPlace place;
  };
  std::vector<Step> steps;
  Journal& journal;

  ReadPlan(Volume& volume, uint64_t begin, uint64_t end) : journal(volume.context_.journal) {
    volume.active_.visit(begin, end, [&](const DirtyMap::Piece& piece) {
      if (piece.entry != nullptr) return add(piece);
      volume.frozen_.visit(piece.begin, piece.end,
                           [&](const DirtyMap::Piece& inner) { add(inner); });
    });
  }
  ReadPlan(const ReadPlan&) = delete;
  ~ReadPlan() {
    bool unpinned = false;
    for (const Step& step : steps) {
      if (step.source != Source::kJournal) continue;
      --step.place.file->pins;
      unpinned = true;
    }
    if (unpinned) journal.reclaim();
  }
  void add(const DirtyMap::Piece& piece) {
    Step step{piece.begin, piece.end, Source::kBase, {}};
    if (piece.entry != nullptr && piece.entry->zero) {
      step.source = Source::kZero;
    } else if (piece.entry != nullptr) {
      step.source = Source::kJournal;
      step.place = {piece.entry->place.file, piece.entry->place.position + piece.skip};
      ++step.place.file->pins;
    }
    steps.push_back(step);
  }
};

Task<Result<void>> Volume::read(uint64_t offset, Bytes to) {
  std::vector<DiskExtent> extents;
  CO_TRY(co_await read_sparse(offset, to, extents));
  fill_zero_extents(extents, to);
  co_return Result<void>{};
}

Task<Result<void>> Volume::read_sparse(uint64_t offset, Bytes to,
                                       std::vector<DiskExtent>& extents) {
  auto pass = gate_.enter();
  if (!pass) co_return fail_errno(ESHUTDOWN, "volume {} is closed", name_);
  if (failed_) co_return std::unexpected(*failed_);
  CO_TRY(check_ours());
  if (offset + to.size() > size_bytes())
    co_return fail(ErrorKind::kInvalid, "volume {}: read beyond its end", name_);
  counters_.bytes_read += to.size();
  const Epochs::Pass operation = context_.records.begin();
  const IndexRoot root = root_;
  if (active_.empty() && frozen_.empty())
    co_return co_await read_base(context_.reactor, context_.records, root, offset, to, extents);
  const ReadPlan plan(*this, offset, offset + to.size());
  for (const auto& step : plan.steps) {
    const Bytes part = to.subspan(step.begin - offset, step.end - step.begin);
    switch (step.source) {
      case ReadPlan::Source::kZero:
        append_extent(extents, part.size(), true, true);
        break;
      case ReadPlan::Source::kJournal:
        CO_TRY(co_await context_.journal.read(step.place, part));
        append_extent(extents, part.size(), false, false);
        break;
      case ReadPlan::Source::kBase: {
        std::vector<DiskExtent> inner;
        CO_TRY(
            co_await read_base(context_.reactor, context_.records, root, step.begin, part, inner));
        for (const DiskExtent& e : inner) append_extent(extents, e.length, e.hole, e.zero);
        break;
      }
    }
  }
  co_return Result<void>{};
}

Task<Result<void>> Volume::status(uint64_t offset, uint64_t length, size_t max_extents,
                                  std::vector<DiskExtent>& extents) {
  auto pass = gate_.enter();
  if (!pass) co_return fail_errno(ESHUTDOWN, "volume {} is closed", name_);
  if (failed_) co_return std::unexpected(*failed_);
  CO_TRY(check_ours());
  const Epochs::Pass operation = context_.records.begin();
  const IndexRoot root = root_;
  const ReadPlan plan(*this, offset, offset + length);
  for (const auto& step : plan.steps) {
    if (extents.size() > max_extents) break;
    if (step.source == ReadPlan::Source::kBase) {
      CO_TRY(co_await base_status(context_.records, root, step.begin, step.end - step.begin,
                                  max_extents, extents));
    } else {
      const bool zero = step.source == ReadPlan::Source::kZero;
      append_extent(extents, step.end - step.begin, zero, zero);
    }
  }
  limit_extents(extents, max_extents);
  co_return Result<void>{};
}

Task<Result<void>> Volume::prefetch(uint64_t offset, uint64_t length) {
  auto pass = gate_.enter();
  if (!pass) co_return fail_errno(ESHUTDOWN, "volume {} is closed", name_);
  if (failed_) co_return std::unexpected(*failed_);
  const Epochs::Pass operation = context_.records.begin();
  co_return co_await prefetch_base(context_.reactor, context_.records, root_, offset, length);
}

// ---- writes ----

Task<Result<void>> Volume::write(uint64_t offset, ConstBytes from, bool fua) {
  auto pass = gate_.enter();
  if (!pass) co_return fail_errno(ESHUTDOWN, "volume {} is closed", name_);
  counters_.bytes_written += from.size();
  const uint64_t piece = context_.journal.max_payload_bytes();
  for (uint64_t at = 0; at < from.size(); at += piece) {
    const uint64_t size = std::min<uint64_t>(piece, from.size() - at);
    CO_TRY(co_await log(RecordType::kWrite, offset + at, size, from.subspan(at, size)));
  }
  co_return co_await acknowledge(fua);
}

Task<Result<void>> Volume::zero(uint64_t offset, uint64_t length, bool fua) {
  return zero_range(offset, length, fua);
}

// A trim leaves edges within a 4 KiB block alone: to zero them would cost a read of the block.
Task<Result<void>> Volume::trim(uint64_t offset, uint64_t length, bool fua) {
  const uint64_t begin = round_up(offset, kBlockBytes);
  uint64_t end = round_down(offset + length, kBlockBytes);
  if (offset + length == size_bytes()) end = offset + length;
  return zero_range(begin, end > begin ? end - begin : 0, fua);
}

Task<Result<void>> Volume::zero_range(uint64_t offset, uint64_t length, bool fua) {
  auto pass = gate_.enter();
  if (!pass) co_return fail_errno(ESHUTDOWN, "volume {} is closed", name_);
  if (length > 0) CO_TRY(co_await log(RecordType::kZero, offset, length, {}));
  co_return co_await acknowledge(fua);
}

// The lease is taken at the first write, so that merely opening a disk takes nothing from anybody.
Task<Result<void>> Volume::acquire_lease() {
  co_await head_mutex_.acquire();
  SemaphoreGuard guard(head_mutex_);
  if (lease_held_) co_return Result<void>{};
  CO_TRY(check_ours());
  VolumeHead next = head_;
  ++next.epoch;
  next.dirty = true;
  if (next.owner != context_.journal.id()) {
    // Positions count in the owner's journal. Whatever ours still holds of this volume is older
    // than what the pool has.
    next.owner = context_.journal.id();
    next.journal_position = context_.journal.last_sequence();
  }
  CO_TRY(co_await publish(std::move(next), {}));
  lease_held_ = true;
  co_return Result<void>{};
}

// A write's bytes count against the quota from its admission on.
class Volume::QuotaShare {
 public:
  QuotaShare(Volume& volume, uint64_t bytes) : volume_(volume), bytes_(bytes) {
    volume_.admitted_bytes_ += bytes_;
  }
  QuotaShare(const QuotaShare&) = delete;
  ~QuotaShare() {
    volume_.admitted_bytes_ -= bytes_;
    volume_.commit_done_.wake_all();
  }

 private:
  Volume& volume_;
  uint64_t bytes_;
};

// A guest prefers a disk that stalls to one that fails: while commits fail for another reason than
// a full pool, and while they merely take long, writers wait. Not for ever, though.
Task<Result<void>> Volume::wait_for_quota(uint64_t bytes) {
  const uint64_t since = context_.reactor.now_ns();
  auto is_over = [&] {
    const uint64_t held = dirty_bytes() + admitted_bytes_;
    return held > 0 && held + bytes > context_.quota_bytes;
  };
  while (is_over()) {
    if (gate_.is_closed()) co_return fail_errno(ESHUTDOWN, "volume {} is closed", name_);
    if (failed_) co_return std::unexpected(*failed_);
    const uint64_t waited_ns = context_.reactor.now_ns() - std::max(since, committed_ns_);
    const bool pool_full = commit_error_ && commit_error_->kind() == ErrorKind::kNoSpace;
    if (pool_full || waited_ns >= context_.stall_ms * 1'000'000)
      co_return fail_errno(
          ENOSPC, "volume {}: its journal quota is full and it cannot be committed ({})", name_,
          commit_error_ ? commit_error_->message() : "the pool does not answer");
    if (is_dirty()) request_commit();
    co_await commit_done_.wait();
  }
  co_return Result<void>{};
}

Task<Result<void>> Volume::log(RecordType type, uint64_t offset, uint64_t length,
                               ConstBytes payload) {
  if (failed_) co_return std::unexpected(*failed_);
  if (!lease_held_) CO_TRY(co_await acquire_lease());
  CO_TRY(co_await wait_for_quota(payload.size()));
  const QuotaShare share(*this, payload.size());
  if (auto room = context_.room.take(room_, payload.size()); !room)
    co_return std::unexpected(room.error().wrap(fmt::format("volume {}", name_)));
  CO_TRY(co_await context_.journal.admit(payload.size()));
  if (!intake_.try_lock_shared()) co_await intake_.lock_shared();
  SharedLock lock(intake_);
  // The lease may have been given up while this write waited.
  if (!lease_held_) {
    if (auto taken = co_await acquire_lease(); !taken) {
      context_.journal.return_admission(payload.size());
      co_return taken;
    }
  }
  if (failed_ || gate_.is_closed() || offset + length > size_bytes()) {
    context_.journal.return_admission(payload.size());
    if (failed_) co_return std::unexpected(*failed_);
    if (gate_.is_closed()) co_return fail_errno(ESHUTDOWN, "volume {} is closed", name_);
    co_return fail(ErrorKind::kInvalid, "volume {}: request beyond its end", name_);
  }
  const bool direct = cache_mode() == CacheMode::kNone || cache_mode() == CacheMode::kDirectsync;
  const uint64_t epoch = head_.epoch;
  auto sequence =
      co_await context_.journal.append(type, head_.id, epoch, offset, length, payload,
                                       direct ? JournalPath::kDirect : JournalPath::kCached);
  if (!sequence) co_return std::unexpected(sequence.error());
  // `unsafe` never writes the log object: its flushes promise nothing.
  if (is_logged() && cache_mode() != CacheMode::kUnsafe) {
    std::array<std::byte, journal_format::kRecordHeaderBytes> header;
    journal_format::encode_record_header(
        {type, static_cast<uint32_t>(payload.size()), *sequence, head_.id, epoch, offset, length},
        payload, head_.id, header);
    unlogged_.append(as_text(header)).append(as_text(payload));
  }
  co_return Result<void>{};
}

Task<Result<void>> Volume::acknowledge(bool fua) {
  if (cache_mode() == CacheMode::kUnsafe) co_return Result<void>{};
  if (fua || !has_write_cache()) co_return co_await make_durable();
  constexpr size_t kUnloggedMax = 16 * kMiB;  // memory bound of scope `pool`
  if (unlogged_.size() > kUnloggedMax) co_return co_await write_log_object();
  co_return Result<void>{};
}

Task<Result<void>> Volume::flush() {
  auto pass = gate_.enter();
  if (!pass) co_return fail_errno(ESHUTDOWN, "volume {} is closed", name_);
  if (failed_) co_return std::unexpected(*failed_);
  if (cache_mode() == CacheMode::kUnsafe) co_return Result<void>{};
  co_return co_await make_durable();
}

Task<Result<void>> Volume::make_durable() {
  CO_TRY(co_await context_.journal.flush());
  // What a killed daemon acknowledged and had not put into the log object is in the journal alone.
  if (log_is_short_) {
    CO_TRY(co_await commit());
    log_is_short_ = false;
  }
  if (is_logged()) CO_TRY(co_await write_log_object());
  if (failed_) co_return std::unexpected(*failed_);
  co_return Result<void>{};
}

// ---- the journal's side ----

void Volume::landed(const JournalRecord& record, JournalPlace place) {
  last_landed_ = record.sequence;
  if (active_.empty()) dirty_since_ns_ = context_.reactor.now_ns();
  active_.insert(record, place);
  constexpr size_t kEntriesMax = 32768;  // bounds the map's memory, whatever the writes' size
  if (active_.data_bytes() >= context_.commit_bytes || active_.size() >= kEntriesMax)
    request_commit();
}

void Volume::relocated(const JournalRecord& record, JournalPlace place) {
  active_.relocate(record, place);
  frozen_.relocate(record, place);
}

void Volume::fail_lost(std::string_view how) {
  lost_ = true;
  failed_ = Error(ErrorKind::kIo,
                  fmt::format("volume {}: acknowledged writes were lost ({}); roll it back: squall "
                              "volume rollback {}@SNAPSHOT",
                              name_, how, name_),
                  EIO);
}

bool Volume::lost(const JournalRecord& record) {
  if (!active_.refers_to(record) && !frozen_.refers_to(record)) return false;
  if (lost_) return true;
  fail_lost(fmt::format("a failed sync of the journal, at offset {}", record.offset));
  LOG_ERROR("{}", failed_->message());
  return true;
}

Task<Result<void>> Volume::record_loss() {
  auto pass = gate_.enter();
  if (!pass) co_return fail_errno(ESHUTDOWN, "volume {} is closed", name_);
  co_await head_mutex_.acquire();
  SemaphoreGuard guard(head_mutex_);
  // Rolled back, removed or somebody else's meanwhile: nobody needs what is gone.
  if (!lost_ || head_.lost || head_.owner != context_.journal.id()) co_return Result<void>{};
  VolumeHead next = head_;
  next.lost = true;
  auto published = co_await publish(std::move(next), {});
  if (!published && published.error().kind() == ErrorKind::kFenced) co_return Result<void>{};
  co_return published;
}

void Volume::replay(const JournalRecord& record, JournalPlace place) {
  last_landed_ = std::max(last_landed_, record.sequence);
  if (record.sequence <= head_.journal_position || head_.owner != context_.journal.id()) return;
  active_.insert(record, place);
  log_is_short_ = is_logged();
}

Task<void> Volume::close() {
  auto closed = gate_.close();
  commit_done_.wake_all();
  co_await closed;
}

}  // namespace squall
