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

Task<Result<void>> Volume::admit(uint64_t bytes) {
  while (dirty_bytes() + bytes > context_.quota_bytes && is_dirty()) {
    if (gate_.is_closed()) co_return fail_errno(ESHUTDOWN, "volume {} is closed", name_);
    if (failed_) co_return std::unexpected(*failed_);
    request_commit();
    co_await commit_done_.wait();
    if (commit_error_ && dirty_bytes() + bytes > context_.quota_bytes)
      co_return std::unexpected(commit_error_->wrap(
          fmt::format("volume {}: its journal quota is full and it cannot be committed", name_)));
  }
  if (auto room = context_.room.take(room_, bytes); !room)
    co_return std::unexpected(room.error().wrap(fmt::format("volume {}", name_)));
  co_return co_await context_.journal.admit(bytes);
}

Task<Result<void>> Volume::log(RecordType type, uint64_t offset, uint64_t length,
                               ConstBytes payload) {
  if (failed_) co_return std::unexpected(*failed_);
  if (!lease_held_) CO_TRY(co_await acquire_lease());
  CO_TRY(co_await admit(payload.size()));
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
  if (head_.durability == static_cast<uint8_t>(Durability::kPool) &&
      cache_mode() != CacheMode::kUnsafe) {
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
  if (head_.durability == static_cast<uint8_t>(Durability::kPool))
    CO_TRY(co_await write_log_object());
  if (failed_) co_return std::unexpected(*failed_);
  co_return Result<void>{};
}

// Everything acknowledged before the call is in the volume's log object when it returns. One append
// serves all that wait; the engine compares the epoch with it.
Task<Result<void>> Volume::write_log_object() {
  co_await log_mutex_.acquire();
  SemaphoreGuard guard(log_mutex_);
  if (unlogged_.empty()) co_return Result<void>{};
  std::string batch;
  batch.swap(unlogged_);
  auto appended = co_await context_.logs.append(head_.id, head_.epoch, as_bytes(batch));
  if (!appended) {
    batch.append(unlogged_);
    unlogged_.swap(batch);
    co_return std::unexpected(appended.error().wrap(
        fmt::format("volume {}: its log in the pool was not written", name_)));
  }
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

void Volume::lost(const JournalRecord& record) {
  if (failed_) return;
  failed_ = Error(ErrorKind::kIo,
                  fmt::format("volume {}: a failed sync of the journal lost acknowledged writes at "
                              "offset {}; roll back to a snapshot",
                              name_, record.offset));
  LOG_ERROR("{}", failed_->message());
}

void Volume::replay(const JournalRecord& record, JournalPlace place) {
  last_landed_ = std::max(last_landed_, record.sequence);
  if (record.sequence <= head_.journal_position || head_.owner != context_.journal.id()) return;
  active_.insert(record, place);
  log_is_short_ = head_.durability == static_cast<uint8_t>(Durability::kPool);
}

namespace {
struct LoggedRecord {
  JournalRecord record;
  ConstBytes payload;
};

void collect_logged(ConstBytes bytes, uint64_t volume_id, uint64_t known,
                    std::vector<LoggedRecord>& found) {
  while (const auto record = journal_format::decode_record(bytes, volume_id)) {
    if (record->type == RecordType::kPad) break;
    const size_t header = journal_format::kRecordHeaderBytes;
    if (record->sequence > known)
      found.push_back({*record, bytes.subspan(header, record->payload_bytes)});
    bytes = bytes.subspan(header + record->payload_bytes);
  }
}
}  // namespace

// The log object holds every record that a flush of scope `pool` acknowledged. Those beyond `known`
// (what the journal brought back) are appended to the journal anew, in order.
Task<Result<void>> Volume::append_logged(uint64_t known) {
  CO_TRY_ASSIGN(const auto parts, co_await context_.logs.parts(head_.id));
  std::vector<LogPart> held;  // keeps the bytes that `found` points into
  std::vector<LoggedRecord> found;
  for (const uint64_t part : parts) {
    CO_TRY_ASSIGN(LogPart read, co_await context_.logs.read(head_.id, part));
    held.push_back(std::move(read));
    for (const auto& bytes : held.back().appends) collect_logged(bytes, head_.id, known, found);
  }
  std::ranges::sort(found, {}, [](const LoggedRecord& r) { return r.record.sequence; });
  // Under the numbers of another journal they would not be found again.
  if (!found.empty()) log_is_short_ = true;
  uint64_t last = known;
  for (const LoggedRecord& r : found) {
    // An append that failed may have been written all the same, and again later.
    if (r.record.sequence <= last || r.record.offset + r.record.length > size_bytes()) continue;
    last = r.record.sequence;
    context_.journal.admit_reserved(r.record.payload_bytes);
    CO_TRY(co_await context_.journal.append(r.record.type, head_.id, r.record.epoch,
                                            r.record.offset, r.record.length, r.payload,
                                            JournalPath::kCached));
  }
  co_return co_await context_.journal.flush();
}

Task<Result<void>> Volume::recover_log() {
  co_return co_await append_logged(std::max(last_landed_, head_.journal_position));
}

// The head is published last: until then this node's journal holds records of a volume that it does
// not own, which replay ignores.
Task<Result<void>> Volume::takeover() {
  auto pass = gate_.enter();
  if (!pass) co_return fail_errno(ESHUTDOWN, "volume {} is closed", name_);
  co_await head_mutex_.acquire();
  SemaphoreGuard guard(head_mutex_);
  const uint64_t position = context_.journal.last_sequence();
  if (head_.durability == static_cast<uint8_t>(Durability::kPool))
    CO_TRY(co_await append_logged(head_.journal_position));
  VolumeHead next = head_;
  ++next.epoch;
  next.owner = context_.journal.id();
  next.dirty = true;
  next.journal_position = position;
  CO_TRY(co_await publish(std::move(next), {}));
  lease_held_ = true;
  co_return Result<void>{};
}

Task<void> Volume::close() {
  auto closed = gate_.close();
  commit_done_.wake_all();
  co_await closed;
}

}  // namespace squall
