// A part belongs to one run of one writer: a new process, a higher epoch and a failed append each
// begin a new one. So the epoch needs to be kept only in the part's header, old files are never
// appended to, and only the last append of a part can be torn.
#include "engine/file_log_store.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "base/log.h"

namespace squall {
namespace {

constexpr size_t kVolumeDigits = 16;

std::string file_name(uint64_t volume, uint64_t part) {
  return fmt::format("{:016x}.{}", volume, part);
}

bool parse_file_name(std::string_view name, uint64_t& volume, uint64_t& part) {
  if (name.size() < kVolumeDigits + 2 || name[kVolumeDigits] != '.') return false;
  const char* end = name.data() + name.size();
  std::from_chars(name.data(), name.data() + kVolumeDigits, volume, 16);
  std::from_chars(name.data() + kVolumeDigits + 1, end, part, 10);
  return file_name(volume, part) == name;
}

}  // namespace

Result<std::unique_ptr<FileLogStore>> FileLogStore::open(Reactor& reactor, FileSystem& file_system,
                                                         Executor& executor, const Uuid& pool,
                                                         std::string directory,
                                                         size_t open_files_max) {
  std::unique_ptr<FileLogStore> self(
      new FileLogStore(reactor, file_system, executor, pool, std::move(directory), open_files_max));
  TRY(self->read_names());
  return self;
}

Result<void> FileLogStore::read_names() {
  TRY_ASSIGN(const auto names, file_system_.list(directory_));
  for (const std::string& name : names) {
    uint64_t volume = 0, part = 0;
    if (parse_file_name(name, volume, part))
      log_of(volume).parts.push_back(part);
    else if (name.ends_with(".new"))  // a part that was being begun
      TRY(file_system_.remove(directory_ + "/" + name));
    else
      LOG_WARN("engine: {}/{} is no log part; ignored", directory_, name);
  }
  for (auto& [volume, log] : logs_) std::ranges::sort(log->parts);
  return {};
}

std::string FileLogStore::path_of(uint64_t volume, uint64_t part) const {
  return directory_ + "/" + file_name(volume, part);
}

FileLogStore::Log& FileLogStore::log_of(uint64_t volume) {
  auto& log = logs_[volume];
  if (!log) log = std::make_unique<Log>(reactor_);
  return *log;
}

Task<Result<void>> FileLogStore::append(uint64_t volume, uint64_t epoch, ConstBytes bytes) {
  if (bytes.size() > kMaxLogPayloadBytes)
    co_return fail(ErrorKind::kInvalid, "log of volume {}: an append of {} bytes; at most {}",
                   volume, bytes.size(), kMaxLogPayloadBytes);
  Log& log = log_of(volume);
  co_await log.mutex.acquire();
  const SemaphoreGuard guard(log.mutex);
  CO_TRY(co_await check_epoch(volume, log, epoch));
  if (!log.appendable || epoch > log.epoch) CO_TRY(co_await begin_part(volume, log, epoch));
  co_return co_await write_frame(volume, log, bytes);
}

Task<Result<uint64_t>> FileLogStore::rotate(uint64_t volume, uint64_t epoch) {
  Log& log = log_of(volume);
  co_await log.mutex.acquire();
  const SemaphoreGuard guard(log.mutex);
  CO_TRY(co_await check_epoch(volume, log, epoch));
  // A part without appends is new enough: a volume that cannot commit asks again and again.
  const bool unused = log.appendable && log.epoch == epoch && log.size_bytes == kLogPartHeaderBytes;
  if (!unused) CO_TRY(co_await begin_part(volume, log, epoch));
  co_return log.parts.back();
}

Task<Result<std::vector<uint64_t>>> FileLogStore::parts(uint64_t volume) {
  const auto found = logs_.find(volume);
  co_return found == logs_.end() ? std::vector<uint64_t>() : found->second->parts;
}

Task<Result<LogPart>> FileLogStore::read(uint64_t volume, uint64_t part) {
  Log& log = log_of(volume);
  co_await log.mutex.acquire();
  const SemaphoreGuard guard(log.mutex);
  if (!std::ranges::binary_search(log.parts, part))
    co_return fail(ErrorKind::kNotFound, "log of volume {}: there is no part {}", volume, part);
  const std::string path = path_of(volume, part);
  co_return co_await run_on(executor_, reactor_, [&]() -> Result<LogPart> {
    TRY_ASSIGN(const FileInfo info, file_system_.stat(path));
    TRY_ASSIGN(const auto bytes, file_system_.read_file(path, info.size));
    auto content = decode_log_part(bytes);
    if (!content) return std::unexpected(content.error().wrap(path));
    if (content->header != LogPartHeader{pool_, volume, part, content->header.epoch})
      return fail(ErrorKind::kCorrupt, "{}: holds part {} of volume {} of pool {}", path,
                  content->header.part, content->header.volume, content->header.pool.to_string());
    LogPart result{.epoch = content->header.epoch};
    for (const ConstBytes payload : content->payloads)
      result.appends.emplace_back(payload.begin(), payload.end());
    return result;
  });
}

Task<Result<void>> FileLogStore::drop_before(uint64_t volume, uint64_t part) {
  Log& log = log_of(volume);
  co_await log.mutex.acquire();
  const SemaphoreGuard guard(log.mutex);
  if (log.parts.empty()) co_return Result<void>();
  const auto end = std::ranges::lower_bound(log.parts, part);
  const auto count = static_cast<size_t>(end - log.parts.begin());
  co_return co_await remove_parts(volume, log, std::min(count, log.parts.size() - 1));
}

Task<Result<void>> FileLogStore::remove(uint64_t volume) {
  Log& log = log_of(volume);
  co_await log.mutex.acquire();
  const SemaphoreGuard guard(log.mutex);
  log.appendable = false;
  handles_.drop(volume);
  CO_TRY(co_await remove_parts(volume, log, log.parts.size()));
  log.epoch_known = false;
  log.epoch = 0;
  co_return Result<void>();
}

Task<Result<std::vector<uint64_t>>> FileLogStore::list() {
  std::vector<uint64_t> volumes;
  for (const auto& [volume, log] : logs_)
    if (!log->parts.empty()) volumes.push_back(volume);
  std::ranges::sort(volumes);
  co_return volumes;
}

// Learns the log's epoch from its newest part if need be; kFenced when `epoch` is below it.
Task<Result<void>> FileLogStore::check_epoch(uint64_t volume, Log& log, uint64_t epoch) {
  if (!log.epoch_known && !log.parts.empty()) {
    const std::string path = path_of(volume, log.parts.back());
    auto header = co_await run_on(executor_, reactor_, [&]() -> Result<LogPartHeader> {
      TRY_ASSIGN(const int handle, file_system_.open(path, {}));
      std::array<std::byte, kLogPartHeaderBytes> bytes;
      auto got = file_system_.read(handle, bytes, 0);
      file_system_.close(handle);
      TRY(got);
      return decode_log_part_header(ConstBytes(bytes).first(*got));
    });
    if (!header) co_return std::unexpected(header.error().wrap(path));
    log.epoch = header->epoch;
  }
  log.epoch_known = true;
  if (epoch >= log.epoch) co_return Result<void>();
  co_return fail(ErrorKind::kFenced,
                 "log of volume {}: epoch {} was taken over by epoch {}; the volume is open on "
                 "another host",
                 volume, epoch, log.epoch);
}

Task<Result<void>> FileLogStore::begin_part(uint64_t volume, Log& log, uint64_t epoch) {
  const uint64_t part = log.parts.empty() ? 1 : log.parts.back() + 1;
  const std::string path = path_of(volume, part);
  const auto header = encode_log_part_header({pool_, volume, part, epoch});
  log.appendable = false;
  handles_.drop(volume);
  auto written =
      co_await run_on(executor_, reactor_, [&] { return file_system_.replace_file(path, header); });
  if (!written) co_return std::unexpected(written.error().wrap(path));
  log.parts.push_back(part);
  log.epoch = epoch;
  log.size_bytes = kLogPartHeaderBytes;
  log.appendable = true;
  co_return Result<void>();
}

Task<Result<void>> FileLogStore::write_frame(uint64_t volume, Log& log, ConstBytes bytes) {
  const uint64_t part = log.parts.back();
  auto pin = handles_.acquire(volume, {.write = true}, [&] { return path_of(volume, part); });
  if (!pin) co_return std::unexpected(std::move(pin).error());
  const uint64_t offset = log.size_bytes;
  const uint64_t frame_bytes = log_frame_bytes(bytes.size());
  const auto header =
      encode_log_frame_header({pool_, volume, part, log.epoch}, offset, offset, bytes);
  const std::array<std::byte, kLogFrameAlignment> zeros{};
  const std::array<iovec, 3> iov = {{
      {const_cast<std::byte*>(header.data()), header.size()},
      {const_cast<std::byte*>(bytes.data()), bytes.size()},
      {const_cast<std::byte*>(zeros.data()), frame_bytes - header.size() - bytes.size()},
  }};
  int result = co_await io_writev(reactor_, pin->handle(), iov, offset);
  if (result >= 0 && static_cast<uint64_t>(result) != frame_bytes) result = -EIO;
  if (result >= 0) result = co_await io_sync(reactor_, pin->handle());
  if (result < 0) {
    log.appendable = false;
    co_return fail_errno(-result, "{}: append of {} bytes at offset {}", path_of(volume, part),
                         bytes.size(), offset);
  }
  log.size_bytes += frame_bytes;
  co_return Result<void>();
}

// Deletes the `count` oldest parts.
Task<Result<void>> FileLogStore::remove_parts(uint64_t volume, Log& log, size_t count) {
  if (count == 0) co_return Result<void>();
  std::vector<std::string> paths;
  for (size_t i = 0; i < count; ++i) paths.push_back(path_of(volume, log.parts[i]));
  size_t removed = 0;
  auto done = co_await run_on(executor_, reactor_, [&]() -> Result<void> {
    for (; removed < paths.size(); ++removed) TRY(file_system_.remove(paths[removed]));
    return file_system_.sync_directory(directory_);
  });
  log.parts.erase(log.parts.begin(), log.parts.begin() + static_cast<ptrdiff_t>(removed));
  co_return done;
}

}  // namespace squall
