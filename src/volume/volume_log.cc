// Scope `pool`: the volume's log object in the pool, and the two ways back from it: a node that
// lost part of its journal, and another node that takes the volume over. Both move what the log
// has, and the journal has not, straight into the pool and publish root and position in one
// transaction: whenever that is interrupted, nothing has happened yet.
#include <algorithm>

#include "base/log.h"
#include "volume/volume.h"

namespace squall {

using journal_format::RecordType;

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

// What the log object holds; the map's places are in `memory`.
struct Volume::LoggedData {
  DirtyMap map;
  std::vector<std::byte> memory;
};

namespace {
struct LoggedRecord {
  JournalRecord record;
  uint64_t payload = 0;  // in the memory they were read to
};

void collect_logged(ConstBytes all, uint64_t at, uint64_t volume_id, uint64_t known,
                    std::vector<LoggedRecord>& found) {
  while (const auto record = journal_format::decode_record(all.subspan(at), volume_id)) {
    if (record->type == RecordType::kPad) break;
    at += journal_format::kRecordHeaderBytes;
    if (record->sequence > known) found.push_back({*record, at});
    at += record->payload_bytes;
  }
}
}  // namespace

// The log object holds every record that a flush of scope `pool` acknowledged; those up to `known`
// are not wanted.
Task<Result<Volume::LoggedData>> Volume::read_log(uint64_t known) {
  LoggedData data;
  std::vector<LoggedRecord> found;
  CO_TRY_ASSIGN(const auto parts, co_await context_.logs.parts(head_.id));
  for (const uint64_t part : parts) {
    CO_TRY_ASSIGN(const LogPart read, co_await context_.logs.read(head_.id, part));
    for (const auto& bytes : read.appends) {
      const uint64_t at = data.memory.size();
      data.memory.insert(data.memory.end(), bytes.begin(), bytes.end());
      collect_logged(data.memory, at, head_.id, known, found);
    }
  }
  // An append that failed may have been written all the same, and again later: the map takes each
  // record once, and the newest wins.
  for (const LoggedRecord& r : found)
    if (r.record.offset + r.record.length <= size_bytes())
      data.map.insert(r.record, {nullptr, r.payload});
  if (data.map.empty()) data.memory.clear();
  co_return std::move(data);
}

// The caller holds commit_mutex_, and nothing is dirty.
Task<Result<void>> Volume::fold_in(LoggedData data, bool take_over) {
  const Epochs::Pass operation = context_.records.begin();
  IndexRoot root = root_;
  if (!data.map.empty()) {
    CO_TRY_ASSIGN(root, co_await build_root(data.map, data.memory, head_.size_bytes));
  }
  co_await head_mutex_.acquire();
  SemaphoreGuard guard(head_mutex_);
  VolumeHead next = head_;
  next.root = root.address;
  next.root_height = root.height;
  next.journal_position = context_.journal.last_sequence();
  if (take_over) {
    ++next.epoch;
    next.owner = context_.journal.id();
    next.dirty = true;
  }
  CO_TRY(co_await publish(std::move(next), {}));
  root_ = root;
  lease_held_ |= take_over;
  co_return Result<void>{};
}

Task<Result<void>> Volume::recover_log_locked() {
  CO_TRY_ASSIGN(LoggedData data, co_await read_log(std::max(last_landed_, head_.journal_position)));
  if (data.map.empty()) co_return Result<void>{};
  LOG_INFO("volume {}: {} bytes that the journal lost come from its log in the pool", name_,
           data.map.data_bytes());
  folding_log_ = true;  // until both are in the pool the log is needed again if this is interrupted
  auto done = co_await commit_locked(false, head_.size_bytes, nullptr);
  if (done) done = co_await fold_in(std::move(data), false);
  folding_log_ = false;
  if (!done) co_return done;
  co_await log_mutex_.acquire();
  SemaphoreGuard log_guard(log_mutex_);
  CO_TRY_ASSIGN(const uint64_t part, co_await context_.logs.rotate(head_.id, head_.epoch));
  co_return co_await context_.logs.drop_before(head_.id, part);
}

// Where it fails (the pool is full or away, the log damaged) the volume has neither its newest
// content nor a consistent older one, so it answers nothing until another attempt succeeds.
Task<Result<void>> Volume::recover_log() {
  auto pass = gate_.enter();
  if (!pass) co_return fail_errno(ESHUTDOWN, "volume {} is closed", name_);
  co_await commit_mutex_.acquire();
  SemaphoreGuard guard(commit_mutex_);
  if (failed_ && !unrecovered_) co_return Result<void>{};
  auto done = co_await recover_log_locked();
  if (!done) {
    failed_ = Error(ErrorKind::kIo,
                    fmt::format("volume {}: its log in the pool is not recovered yet ({})", name_,
                                done.error().message()),
                    EIO);
    if (!std::exchange(unrecovered_, true)) LOG_ERROR("{}", failed_->message());
  } else if (std::exchange(unrecovered_, false)) {
    failed_.reset();
  }
  co_return done;
}

// From the new part on the log refuses the last owner.
Task<Result<void>> Volume::takeover() {
  auto pass = gate_.enter();
  if (!pass) co_return fail_errno(ESHUTDOWN, "volume {} is closed", name_);
  co_await commit_mutex_.acquire();
  SemaphoreGuard guard(commit_mutex_);
  if (!is_logged()) co_return co_await fold_in({}, true);
  co_await log_mutex_.acquire();
  SemaphoreGuard log_guard(log_mutex_);
  CO_TRY_ASSIGN(const uint64_t part, co_await context_.logs.rotate(head_.id, head_.epoch + 1));
  CO_TRY_ASSIGN(LoggedData data, co_await read_log(head_.journal_position));
  CO_TRY(co_await fold_in(std::move(data), true));
  if (auto dropped = co_await context_.logs.drop_before(head_.id, part); !dropped)
    LOG_WARN("volume {}: {}", name_, dropped.error().message());
  co_return Result<void>{};
}

}  // namespace squall
