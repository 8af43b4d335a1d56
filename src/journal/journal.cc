// Appends and syncs. A record that needs no direct I/O and finds nobody before it is written into
// the page cache at once, by one system call and without suspension: that is writeback's
// acknowledgement. Everything else goes through the queue, whose runner writes batches: one direct
// write when any record of the batch asks for it, one cached write otherwise. Cached and direct
// batches never share a 4 KiB page of the file: pad records fill the seams.
#include "journal/journal.h"

#include <algorithm>

#include "base/log.h"

namespace squall {

using journal_format::IndexEntry;
using journal_format::kBlock;
using journal_format::kRecordHeaderBytes;
using journal_format::record_bytes;
using journal_format::RecordType;

namespace {
constexpr uint64_t kBatchBytes = 8 * kMiB;
constexpr size_t kBatchRecords = 256;

// A pad that ends at a block boundary: from `position`, at least a header long.
uint64_t pad_end(uint64_t position) {
  return round_up(position + kRecordHeaderBytes, kBlock);
}

void encode_pad(uint64_t position, uint64_t end, uint64_t seed, Bytes out) {
  JournalRecord pad;
  pad.type = RecordType::kPad;
  pad.payload_bytes = static_cast<uint32_t>(end - position - kRecordHeaderBytes);
  journal_format::encode_record_header(pad, {}, seed, out.first(kRecordHeaderBytes));
}
}  // namespace

bool Journal::fits(const JournalFile& file, uint64_t bytes, uint64_t records) const {
  const uint64_t footer = journal_format::footer_bytes(file.entries.size() + records);
  return !file.sealed && file.tail + bytes + 3 * kBlock + footer <= config_.file_bytes;
}

Task<Result<uint64_t>> Journal::append(RecordType type, uint64_t volume_id, uint64_t epoch,
                                       uint64_t offset, uint64_t length, ConstBytes payload,
                                       JournalPath path) {
  CHECK(payload.size() <= max_payload_bytes_);
  struct Spend {
    Journal& journal;
    uint64_t bytes;
    ~Spend() { journal.return_admission(bytes); }
  } spend{*this, payload.size()};
  if (failed_) co_return std::unexpected(*failed_);
  auto pass = gate_.enter();
  if (!pass) co_return fail(ErrorKind::kCancelled, "journal: stopping");
  Pending pending;
  pending.header = {
      type,  static_cast<uint32_t>(payload.size()), next_sequence_++, volume_id, epoch, offset,
      length};
  pending.payload = payload;
  pending.path = path;
  Pending* self = &pending;
  const bool at_once = path == JournalPath::kCached && !writing_ && queue_.empty() &&
                       fits(*files_.back(), record_bytes(payload.size()), 1);
  if (at_once) {
    if (auto written = write_cached({&self, 1}); !written)
      co_return std::unexpected(written.error());
    land({&self, 1});
    co_return pending.header.sequence;
  }
  queue_.push_back(self);
  if (!writing_) {
    writing_ = true;
    spawn(run_queue());
  }
  struct Awaiter {
    Pending* pending;
    bool await_ready() const noexcept { return pending->done; }
    void await_suspend(std::coroutine_handle<> h) noexcept { pending->waiter = h; }
    void await_resume() const noexcept {}
  };
  co_await Awaiter{self};
  if (pending.error) co_return std::unexpected(std::move(*pending.error));
  co_return pending.header.sequence;
}

// The longest run of queued records that fits the current file; empty when none does.
std::vector<Journal::Pending*> Journal::take_batch(bool& direct) {
  std::vector<Pending*> batch;
  uint64_t bytes = 0;
  direct = false;
  while (!queue_.empty() && batch.size() < kBatchRecords) {
    Pending* next = queue_.front();
    const uint64_t size = record_bytes(next->payload.size());
    if (!batch.empty() && bytes + size > kBatchBytes) break;
    if (!fits(*files_.back(), bytes + size, batch.size() + 1)) break;
    bytes += size;
    direct |= next->path == JournalPath::kDirect;
    batch.push_back(next);
    queue_.pop_front();
  }
  return batch;
}

Task<void> Journal::run_queue() {
  while (!queue_.empty()) {
    if (failed_) {
      std::vector<Pending*> all(queue_.begin(), queue_.end());
      queue_.clear();
      fail_batch(all, *failed_);
      break;
    }
    bool direct = false;
    std::vector<Pending*> batch = take_batch(direct);
    if (batch.empty()) {
      if (auto rolled = co_await roll(files_.back()->last_sequence); !rolled) {
        Pending* first = queue_.front();
        queue_.pop_front();
        fail_batch({&first, 1}, rolled.error());
      }
      continue;
    }
    Result<void> written;
    if (direct) {
      written = co_await write_direct(batch);
    } else {
      written = write_cached(batch);
    }
    if (written) {
      land(batch);
    } else {
      fail_batch(batch, written.error());
    }
  }
  writing_ = false;
  idle_.wake_all();
}

void Journal::place(std::span<Pending*> batch, JournalFile& file, uint64_t position) {
  for (Pending* p : batch) {
    p->position = position;
    position += record_bytes(p->payload.size());
  }
  file.tail = position;
}

void Journal::claim_durable(Pending& pending) const {
  const uint64_t behind = pending.header.sequence - proven_;
  pending.header.durable_behind = behind <= UINT32_MAX ? static_cast<uint32_t>(behind) : 0;
}

Result<void> Journal::write_cached(std::span<Pending*> batch) {
  JournalFile& file = *files_.back();
  const uint64_t start = file.tail;
  std::array<std::byte, kRecordHeaderBytes> one_header;
  std::vector<std::byte> many_headers;
  std::array<iovec, 3> few;
  std::vector<iovec> many;
  iovec* iov = few.data();
  std::byte* headers = one_header.data();
  if (batch.size() > 1) {
    many_headers.resize(batch.size() * kRecordHeaderBytes);
    many.resize(batch.size() * 3);
    headers = many_headers.data();
    iov = many.data();
  }
  static const std::array<std::byte, 8> kPadding{};
  size_t count = 0;
  for (Pending* p : batch) {
    const Bytes out(headers, kRecordHeaderBytes);
    claim_durable(*p);
    journal_format::encode_record_header(p->header, p->payload, file.seed, out);
    headers += kRecordHeaderBytes;
    iov[count++] = {out.data(), out.size()};
    if (!p->payload.empty())
      iov[count++] = {const_cast<std::byte*>(p->payload.data()), p->payload.size()};
    const uint64_t padding = round_up(p->payload.size(), 8) - p->payload.size();
    if (padding > 0) iov[count++] = {const_cast<std::byte*>(kPadding.data()), padding};
  }
  file.unsynced = true;
  if (auto written = fs_.write(file.cached_handle, std::span<const iovec>(iov, count), start);
      !written) {
    file.sealed = true;
    file.poisoned = true;
    return std::unexpected(
        written.error().wrap(fmt::format("journal: write to {} at {} failed", file.path, start)));
  }
  place(batch, file, start);
  return {};
}

Task<Result<void>> Journal::write_direct(std::span<Pending*> batch) {
  JournalFile& file = *files_.back();
  file.unsynced = true;
  auto poison = [&](int os_errno, uint64_t at) {
    file.sealed = true;
    file.poisoned = true;
    return fail_errno(os_errno, "journal: direct write to {} at {} failed", file.path, at);
  };
  uint64_t start = file.tail;
  if (start % kBlock != 0) {
    std::array<std::byte, kRecordHeaderBytes> pad;
    const uint64_t end = pad_end(start);
    encode_pad(start, end, file.seed, pad);
    if (auto written = fs_.write(file.cached_handle, ConstBytes(pad), start); !written)
      co_return poison(written.error().os_errno(), start);
    start = end;
  }
  uint64_t bytes = 0;
  for (Pending* p : batch) bytes += record_bytes(p->payload.size());
  const uint64_t padded = bytes % kBlock == 0 ? bytes : pad_end(bytes);
  AlignedBuffer buffer(padded);
  std::byte* at = buffer.data();
  for (Pending* p : batch) {
    claim_durable(*p);
    journal_format::encode_record_header(p->header, p->payload, file.seed,
                                         Bytes(at, kRecordHeaderBytes));
    if (!p->payload.empty())
      std::memcpy(at + kRecordHeaderBytes, p->payload.data(), p->payload.size());
    at += record_bytes(p->payload.size());
  }
  if (padded != bytes) encode_pad(bytes, padded, file.seed, buffer.bytes().subspan(bytes));
  const int written = co_await io_write(reactor_, file.direct_handle, buffer.bytes(), start);
  if (written < 0) co_return poison(-written, start);
  place(batch, file, start);
  file.tail = start + padded;
  file.unsynced = true;  // a sync that began before this write ended does not count
  co_return Result<void>{};
}

void Journal::land(std::span<Pending*> batch) {
  JournalFile& file = *files_.back();
  for (Pending* p : batch) {
    landed_ = p->header.sequence;
    file.last_sequence = landed_;
    file.entries.push_back({p->header, p->position});
    if (!p->payload.empty())
      file.payloads.add(p->position + kRecordHeaderBytes, p->payload);
    stats_.appended_records += 1;
    stats_.appended_bytes += record_bytes(p->payload.size());
    if (auto sink = sinks_.find(p->header.volume_id); sink != sinks_.end())
      sink->second->landed(p->header, {&file, p->position + kRecordHeaderBytes});
    p->done = true;
    if (p->waiter) reactor_.post([h = p->waiter] { h.resume(); });
  }
}

void Journal::fail_batch(std::span<Pending*> batch, const Error& error) {
  for (Pending* p : batch) {
    p->error = error;
    p->done = true;
    if (p->waiter) reactor_.post([h = p->waiter] { h.resume(); });
  }
}

// ---- reads ----

Task<Result<void>> Journal::read(JournalPlace place, Bytes to) {
  JournalFile& file = *place.file;
  ++file.pins;
  auto done = co_await read_verified(file, place.position, to);
  if (--file.pins == 0) reclaim();
  co_return done;
}

// Whole pieces are read, since those have sums; a request that begins or ends within one goes
// through a buffer.
Task<Result<void>> Journal::read_verified(JournalFile& file, uint64_t position, Bytes to) {
  constexpr uint64_t kPiece = PayloadSums::kPieceBytes;
  const size_t payload = file.payloads.find(position, to.size());
  if (!file.payloads.is_known(payload)) CO_TRY(co_await learn_payload(file, payload));
  const uint64_t origin = file.payloads.position(payload);
  const uint64_t skip = position - origin;
  const uint64_t begin = round_down(skip, kPiece);
  const uint64_t end = std::min<uint64_t>(round_up(skip + to.size(), kPiece),
                                          file.payloads.bytes(payload));
  std::vector<std::byte> buffer;
  Bytes pieces = to;
  if (end - begin != to.size()) {
    buffer.resize(end - begin);
    pieces = buffer;
  }
  const int got = co_await io_read(reactor_, file.cached_handle, pieces, origin + begin);
  if (got < 0)
    co_return fail_errno(-got, "journal: read of {} at {} failed", file.path, position);
  if (static_cast<size_t>(got) != pieces.size() ||
      !file.payloads.matches(payload, begin, pieces))
    co_return std::unexpected(damaged(file, position));
  if (!buffer.empty()) std::memcpy(to.data(), pieces.data() + (skip - begin), to.size());
  co_return Result<void>{};
}

// A record that start-up knows from the file's index only: verified whole, once.
Task<Result<void>> Journal::learn_payload(JournalFile& file, size_t payload) {
  const uint64_t position = file.payloads.position(payload);
  std::vector<std::byte> bytes(kRecordHeaderBytes + file.payloads.bytes(payload));
  const int got =
      co_await io_read(reactor_, file.cached_handle, bytes, position - kRecordHeaderBytes);
  if (got < 0)
    co_return fail_errno(-got, "journal: read of {} at {} failed", file.path, position);
  std::optional<JournalRecord> record;
  if (static_cast<size_t>(got) == bytes.size())
    record = journal_format::decode_record(bytes, file.seed);
  if (!record || record->type != RecordType::kWrite ||
      record->payload_bytes != file.payloads.bytes(payload))
    co_return std::unexpected(damaged(file, position));
  file.payloads.learn(payload, ConstBytes(bytes).subspan(kRecordHeaderBytes));
  co_return Result<void>{};
}

Error Journal::damaged(const JournalFile& file, uint64_t position) {
  ++stats_.damaged_reads;
  Error error(ErrorKind::kCorrupt,
              fmt::format("journal: {} at {}: the data there fails its checksum; check the disk, and "
                          "overwrite it or roll the volume back",
                          file.path, position),
              EIO);
  LOG_ERROR("{}", error.message());
  return error;
}

// ---- syncs ----

Task<Result<void>> Journal::flush() {
  auto pass = gate_.enter();
  if (!pass) co_return fail(ErrorKind::kCancelled, "journal: stopping");
  const uint64_t target = landed_;
  while (durable_ < target) {
    if (failed_) co_return std::unexpected(*failed_);
    if (sync_running_) {
      co_await sync_done_.wait();
      continue;
    }
    sync_running_ = true;
    auto synced = co_await sync_round();
    sync_running_ = false;
    sync_done_.wake_all();
    reclaim();
    if (!synced) co_return synced;
  }
  co_return Result<void>{};
}

// One sync of every file with unsynced bytes, oldest first. What landed before it is durable after.
Task<Result<void>> Journal::sync_round() {
  const uint64_t end = landed_;
  const uint64_t end_there = files_.back()->last_sequence;
  std::vector<JournalFile*> unsynced;
  for (auto& file : files_) {
    if (!file->unsynced) continue;
    ++file->pins;
    unsynced.push_back(file.get());
  }
  int error = 0;
  std::string failed_path;
  for (JournalFile* file : unsynced) {
    file->unsynced = false;
    if (error == 0) {
      ++stats_.syncs;
      const int result = co_await io_sync(reactor_, file->cached_handle);
      if (result < 0) {
        error = -result;
        failed_path = file->path;
      }
    }
    if (error != 0) file->poisoned = file->sealed = true;
    --file->pins;
  }
  if (error != 0) {
    co_return co_await rescue(Error::from_errno(
        error, fmt::format("journal: sync of {} failed; what was not durable is copied elsewhere",
                           failed_path)));
  }
  durable_ = std::max(durable_, end);
  proven_ = std::max(proven_, end_there);
  co_return Result<void>{};
}

// After a failed sync, what the kernel says of those pages is worth nothing. Every record beyond
// the durable part is read back, checked and written to new files, whose starts say that the log
// before them ends at the durable part.
Task<Result<void>> Journal::rescue(const Error& error) {
  LOG_ERROR("{}", error.message());
  while (writing_) co_await idle_.wait();
  writing_ = true;
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
  writing_ = false;
  idle_.wake_all();
  if (!queue_.empty()) {
    writing_ = true;
    spawn(run_queue());
  }
  if (failed_) co_return std::unexpected(*failed_);
  co_return Result<void>{};
}

// The starts that end the log before the copies come last, and the last file's first: whenever the
// daemon is killed, either the old places count or complete copies do.
Task<Result<void>> Journal::copy_beyond(uint64_t keep_from, const std::vector<JournalFile*>& old) {
  CopyFiles copies;
  CO_TRY(co_await begin_copy_file(keep_from, copies));
  for (JournalFile* file : old) {
    const std::vector<IndexEntry> entries = file->entries;
    for (const IndexEntry& entry : entries)
      if (entry.record.sequence > keep_from) CO_TRY(co_await copy_record(*file, entry, copies));
  }
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
  auto found = sinks_.find(entry.record.volume_id);
  if (found == sinks_.end()) co_return Result<void>{};
  const uint64_t size = record_bytes(entry.record.payload_bytes);
  std::vector<std::byte> bytes(size);
  const int got = co_await io_read(reactor_, from.cached_handle, bytes, entry.position);
  std::optional<JournalRecord> header;
  if (got == static_cast<int>(size)) header = journal_format::decode_record(bytes, from.seed);
  found = sinks_.find(entry.record.volume_id);
  if (found == sinks_.end()) co_return Result<void>{};
  if (!header || *header != entry.record) {
    LOG_ERROR("journal: record {} of volume {} was lost by the failed sync", entry.record.sequence,
              entry.record.volume_id);
    found->second->lost(entry.record);
    co_return Result<void>{};
  }
  if (!fits(*files_.back(), size, 1))
    CO_TRY(co_await begin_copy_file(files_.back()->last_sequence, copies));
  JournalFile& to = *files_.back();
  const ConstBytes payload =
      ConstBytes(bytes).subspan(kRecordHeaderBytes, entry.record.payload_bytes);
  journal_format::encode_record_header(*header, payload, to.seed,
                                       Bytes(bytes).first(kRecordHeaderBytes));
  to.unsynced = true;
  CO_TRY(fs_.write(to.cached_handle, ConstBytes(bytes), to.tail));
  const uint64_t position = to.tail;
  to.tail += size;
  to.last_sequence = entry.record.sequence;
  to.entries.push_back({*header, position});
  if (!payload.empty()) to.payloads.add(position + kRecordHeaderBytes, payload);
  found->second->relocated(*header, {&to, position + kRecordHeaderBytes});
  co_return Result<void>{};
}

}  // namespace squall
