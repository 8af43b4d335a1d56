#include "journal/journal_scan.h"

#include <algorithm>

namespace squall::journal_scan {

using journal_format::FileHeader;
using journal_format::IndexEntry;
using journal_format::kBlock;
using journal_format::kMaxPayloadBytes;
using journal_format::kRecordHeaderBytes;
using journal_format::record_bytes;
using journal_format::RecordType;

namespace {
constexpr uint64_t kWindowBytes = 4 * kMaxPayloadBytes;  // at least one whole record of any size
constexpr uint64_t kNowhere = ~uint64_t{0};
}  // namespace

Task<size_t> read_what_can_be_read(Reactor& reactor, int handle, Bytes to, uint64_t offset,
                                   uint64_t& bad_from) {
  const int whole = co_await io_read(reactor, handle, to, offset);
  if (whole >= 0) co_return static_cast<size_t>(whole);
  for (uint64_t at = 0; at < to.size(); at += kBlock) {
    const Bytes block = to.subspan(at, std::min<uint64_t>(kBlock, to.size() - at));
    const int got = co_await io_read(reactor, handle, block, offset + at);
    if (got < 0) {
      bad_from = std::min(bad_from, offset + at);
      std::memset(block.data(), 0, block.size());
    } else if (static_cast<size_t>(got) < block.size()) {
      co_return at + static_cast<size_t>(got);
    }
  }
  co_return to.size();
}

Task<Result<FileFacts>> inspect(Reactor& reactor, FileSystem& files, int handle, std::string path) {
  FileFacts facts;
  auto damaged = [&](uint64_t offset, std::string what) {
    facts.is_log = true;
    facts.problem = JournalProblem{path, offset, std::move(what)};
    return facts;
  };
  std::vector<std::byte> blocks(2 * kBlock);
  uint64_t bad_from = kNowhere;
  const size_t got = co_await read_what_can_be_read(reactor, handle, blocks, 0, bad_from);
  if (bad_from != kNowhere) co_return damaged(bad_from, "the device cannot read the file's header");
  const ConstBytes header = ConstBytes(blocks).first(std::min(got, kBlock));
  const ConstBytes start = ConstBytes(blocks).first(got).subspan(header.size());
  auto decoded = journal_format::decode_file_header(header);
  if (!decoded && decoded.error().kind() != ErrorKind::kCorrupt)
    co_return std::unexpected(decoded.error());
  if (!decoded) {
    if (start.size() < kBlock || is_zero(start)) co_return facts;
    co_return damaged(0, decoded.error().message());
  }
  facts.is_log = true;
  facts.header = *decoded;
  facts.seed = journal_format::file_seed(facts.header);
  CO_TRY_ASSIGN(const FileInfo info, files.info(handle));
  if (info.size != facts.header.file_bytes)
    co_return damaged(0, fmt::format("the file has {} bytes, its header says {}", info.size,
                                     facts.header.file_bytes));
  facts.start = journal_format::decode_file_start(start, facts.seed);
  if (!facts.start && !journal_format::is_torn_file_start(start))
    co_return damaged(kBlock, "the file's start fails its checksum");
  co_return facts;
}

Task<Footer> read_footer(Reactor& reactor, int handle, const FileHeader& header, uint64_t seed) {
  Footer footer;
  uint64_t bad_from = kNowhere;
  std::vector<std::byte> block(kBlock);
  size_t got =
      co_await read_what_can_be_read(reactor, handle, block, header.file_bytes - kBlock, bad_from);
  // What does not verify may be what the file held before it was recycled.
  const auto trailer = journal_format::decode_trailer(ConstBytes(block).first(got), seed);
  if (!trailer) co_return footer;
  footer.durable = trailer->last_sequence;
  const uint64_t most = (header.file_bytes - journal_format::kFirstRecord) / kRecordHeaderBytes;
  if (trailer->entries > most) co_return footer;
  const uint64_t index_bytes = journal_format::footer_bytes(trailer->entries) - kBlock;
  std::vector<std::byte> index(index_bytes);
  got = co_await read_what_can_be_read(reactor, handle, index,
                                       header.file_bytes - kBlock - index_bytes, bad_from);
  auto entries = journal_format::decode_index(*trailer, ConstBytes(index).first(got), seed);
  if (entries) footer.entries = std::move(*entries);
  co_return footer;
}

RecordScanner::RecordScanner(Reactor& reactor, int handle, const FileHeader& header, uint64_t seed)
    : reactor_(reactor),
      handle_(handle),
      file_bytes_(header.file_bytes),
      seed_(seed),
      buffer_(std::min(header.file_bytes, kWindowBytes)) {}

Task<void> RecordScanner::read_window(uint64_t start) {
  start_ = start;
  bad_from_ = kNowhere;
  const uint64_t want = std::min<uint64_t>(buffer_.size(), file_bytes_ - start);
  held_ = co_await read_what_can_be_read(reactor_, handle_, Bytes(buffer_).first(want), start,
                                         bad_from_);
  bytes_read_ += held_;
}

void RecordScanner::resume_at(uint64_t position) {
  position_ = position;
  ended_ = unreadable_ = false;
}

Task<bool> RecordScanner::advance() {
  found_.clear();
  if (ended_) co_return false;
  if (position_ + kRecordHeaderBytes > file_bytes_) {
    ended_ = true;
    co_return false;
  }
  co_await read_window(position_);
  take_records();
  co_return !found_.empty() || !ended_;
}

void RecordScanner::take_records() {
  const uint64_t largest = record_bytes(kMaxPayloadBytes);
  const uint64_t window_end = start_ + held_;
  const bool last_window = window_end >= file_bytes_ || held_ < buffer_.size();
  while (position_ + kRecordHeaderBytes <= window_end) {
    if (!last_window && position_ + largest > window_end) return;  // the next window has it whole
    const ConstBytes bytes = window_from(position_);
    const auto record = journal_format::decode_record(bytes, seed_);
    if (!record) {
      ended_ = true;
      unreadable_ = bad_from_ < position_ + largest && bad_from_ + kBlock > position_;
      return;
    }
    if (record->type == RecordType::kPad) {
      position_ += kRecordHeaderBytes + record->payload_bytes;
      continue;
    }
    found_.push_back(
        {{*record, position_}, bytes.subspan(kRecordHeaderBytes, record->payload_bytes)});
    position_ += record_bytes(record->payload_bytes);
  }
  if (last_window) ended_ = true;
}

Task<std::optional<IndexEntry>> RecordScanner::find_durable_claim(uint64_t last, uint64_t limit) {
  // What looks like a record but is none costs a checksum of its payload. Guests choose payloads,
  // so the search has a bound.
  uint64_t budget = std::max<uint64_t>(4 * file_bytes_, 16 * kMiB);
  const uint64_t largest = record_bytes(kMaxPayloadBytes);
  uint64_t at = position_;
  while (at + kRecordHeaderBytes <= file_bytes_) {
    co_await read_window(at);
    const uint64_t window_end = start_ + held_;
    const bool last_window = window_end >= file_bytes_ || held_ < buffer_.size();
    const uint64_t stop = last_window ? window_end : window_end - largest;
    for (; at + kRecordHeaderBytes <= window_end && at < stop; at += 8) {
      const ConstBytes bytes = window_from(at);
      if (!journal_format::may_be_durable_claim(bytes)) continue;
      const uint64_t cost = std::min<uint64_t>(bytes.size(), largest);
      if (budget < cost) co_return std::nullopt;
      budget -= cost;
      const auto record = journal_format::decode_record(bytes, seed_);
      if (!record || record->type == RecordType::kPad || record->sequence > limit) continue;
      if (journal_format::durable_before(*record) > last) co_return IndexEntry{*record, at};
    }
    if (last_window) break;
  }
  co_return std::nullopt;
}

}  // namespace squall::journal_scan
