// Every batch begins and ends on a 4 KiB boundary. Two things follow: an engine may write with
// direct I/O, and no later write touches a physical sector (512 bytes or 4 KiB) that a sync has
// promised, so power lost in mid-write hurts only what nobody was promised. The gap, 2 KiB on
// average per batch, is why batches wait to be full unless a sync asks.
#include "pool/segment_writer.h"

#include <algorithm>

#include "base/check.h"
#include "base/log.h"
#include "pool/segment_reader.h"

namespace squall {

namespace {
constexpr uint64_t kWriteAlignment = 4096;
}

SegmentWriter::SegmentWriter(Reactor& reactor, SegmentStore& segments, Options options)
    : reactor_(reactor),
      segments_(segments),
      options_(std::move(options)),
      pool_seed_(pool_seed(options_.pool)),
      changed_(reactor) {}

SegmentWriter::~SegmentWriter() {
  CHECK(!writing_ && !syncing_);
}

SegmentTotals SegmentWriter::totals() const {
  return {options_.store, entries_.size(), raw_bytes_, stored_bytes_, sealed_bytes_};
}

bool SegmentWriter::back_takes(uint64_t bytes) const {
  return !batches_.empty() && !batches_.back().closed &&
         batches_.back().used + bytes <= kBatchBytes;
}

bool SegmentWriter::fits(const NewRecord& record) const {
  const uint64_t bytes = record_sectors(record.stored.size()) * kSectorBytes;
  uint64_t begin = end_ == 0 ? kSegmentHeaderBytes : end_;
  if (end_ != 0 && !back_takes(bytes)) begin = round_up(end_, kWriteAlignment);
  return round_up(begin + bytes, kWriteAlignment) +
             footer_and_trailer_bytes(entries_.size() + 1,
                                      fingerprints_.size() + record.fingerprints.size()) <=
         options_.segment_bytes;
}

SegmentWriter::Batch& SegmentWriter::batch_for(uint64_t bytes) {
  if (back_takes(bytes)) return batches_.back();
  if (!batches_.empty() && !batches_.back().closed) close(batches_.back());
  Batch batch{.buffer = spare_.size() > 0 ? std::move(spare_) : AlignedBuffer(kBatchBytes),
              .begin = batches_.empty() ? written_end_ : batches_.back().end()};
  if (batch.begin == 0) {
    encode_segment_header(
        {.pool = options_.pool, .segment = options_.id, .created_s = reactor_.wall_clock_s()},
        batch.buffer.bytes().first(kSegmentHeaderBytes));
    batch.used = kSegmentHeaderBytes;
  }
  batches_.push_back(std::move(batch));
  return batches_.back();
}

// Only the last batch is ever open.
void SegmentWriter::close(Batch& batch) {
  const uint64_t padded = round_up(batch.used, kWriteAlignment);
  std::memset(batch.buffer.data() + batch.used, 0, padded - batch.used);
  batch.used = padded;
  batch.closed = true;
  end_ = batch.end();
}

Address SegmentWriter::append(const NewRecord& record) {
  CHECK(!failure_ && fits(record));
  const ConstBytes stored = record.stored;
  const RecordHeader header{.kind = record.kind,
                            .codec = record.codec,
                            .raw_bytes = static_cast<uint32_t>(record.raw_bytes),
                            .stored_bytes = static_cast<uint32_t>(stored.size())};
  const uint64_t bytes = header.sectors() * kSectorBytes;
  const bool fills_batch = !batches_.empty() && !back_takes(bytes);
  Batch& batch = batch_for(bytes);
  const uint64_t sector = batch.end() / kSectorBytes;
  const Bytes to = batch.buffer.bytes().subspan(batch.used, bytes);
  std::memcpy(to.data() + kRecordHeaderBytes, stored.data(), stored.size());
  const uint64_t filled = kRecordHeaderBytes + stored.size();
  std::memset(to.data() + filled, 0, bytes - filled);
  encode_record_header(header, record_seed(pool_seed_, options_.id, sector), to);
  batch.used += bytes;
  end_ = batch.end();
  entries_.push_back({.sector = static_cast<uint32_t>(sector),
                      .sectors = static_cast<uint16_t>(header.sectors()),
                      .kind = header.kind,
                      .codec = header.codec,
                      .raw_bytes = header.raw_bytes,
                      .first_fingerprint = static_cast<uint32_t>(fingerprints_.size()),
                      .fingerprints = static_cast<uint16_t>(record.fingerprints.size())});
  fingerprints_.insert(fingerprints_.end(), record.fingerprints.begin(), record.fingerprints.end());
  raw_bytes_ += header.raw_bytes;
  stored_bytes_ += bytes;
  // Last, because it may run until a write fails and take the batches away.
  if (fills_batch) start_writing();
  return Address::make(options_.id, sector, header.sectors());
}

ConstBytes SegmentWriter::find_unwritten(Address address) const {
  if (failure_ || address.segment() != options_.id) return {};
  for (const Batch& batch : batches_) {
    if (address.offset_bytes() < batch.begin || address.offset_bytes() >= batch.end()) continue;
    const uint64_t at = address.offset_bytes() - batch.begin;
    if (at + address.stored_bytes() > batch.used) return {};
    return batch.buffer.bytes().subspan(at, address.stored_bytes());
  }
  return {};
}

bool SegmentWriter::is_write_due() const {
  return !failure_ && !batches_.empty() &&
         (batches_.front().closed || batches_.front().begin < wanted_end_);
}

void SegmentWriter::start_writing() {
  if (writing_ || !is_write_due()) return;
  writing_ = true;
  spawn(write_batches());
}

Task<void> SegmentWriter::write_batches() {
  while (is_write_due()) {
    // Stays in place while later batches are added behind it.
    Batch& batch = batches_.front();
    if (!batch.closed) close(batch);
    const iovec iov{batch.buffer.data(), batch.used};
    auto written = co_await segments_.write(options_.id, std::span(&iov, 1), batch.begin);
    if (!written && written.error().kind() == ErrorKind::kNoSpace) {
      no_space_ = std::move(written).error();
      ++no_space_count_;
      break;
    }
    if (!written) {
      fail_with(written.error());
      break;
    }
    written_end_ = batch.end();
    spare_ = std::move(batch.buffer);
    batches_.pop_front();
    changed_.wake_all();
  }
  writing_ = false;
  if (failure_) batches_.clear();
  changed_.wake_all();
}

void SegmentWriter::start_syncing() {
  if (syncing_ || failure_ || synced_end_ >= written_end_) return;
  syncing_ = true;
  spawn(sync_once());
}

Task<void> SegmentWriter::sync_once() {
  const uint64_t covered_end = written_end_;
  auto synced = co_await segments_.sync(options_.id);
  syncing_ = false;
  if (synced)
    synced_end_ = covered_end;
  else
    fail_with(synced.error());
  changed_.wake_all();
}

void SegmentWriter::fail_with(const Error& error) {
  if (failure_) return;
  failure_ =
      error.wrap(fmt::format("pool: segment {} lost what was not durable in it (from offset "
                             "{} on)",
                             options_.id, synced_end_));
  LOG_ERROR("{}", failure_->message());
  if (!writing_) batches_.clear();
  if (options_.on_loss) options_.on_loss(options_.id, *failure_);
}

Task<Result<void>> SegmentWriter::wait_write() {
  const uint64_t written_before = written_end_;
  const uint64_t no_space_before = no_space_count_;
  while (unwritten_bytes() > 0 && written_end_ == written_before) {
    if (no_space_count_ != no_space_before) co_return std::unexpected(*no_space_);
    CHECK(writing_ || is_write_due());
    start_writing();
    if (writing_) co_await changed_.wait();
  }
  co_return Result<void>();
}

void SegmentWriter::request_sync() {
  wanted_end_ = std::max(wanted_end_, end_);
  start_writing();
}

Task<Result<void>> SegmentWriter::sync() {
  const uint64_t end = end_;
  const uint64_t no_space_before = no_space_count_;
  request_sync();
  while (synced_end_ < end) {
    if (failure_) co_return std::unexpected(*failure_);
    if (no_space_count_ != no_space_before) co_return std::unexpected(*no_space_);
    if (written_end_ >= end)
      start_syncing();
    else
      start_writing();
    // An engine may have finished at once.
    if (writing_ || syncing_) co_await changed_.wait();
  }
  co_return Result<void>();
}

Task<Result<void>> SegmentWriter::seal() {
  if (!failure_) {
    auto synced = co_await sync();
    if (!synced && synced.error().kind() == ErrorKind::kNoSpace) co_return synced;
  }
  while (writing_ || syncing_) co_await changed_.wait();
  if (failure_) CO_TRY(co_await cut_to_durable());
  if (entries_.empty()) co_return co_await segments_.remove(options_.id);
  co_return co_await write_footer();
}

Task<Result<void>> SegmentWriter::cut_to_durable() {
  const auto lost = std::ranges::find_if(entries_, [&](const RecordEntry& entry) {
    return (entry.sector + entry.sectors) * kSectorBytes > synced_end_;
  });
  for (auto entry = lost; entry != entries_.end(); ++entry) {
    raw_bytes_ -= entry->raw_bytes;
    stored_bytes_ -= entry->sectors * kSectorBytes;
  }
  if (lost != entries_.end()) fingerprints_.resize(lost->first_fingerprint);
  entries_.erase(lost, entries_.end());
  end_ = written_end_ = synced_end_;
  if (entries_.empty()) co_return Result<void>();
  co_return co_await segments_.truncate(options_.id, synced_end_);
}

Task<Result<void>> SegmentWriter::write_footer() {
  std::vector<std::byte> footer =
      encode_segment_footer(options_.pool, options_.id, written_end_, entries_, fingerprints_);
  const uint64_t sealed_bytes = written_end_ + footer.size();
  CO_TRY(co_await write_segment_footer(segments_, options_.id, written_end_, std::move(footer)));
  sealed_bytes_ = sealed_bytes;
  co_return Result<void>();
}

}  // namespace squall
