#include "pool/append_stream.h"

#include <algorithm>

#include "base/check.h"
#include "base/log.h"

namespace squall {

AppendStream::AppendStream(Reactor& reactor, SegmentStore& segments, SegmentNumbers& numbers,
                           Options options)
    : reactor_(reactor),
      segments_(segments),
      numbers_(numbers),
      options_(std::move(options)),
      prepared_(reactor),
      retry_closing_(reactor),
      closing_changed_(reactor) {}

bool AppendStream::has_segment_for(const NewRecord& record) const {
  return current_ != nullptr && !current_->has_failed() && current_->fits(record);
}

bool AppendStream::is_congested() const {
  uint64_t bytes = current_ != nullptr ? current_->unwritten_bytes() : 0;
  for (const WriterRef& writer : closing_) bytes += writer->unwritten_bytes();
  return bytes >= kUnwrittenMaxBytes;
}

bool AppendStream::can_append(const NewRecord& record) const {
  return has_segment_for(record) && !is_congested();
}

// Its next batch is due: a segment that is being closed has a sync requested, and the current one
// is asked only when it alone is more than one batch.
AppendStream::WriterRef AppendStream::oldest_unwritten() const {
  for (const WriterRef& writer : closing_)
    if (writer->unwritten_bytes() > 0) return writer;
  return current_;
}

Address AppendStream::append_now(const NewRecord& record) {
  const Address address = current_->append(record);
  if (!record.fingerprints.empty() && options_.on_chunk)
    options_.on_chunk(current_->id(), current_->entries().size() - 1, record.fingerprints);
  // Past half of a segment the next one is made, so that the roll does not wait for the catalog.
  if (next_ == nullptr && !prepare_error_ && current_->used_bytes() > options_.segment_bytes / 2)
    start_preparing();
  return address;
}

Task<Result<Address>> AppendStream::append(NewRecord record) {
  if (can_append(record)) co_return append_now(record);
  const std::vector<std::byte> stored(record.stored.begin(), record.stored.end());
  const std::vector<Fingerprint> fingerprints(record.fingerprints.begin(),
                                              record.fingerprints.end());
  record.stored = stored;
  record.fingerprints = fingerprints;
  while (!can_append(record)) CO_TRY(co_await make_room(record));
  co_return append_now(record);
}

// One step towards can_append(); the caller looks again, others may have run meanwhile.
Task<Result<void>> AppendStream::make_room(const NewRecord& record) {
  if (stopping_)
    co_return fail(ErrorKind::kCancelled, "pool: store '{}' is being closed", options_.store);
  if (is_congested()) {
    const WriterRef writer = oldest_unwritten();
    co_return co_await writer->wait_write();
  }
  if (has_segment_for(record)) co_return Result<void>();
  retire_current();
  if (next_ == nullptr) {
    start_preparing();
    if (preparing_) co_await prepared_.wait();
    if (next_ == nullptr && current_ == nullptr && prepare_error_)
      co_return std::unexpected(*prepare_error_);
  }
  if (current_ == nullptr) current_ = std::exchange(next_, nullptr);
  co_return Result<void>();
}

void AppendStream::retire_current() {
  if (current_ == nullptr) return;
  closing_.push_back(current_);
  spawn(close_segment(std::exchange(current_, nullptr)));
}

void AppendStream::start_preparing() {
  if (preparing_ || next_ != nullptr) return;
  preparing_ = true;
  prepare_error_.reset();
  spawn(prepare_next());
}

Task<void> AppendStream::prepare_next() {
  const Gate::Pass pass = background_.enter();
  auto created = co_await create_segment();
  if (created)
    next_ = std::move(*created);
  else
    prepare_error_ = created.error().wrap(
        fmt::format("pool: cannot open a new segment in store '{}'", options_.store));
  preparing_ = false;
  prepared_.wake_all();
}

Task<Result<AppendStream::WriterRef>> AppendStream::create_segment() {
  CO_TRY_ASSIGN(const SegmentId id, co_await numbers_.take());
  CO_TRY(co_await segments_.create(id, options_.store));
  co_return std::make_shared<SegmentWriter>(
      reactor_, segments_,
      SegmentWriter::Options{.pool = options_.pool,
                             .id = id,
                             .store = options_.store,
                             .segment_bytes = options_.segment_bytes,
                             .on_loss = options_.on_loss});
}

// Stays in closing_, where sync() sees it, until everything in it is durable or lost.
Task<void> AppendStream::close_segment(WriterRef writer) {
  const Gate::Pass pass = background_.enter();
  auto sealed = co_await writer->seal();
  if (!sealed && sealed.error().kind() == ErrorKind::kNoSpace) {
    co_await segments_.release_reserve(options_.store);
    sealed = co_await writer->seal();
  }
  while (!sealed && sealed.error().kind() == ErrorKind::kNoSpace && !stopping_) {
    ++without_space_;
    closing_changed_.wake_all();
    co_await retry_closing_.wait();
    --without_space_;
    sealed = co_await writer->seal();
  }
  if (!sealed)
    LOG_WARN("pool: segment {} stays without footer until the next start: {}", writer->id(),
             sealed.error().message());
  std::erase(closing_, writer);
  options_.on_end(writer->id(), writer->totals(), sealed.has_value());
  closing_changed_.wake_all();
}

void AppendStream::retire(uint64_t used_bytes_min) {
  if (current_ != nullptr && current_->totals().records > 0 &&
      current_->used_bytes() >= used_bytes_min)
    retire_current();
}

Task<void> AppendStream::wait_sealing() {
  while (closing_.size() > without_space_) co_await closing_changed_.wait();
}

void AppendStream::request_sync() {
  for (const WriterRef& writer : closing_) writer->request_sync();
  if (current_ != nullptr) current_->request_sync();
}

Task<Result<void>> AppendStream::sync() {
  std::vector<WriterRef> writers = closing_;
  if (current_ != nullptr) writers.push_back(current_);
  // What a failed segment lost has been told through on_loss.
  std::erase_if(writers, [](const WriterRef& writer) { return writer->has_failed(); });
  Result<void> result;
  for (const WriterRef& writer : writers) {
    auto synced = co_await writer->sync();
    if (!synced && result) result = std::move(synced);
  }
  if (result) retry_closing_.wake_all();
  co_return result;
}

const SegmentWriter* AppendStream::find_open(SegmentId segment) const {
  if (current_ != nullptr && current_->id() == segment) return current_.get();
  for (const WriterRef& writer : closing_)
    if (writer->id() == segment) return writer.get();
  return nullptr;
}

ConstBytes AppendStream::find_unwritten(Address address) const {
  const SegmentWriter* writer = find_open(address.segment());
  return writer != nullptr ? writer->find_unwritten(address) : ConstBytes();
}

void AppendStream::for_each_open(
    const std::function<void(SegmentId, const SegmentTotals&)>& visit) const {
  for (const WriterRef& writer : closing_) visit(writer->id(), writer->totals());
  if (current_ != nullptr) visit(current_->id(), current_->totals());
}

Task<void> AppendStream::stop() {
  stopping_ = true;
  retire_current();
  retry_closing_.wake_all();
  co_await background_.close();
  if (next_ == nullptr) co_return;
  const WriterRef unused = std::exchange(next_, nullptr);
  if (auto removed = co_await unused->seal(); !removed)
    LOG_WARN("pool: unused segment {} stays until the next start: {}", unused->id(),
             removed.error().message());
}

}  // namespace squall
