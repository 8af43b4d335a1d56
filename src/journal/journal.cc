// Appends and syncs. A record that needs no direct I/O and finds nobody before it is written into
// the page cache at once, by one system call and without suspension: that is writeback's
// acknowledgement. Everything else goes through the queue, whose runner writes batches: one direct
// write when any record of the batch asks for it, one cached write otherwise. Cached and direct
// batches never share a 4 KiB page of the file: pad records fill the seams.
#include "journal/journal.h"

#include <algorithm>

#include "base/log.h"

namespace squall {

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
  const bool at_once = path == JournalPath::kCached && !tail_is_owned() && queue_.empty() &&
                       fits(*files_.back(), record_bytes(payload.size()), 1);
  if (at_once) {
    if (auto written = write_cached({&self, 1}); !written)
      co_return std::unexpected(written.error());
    land({&self, 1});
    co_return pending.header.sequence;
  }
  queue_.push_back(self);
  if (!tail_is_owned()) {
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
  while (!queue_.empty() && !rescue_waits_) {  // a rescue starts it again
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
        if (rescue_waits_) break;
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
    if (!p->payload.empty()) file.payloads.add(p->position + kRecordHeaderBytes, p->payload);
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

}  // namespace squall
