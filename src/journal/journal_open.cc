// Start-up: which files form the log, and what of them counts.
//
// The log is the longest run of consecutive file numbers that ends at the highest one: headers are
// made durable one by one, in order, each before its file is used. Lower leftovers are recycled
// files whose records are all in the pool. A file counts up to the smallest previous_last_sequence
// of the files after it (a failed write or sync may have left remnants beyond). Where the records
// found end short of what a later file's header says came before it, the host lost unsynced data:
// nothing beyond is replayed, since nothing beyond was acknowledged as durable.
#include <algorithm>

#include "base/hash.h"
#include "base/log.h"
#include "journal/journal.h"

namespace squall {

using journal_format::kBlock;
using journal_format::kRecordHeaderBytes;
using journal_format::RecordType;

namespace {
bool has_start(const JournalFile& file) {
  return file.start.first_sequence != ~uint64_t{0};
}
}  // namespace

Result<void> JournalConfig::validate() const {
  if (file_bytes % kBlock != 0 || file_bytes < 16 * kBlock || file_bytes > 4 * kGiB)
    return fail(ErrorKind::kInvalid,
                "journal file size {} is not a multiple of 4096 between 64 KiB and 4 GiB",
                file_bytes);
  if (max_files < 4 || max_files > 4096)
    return fail(ErrorKind::kInvalid, "journal has {} files; give 4 to 4096", max_files);
  return {};
}

Journal::Journal(Reactor& reactor, FileSystem& files, JournalConfig config)
    : reactor_(reactor),
      fs_(files),
      config_(std::move(config)),
      max_payload_bytes_(
          std::min(journal_format::kMaxPayloadBytes, round_down(config_.file_bytes / 4, kBlock))),
      next_ready_(reactor),
      idle_(reactor),
      sync_done_(reactor),
      admission_(reactor) {}

Task<Result<std::unique_ptr<Journal>>> Journal::open(Reactor& reactor, FileSystem& files,
                                                     JournalConfig config, ReplayVisitor visit) {
  CO_TRY(config.validate());
  std::unique_ptr<Journal> journal(new Journal(reactor, files, std::move(config)));
  CO_TRY(journal->lock_directory());
  CO_TRY_ASSIGN(auto existing, journal->open_existing());
  journal->id_ = existing.empty() ? journal->config_.id_if_new : existing.back()->header.journal_id;
  for (auto& file : existing) journal->files_.push_back(std::move(file));
  CO_TRY_ASSIGN(const uint64_t last, journal->replay(visit));
  if (auto started = co_await journal->start_generation(last); !started) {
    co_await journal->stop();
    co_return std::unexpected(started.error());
  }
  co_return std::move(journal);
}

Result<void> Journal::lock_directory() {
  TRY(fs_.make_directory_durably(config_.directory));
  const std::string path = config_.directory + "/LOCK";
  TRY_ASSIGN(lock_handle_, fs_.open(path, {.write = true, .create = true}));
  if (auto locked = fs_.lock(lock_handle_, config_.lock_wait_ms); !locked)
    return std::unexpected(locked.error().wrap(fmt::format(
        "journal: {} is in use by another squalld; stop it or choose another SQUALL_HOME",
        config_.directory)));
  return {};
}

Result<std::unique_ptr<JournalFile>> Journal::open_file(const std::string& path) {
  auto file = std::make_unique<JournalFile>();
  file->path = path;
  auto open = [&]() -> Result<void> {
    TRY_ASSIGN(file->cached_handle, fs_.open(path, {.write = true}));
    TRY_ASSIGN(file->direct_handle, fs_.open(path, {.write = true, .direct = true}));
    // The lock is on the handle that direct writes go through: it is free only once the last write
    // of a killed daemon has finished.
    TRY(fs_.lock(file->direct_handle, config_.lock_wait_ms));
    std::vector<std::byte> block(kBlock);
    TRY_ASSIGN(const size_t got, fs_.read(file->cached_handle, block, 0));
    TRY_ASSIGN(file->header, journal_format::decode_file_header(Bytes(block).first(got)));
    TRY_ASSIGN(const FileInfo info, fs_.info(file->cached_handle));
    if (info.size != file->header.file_bytes)
      return fail(ErrorKind::kCorrupt, "{} has {} bytes, its header says {}", path, info.size,
                  file->header.file_bytes);
    return {};
  };
  if (auto opened = open(); !opened) {
    close_file(*file, false);
    return std::unexpected(opened.error().wrap("journal: " + path));
  }
  file->seed = journal_format::file_seed(file->header);
  std::vector<std::byte> block(kBlock);
  auto got = fs_.read(file->cached_handle, block, kBlock);
  if (!got) {
    close_file(*file, false);
    return std::unexpected(got.error());
  }
  // Without a start nothing was written to it, or nothing of it was ever durable: it constrains
  // nothing and holds nothing.
  const auto start = journal_format::decode_file_start(Bytes(block).first(*got), file->seed);
  file->start = start.value_or(journal_format::FileStart{~uint64_t{0}, ~uint64_t{0}});
  file->sealed = true;
  file->unsynced = true;  // the page cache may hold more than the disk
  return file;
}

// Files with a valid header, by number, reduced to the run that ends at the highest one. The rest
// is removed: a slot without a header was being made when the daemon died.
Result<std::vector<std::unique_ptr<JournalFile>>> Journal::open_existing() {
  TRY_ASSIGN(const auto names, fs_.list(config_.directory));
  std::vector<std::unique_ptr<JournalFile>> found;
  auto give_up = [&](const Error& error) {
    for (auto& file : found) close_file(*file, false);
    return std::unexpected(error);
  };
  for (const std::string& name : names) {
    if (!name.starts_with("slot-") || !name.ends_with(".wal")) continue;
    next_slot_ = std::max<uint64_t>(next_slot_, std::strtoull(name.c_str() + 5, nullptr, 10) + 1);
    const std::string path = config_.directory + "/" + name;
    auto file = open_file(path);
    if (file) {
      found.push_back(std::move(*file));
    } else if (file.error().kind() == ErrorKind::kCorrupt) {
      LOG_INFO("journal: {} holds no log, removed ({})", path, file.error().message());
      TRY(fs_.remove(path));
    } else {
      return give_up(file.error());
    }
  }
  std::ranges::sort(found, {}, [](const auto& file) {
    return std::pair(file->header.file_number, !has_start(*file));
  });
  // A number is given again when its file could not be prepared; that one was never used.
  const auto unused =
      std::ranges::unique(found, {}, [](const auto& file) { return file->header.file_number; });
  for (const auto& file : unused) close_file(*file, true);
  found.erase(unused.begin(), unused.end());
  size_t first = found.size();
  while (first > 0) {
    const auto& file = *found[first - 1];
    const bool chained =
        first == found.size() || (file.header.file_number + 1 == found[first]->header.file_number &&
                                  file.header.journal_id == found[first]->header.journal_id);
    if (!chained) break;
    --first;
  }
  for (size_t i = 0; i < first; ++i) close_file(*found[i], true);
  found.erase(found.begin(), found.begin() + static_cast<ptrdiff_t>(first));
  for (const auto& file : found) {
    generation_ = std::max(generation_, file->header.generation);
    next_file_number_ = file->header.file_number + 1;
  }
  return found;
}

// Returns the last sequence that counts.
Result<uint64_t> Journal::replay(const ReplayVisitor& visit) {
  const size_t count = files_.size();
  std::vector<uint64_t> limits(count, ~uint64_t{0});  // what of file i counts
  for (size_t i = count; i-- > 1;)
    limits[i - 1] = std::min(limits[i], files_[i]->start.previous_last_sequence);
  uint64_t last = 0;
  bool begun = false;
  for (size_t i = 0; i < count; ++i) {
    const uint64_t expected = std::min(files_[i]->start.previous_last_sequence, limits[i]);
    if (!has_start(*files_[i])) continue;
    if (!begun) last = files_[i]->start.previous_last_sequence;
    begun = true;
    if (last < expected) {
      LOG_WARN(
          "journal: {} continues after record {}, but the log before it ends at {}: the host "
          "lost unsynced data; the log ends there",
          files_[i]->path, expected, last);
      break;
    }
    JournalFile& file = *files_[i];
    file.last_sequence = last;
    if (file.start.first_sequence <= limits[i]) TRY(replay_file(file, limits[i], visit));
    last = std::max(last, file.last_sequence);
  }
  return last;
}

Result<void> Journal::replay_file(JournalFile& file, uint64_t limit, const ReplayVisitor& visit) {
  TRY_ASSIGN(const bool done, replay_from_footer(file, limit, visit));
  return done ? Result<void>{} : replay_by_scan(file, limit, visit);
}

Result<bool> Journal::replay_from_footer(JournalFile& file, uint64_t limit,
                                         const ReplayVisitor& visit) {
  std::vector<std::byte> block(kBlock);
  TRY_ASSIGN(size_t got, fs_.read(file.cached_handle, block, file.header.file_bytes - kBlock));
  const auto trailer = journal_format::decode_trailer(Bytes(block).first(got), file.seed);
  if (!trailer) return false;
  const uint64_t footer = trailer->entries > file.header.file_bytes / kRecordHeaderBytes
                              ? ~uint64_t{0}
                              : journal_format::footer_bytes(trailer->entries);
  if (footer > file.header.file_bytes - kBlock) return false;
  std::vector<std::byte> index(footer - kBlock);
  TRY_ASSIGN(got, fs_.read(file.cached_handle, index, file.header.file_bytes - footer));
  auto entries = journal_format::decode_index(*trailer, Bytes(index).first(got), file.seed);
  if (!entries) return false;
  for (const auto& entry : *entries) {
    if (entry.record.sequence > limit) break;
    file.last_sequence = entry.record.sequence;
    ++stats_.replayed_records;
    visit(entry.record, {&file, entry.position + kRecordHeaderBytes});
  }
  // A footer is written only when the log up to it is durable.
  durable_ = std::max(durable_, file.last_sequence);
  return true;
}

Result<void> Journal::replay_by_scan(JournalFile& file, uint64_t limit,
                                     const ReplayVisitor& visit) {
  // Window by window; a window holds at least one whole record of the largest size.
  const uint64_t window = std::min(file.header.file_bytes, 4 * journal_format::kMaxPayloadBytes);
  std::vector<std::byte> buffer(window);
  uint64_t position = journal_format::kFirstRecord;
  uint64_t start = position;
  size_t held = 0;
  while (position + kRecordHeaderBytes <= file.header.file_bytes) {
    const uint64_t largest = journal_format::record_bytes(journal_format::kMaxPayloadBytes);
    if (position + largest > start + held && start + held < file.header.file_bytes) {
      start = position;
      TRY_ASSIGN(held, fs_.read(file.cached_handle, buffer, start));
    }
    if (position >= start + held) break;
    const auto record = journal_format::decode_record(
        ConstBytes(buffer.data(), held).subspan(position - start), file.seed);
    if (!record) break;
    if (record->type != RecordType::kPad) {
      if (record->sequence <= file.last_sequence) break;
      if (record->sequence > limit) break;
      file.last_sequence = record->sequence;
      file.entries.push_back({*record, position});
      ++stats_.replayed_records;
      visit(*record, {&file, position + kRecordHeaderBytes});
    }
    position += record->type == RecordType::kPad
                    ? kRecordHeaderBytes + record->payload_bytes
                    : journal_format::record_bytes(record->payload_bytes);
  }
  file.tail = position;
  return {};
}

Task<Result<void>> Journal::start_generation(uint64_t previous_last_sequence) {
  generation_ = std::max(generation_, config_.min_generation) + 1;
  next_sequence_ = (generation_ << journal_format::kGenerationShift) + 1;
  landed_ = previous_last_sequence;
  if (!files_.empty()) {
    // The newest file's header may still be in the page cache only; the next one must not outlive
    // it.
    const JournalFile& newest = *files_.back();
    if (const int synced = co_await io_sync(reactor_, newest.cached_handle); synced < 0)
      co_return fail_errno(-synced, "journal: sync of {} failed", newest.path);
  }
  auto prepared = co_await prepare_file();
  if (!prepared && prepared.error().os_errno() == ENOSPC && fs_.exists(reserve_path())) {
    LOG_WARN("{}; taking the reserve", prepared.error().message());
    CO_TRY(fs_.remove(reserve_path()));
    prepared = co_await prepare_file();
  }
  CO_TRY_ASSIGN(auto file, std::move(prepared));
  CO_TRY(begin_file(std::move(file), previous_last_sequence));
  JournalFile& current = *files_.back();
  current.unsynced = false;
  if (const int synced = co_await io_sync(reactor_, current.cached_handle); synced < 0)
    co_return fail_errno(-synced, "journal: sync of {} failed", current.path);
  if (auto kept = keep_reserve(); !kept) LOG_WARN("{}", kept.error().message());
  reclaim();
  prepare_next();
  co_return Result<void>{};
}

}  // namespace squall
