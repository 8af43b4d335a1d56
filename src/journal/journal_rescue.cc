// After a failed sync, what the kernel says of those pages is worth nothing. Every record beyond
// the durable part is read back, checked and written to new files, whose starts say that the log
// before them ends at the durable part.
#include "base/log.h"
#include "journal/journal.h"

namespace squall {

using journal_format::IndexEntry;
using journal_format::kRecordHeaderBytes;
using journal_format::record_bytes;

// The queue's runner may wait for a file that only a sync could free: it steps aside.
Task<void> Journal::take_the_tail() {
  rescue_waits_ = true;
  next_ready_.wake_all();
  while (writing_) co_await idle_.wait();
  rescue_waits_ = false;
  writing_ = rescuing_ = true;
}

void Journal::give_back_the_tail() {
  writing_ = rescuing_ = false;
  idle_.wake_all();
  if (queue_.empty()) return;
  writing_ = true;
  spawn(run_queue());
}

Task<Result<void>> Journal::rescue(Error error) {
  LOG_ERROR("{}", error.message());
  co_await take_the_tail();
  for (auto& file : files_) {
    if (!file->unsynced) continue;
    file->unsynced = false;
    file->sealed = file->poisoned = true;
  }
  std::vector<JournalFile*> old;
  for (auto& file : files_) {
    if (file->last_sequence <= durable_) continue;
    ++file->pins;
    old.push_back(file.get());
  }
  Result<void> outcome = co_await copy_beyond(durable_, old);
  const uint64_t end = landed_;
  for (auto& file : files_) {
    if (!outcome || !file->unsynced) continue;
    file->unsynced = false;
    if (const int result = co_await io_sync(reactor_, file->cached_handle); result < 0)
      outcome = fail_errno(-result, "journal: sync of {} failed again", file->path);
  }
  for (JournalFile* file : old) --file->pins;
  if (outcome) {
    durable_ = std::max(durable_, end);
    proven_ = files_.back()->last_sequence;
  } else {
    failed_ = outcome.error().wrap(
        "journal: gave up after a failed sync; replace the disk, then restart squalld");
    LOG_ERROR("{}", failed_->message());
  }
  reclaim();
  give_back_the_tail();
  if (failed_) co_return std::unexpected(*failed_);
  co_return Result<void>{};
}

// What was lost must be on record before the copies hide it. The starts that end the log before the
// copies come last, and the last file's first: whenever the daemon is killed, either the old places
// count or complete copies do.
Task<Result<void>> Journal::copy_beyond(uint64_t keep_from, const std::vector<JournalFile*>& old) {
  CopyFiles copies;
  CO_TRY(co_await begin_copy_file(keep_from, copies));
  for (JournalFile* file : old) {
    const std::vector<IndexEntry> entries = file->entries;
    for (const IndexEntry& entry : entries)
      if (entry.record.sequence > keep_from) CO_TRY(co_await copy_record(*file, entry, copies));
  }
  for (const uint64_t volume : std::exchange(volumes_with_losses_, {}))
    if (auto sink = sinks_.find(volume); sink != sinks_.end())
      CO_TRY(co_await sink->second->record_loss());
  for (auto it = copies.rbegin(); it != copies.rend(); ++it)
    CO_TRY(write_start(*it->first, it->second));
  co_return Result<void>{};
}

Task<Result<void>> Journal::begin_copy_file(uint64_t previous_last_sequence, CopyFiles& copies) {
  CO_TRY(co_await roll(landed_));
  files_.back()->last_sequence = previous_last_sequence;
  copies.emplace_back(files_.back().get(), previous_last_sequence);
  co_return Result<void>{};
}

Task<Result<void>> Journal::copy_record(JournalFile& from, const IndexEntry& entry,
                                        CopyFiles& copies) {
  const JournalRecord& record = entry.record;
  if (!sinks_.contains(record.volume_id)) co_return Result<void>{};
  std::vector<std::byte> bytes(record_bytes(record.payload_bytes));
  const Bytes payload = Bytes(bytes).subspan(kRecordHeaderBytes, record.payload_bytes);
  bool whole = true;
  if (record.payload_bytes > 0) {  // else all of it is known
    const int got = co_await io_read(reactor_, from.cached_handle, bytes, entry.position);
    whole = got == static_cast<int>(bytes.size()) &&
            journal_format::decode_record(bytes, from.seed) == record;
  }
  const auto found = sinks_.find(record.volume_id);
  if (found == sinks_.end()) co_return Result<void>{};
  if (!whole) {
    if (found->second->lost(record)) volumes_with_losses_.insert(record.volume_id);
    co_return Result<void>{};
  }
  if (!fits(*files_.back(), bytes.size(), 1))
    CO_TRY(co_await begin_copy_file(files_.back()->last_sequence, copies));
  JournalFile& to = *files_.back();
  journal_format::encode_record_header(record, payload, to.seed,
                                       Bytes(bytes).first(kRecordHeaderBytes));
  to.unsynced = true;
  CO_TRY(fs_.write(to.cached_handle, ConstBytes(bytes), to.tail));
  const uint64_t position = to.tail;
  to.tail += bytes.size();
  to.last_sequence = record.sequence;
  to.entries.push_back({record, position});
  if (!payload.empty()) to.payloads.add(position + kRecordHeaderBytes, payload);
  // The sink may have gone while a file was begun.
  if (auto sink = sinks_.find(record.volume_id); sink != sinks_.end())
    sink->second->relocated(record, {&to, position + kRecordHeaderBytes});
  co_return Result<void>{};
}

}  // namespace squall
