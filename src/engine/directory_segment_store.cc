// All segments of a store lie in one directory. A segment is up to 2 GiB, so 100,000 files are 200
// TiB; ext4 and XFS look names up in a tree, and reading 100,000 names at start-up takes tens of
// milliseconds. A fan-out would buy nothing and cost two more directory syncs per new directory.
//
// A segment has at most two open files: a buffered one for writes and for reads of what is not yet
// synced (a direct read of such a range would first write it back and wait), and a direct one.
#include "engine/directory_segment_store.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <climits>

#include "base/log.h"

namespace squall {
namespace {

constexpr std::string_view kSuffix = ".seg";
constexpr size_t kIdDigits = 16;
constexpr uint64_t kBlock = kDirectAlignment;
// A chunk of 64 KiB with its header, rounded outward to blocks.
constexpr size_t kBounceBytes = 72 * kKiB;
constexpr size_t kBounceBuffersKept = 32;

std::string reserve_path(const std::string& store) {
  return store + "/RESERVE";
}

std::string file_name(SegmentId id) {
  return fmt::format("{:016x}{}", id, kSuffix);
}

std::optional<SegmentId> parse_file_name(std::string_view name) {
  if (name.size() != kIdDigits + kSuffix.size() || !name.ends_with(kSuffix)) return std::nullopt;
  SegmentId id = 0;
  const char* end = name.data() + kIdDigits;
  const auto parsed = std::from_chars(name.data(), end, id, 16);
  if (parsed.ec != std::errc() || parsed.ptr != end || file_name(id) != name) return std::nullopt;
  return id;
}

uint64_t buffered_key(SegmentId id) {
  return id << 1;
}
uint64_t direct_key(SegmentId id) {
  return id << 1 | 1;
}

bool is_aligned(const void* data) {
  return reinterpret_cast<uintptr_t>(data) % kBlock == 0;
}

// Writes all of `from`, in as many operations as it takes; 0 or a negative errno.
Task<int> write_all(Reactor& reactor, int handle, std::span<const iovec> from, uint64_t offset) {
  std::vector<iovec> rest(from.begin(), from.end());
  size_t first = 0;
  while (first < rest.size()) {
    const size_t count = std::min<size_t>(rest.size() - first, IOV_MAX);
    const int written =
        co_await io_writev(reactor, handle, std::span(rest).subspan(first, count), offset);
    if (written < 0) co_return written;
    offset += static_cast<uint64_t>(written);
    size_t done = static_cast<size_t>(written);
    const size_t before = first;
    while (first < rest.size() && done >= rest[first].iov_len) done -= rest[first++].iov_len;
    if (done == 0 && first == before) co_return -EIO;  // a write that writes nothing
    if (done > 0) {
      rest[first].iov_base = static_cast<std::byte*>(rest[first].iov_base) + done;
      rest[first].iov_len -= done;
    }
  }
  co_return 0;
}

}  // namespace

Result<std::unique_ptr<DirectorySegmentStore>> DirectorySegmentStore::open(
    Reactor& reactor, FileSystem& file_system, Executor& executor, const Uuid& pool,
    const std::vector<StoreDirectory>& directories, DirectorySegmentStoreOptions options) {
  std::unique_ptr<DirectorySegmentStore> self(
      new DirectorySegmentStore(reactor, file_system, executor, pool, options));
  for (const StoreDirectory& directory : directories) TRY(self->add_store(directory));
  return self;
}

Result<void> DirectorySegmentStore::add_store(const StoreDirectory& directory) {
  stores_.push_back({.name = directory.name,
                     .path = directory.path,
                     .problem = std::nullopt,
                     .direct_reads = options_.direct_reads});
  Store& store = stores_.back();
  if (options_.make_executor && stores_.size() > 1)
    store.own_executor = options_.make_executor(reactor_, "squall-store");
  store.executor = store.own_executor != nullptr ? store.own_executor.get() : &executor_;
  if (auto found = check_store_directory(file_system_, pool_, directory); !found) {
    LOG_WARN("engine: {}", found.error().message());
    stores_.back().problem = std::move(found).error();
    return {};
  }
  return add_segments(stores_.size() - 1);
}

Result<void> DirectorySegmentStore::add_segments(size_t store) {
  const std::string directory = segments_path(stores_[store].path);
  auto names = file_system_.list(directory);
  if (!names) {
    stores_[store].problem = names.error().wrap(fmt::format("store {}", stores_[store].name));
    LOG_WARN("engine: {}", stores_[store].problem->message());
    return {};
  }
  for (const std::string& name : *names) {
    const auto id = parse_file_name(name);
    if (!id) {
      LOG_WARN("engine: {}/{} is no segment; ignored", directory, name);
      continue;
    }
    const auto [place, is_new] = segments_.try_emplace(*id, Segment{.store = store});
    if (!is_new && place->second.store != store)
      return fail(ErrorKind::kCorrupt, "segment {} exists twice: {} and {}; remove the wrong copy",
                  *id, path_of(*id, place->second.store), path_of(*id, store));
  }
  return {};
}

std::string DirectorySegmentStore::path_of(SegmentId id, size_t store) const {
  return segments_path(stores_[store].path) + "/" + file_name(id);
}

std::string DirectorySegmentStore::describe(SegmentId id, size_t store) const {
  return fmt::format("segment {} in store {} ({})", id, stores_[store].name, path_of(id, store));
}

Result<DirectorySegmentStore::Segment*> DirectorySegmentStore::find(SegmentId id) {
  if (auto found = segments_.find(id); found != segments_.end()) return &found->second;
  for (size_t i = 0; i < stores_.size(); ++i)
    if (stores_[i].problem) look_again(i);
  if (auto found = segments_.find(id); found != segments_.end()) return &found->second;
  // It may lie in a store that is away: that is no proof that it does not exist.
  for (const Store& store : stores_)
    if (store.problem)
      return fail(ErrorKind::kIo, "segment {} is in no available store; {}", id,
                  store.problem->message());
  return fail(ErrorKind::kNotFound, "segment {} does not exist", id);
}

Result<DirectorySegmentStore::Segment*> DirectorySegmentStore::find_writable(SegmentId id) {
  TRY_ASSIGN(Segment * segment, find(id));
  if (segment->sync_failed)
    return fail(ErrorKind::kIo, "{}: an earlier sync failed; write to a new segment",
                describe(id, segment->store));
  return segment;
}

// The segment exists: where its file is not found, its disk is not there.
std::unexpected<Error> DirectorySegmentStore::cannot_open(const Error& error, SegmentId id,
                                                          size_t store) const {
  if (error.kind() == ErrorKind::kNotFound)
    return fail_errno(EIO, "{}: its file is not there (is the store's disk mounted?)",
                      describe(id, store));
  return std::unexpected(error.wrap(describe(id, store)));
}

Result<HandleCache::Pin> DirectorySegmentStore::open_buffered(SegmentId id, size_t store) {
  auto pin =
      handles_.acquire(buffered_key(id), {.write = true}, [&] { return path_of(id, store); });
  if (!pin) return cannot_open(pin.error(), id, store);
  return pin;
}

Result<HandleCache::Pin> DirectorySegmentStore::open_direct(SegmentId id, size_t store) {
  auto pin = handles_.acquire(direct_key(id), {.direct = true}, [&] { return path_of(id, store); });
  if (!pin) return cannot_open(pin.error(), id, store);
  return pin;
}

void DirectorySegmentStore::drop_handles(SegmentId id) {
  handles_.drop(buffered_key(id));
  handles_.drop(direct_key(id));
}

Task<Result<std::vector<SegmentInfo>>> DirectorySegmentStore::list() {
  std::vector<SegmentInfo> infos;
  infos.reserve(segments_.size());
  for (size_t store = 0; store < stores_.size(); ++store) CO_TRY(co_await stat_all(store, infos));
  std::ranges::sort(infos, {}, &SegmentInfo::id);
  co_return infos;
}

// Appends what a store holds.
Task<Result<void>> DirectorySegmentStore::stat_all(size_t store, std::vector<SegmentInfo>& infos) {
  std::vector<SegmentInfo> found;
  for (const auto& [id, segment] : segments_)
    if (segment.store == store) found.push_back({.id = id, .store = stores_[store].name});
  std::vector<SegmentId> missing;
  CO_TRY(co_await run_on(*stores_[store].executor, reactor_, [&]() -> Result<void> {
    for (SegmentInfo& segment : found) {
      auto info = file_system_.stat(path_of(segment.id, store));
      if (!info && info.error().kind() == ErrorKind::kNotFound) {
        missing.push_back(segment.id);  // removed meanwhile, or gone: told apart below
        continue;
      }
      TRY(info);
      segment.size_bytes = info->size;
      segment.allocated_bytes = info->allocated_bytes;
    }
    return {};
  }));
  for (const SegmentId id : missing) {
    if (segments_.contains(id))
      co_return fail(ErrorKind::kIo, "segment {}: {} has disappeared", id, path_of(id, store));
    std::erase_if(found, [id](const SegmentInfo& segment) { return segment.id == id; });
  }
  infos.insert(infos.end(), std::make_move_iterator(found.begin()),
               std::make_move_iterator(found.end()));
  co_return Result<void>();
}

// A store that was away at the start may have been mounted since.
void DirectorySegmentStore::look_again(size_t store) {
  if (!check_store_directory(file_system_, pool_, {stores_[store].name, stores_[store].path}))
    return;
  stores_[store].problem.reset();
  if (auto added = add_segments(store); !added) {
    stores_[store].problem = std::move(added).error();
  } else if (!stores_[store].problem) {
    LOG_INFO("engine: store {} ({}) is there again", stores_[store].name, stores_[store].path);
  }
}

StoreInfo DirectorySegmentStore::info_of(const Store& store) {
  StoreInfo info{.name = store.name, .path = store.path};
  auto problem = store.problem;
  // Where its disk was unmounted, the directory may still be there, and be another disk's.
  if (!problem) {
    if (auto marker = file_system_.stat(marker_path(store.path)); !marker)
      problem =
          marker.error().wrap(fmt::format("store {}: {} is not available (is its disk "
                                          "mounted?)",
                                          store.name, store.path));
  }
  if (!problem) {
    if (auto space = file_system_.space(store.path)) {
      info.total_bytes = space->total_bytes;
      info.available_bytes = space->available_bytes;
    } else {
      problem = std::move(space).error();
    }
  }
  info.available = !problem;
  if (problem) info.problem = problem->message();
  return info;
}

// In the background, and tried again with the next look when it does not come off.
void DirectorySegmentStore::keep_reserve(const Store& store, uint64_t available_bytes) {
  const uint64_t bytes = options_.reserve_bytes;
  const std::string path = reserve_path(store.path);
  if (bytes == 0 || available_bytes < 2 * bytes || file_system_.exists(path)) return;
  store.executor->run([&files = file_system_, path, bytes] {
    const auto handle = files.open(path, {.write = true, .create = true});
    if (!handle) return;
    const auto allocated = files.allocate(*handle, bytes);
    files.close(*handle);
    if (!allocated) (void)files.remove(path);
  });
}

Task<void> DirectorySegmentStore::release_reserve(std::string store) {
  const auto place = std::ranges::find(stores_, store, &Store::name);
  if (place == stores_.end() || options_.reserve_bytes == 0) co_return;
  co_await run_on(*place->executor, reactor_, [this, path = reserve_path(place->path)] {
    return file_system_.remove(path).has_value();
  });
}

Result<std::vector<StoreInfo>> DirectorySegmentStore::stores() {
  std::vector<StoreInfo> infos;
  for (size_t i = 0; i < stores_.size(); ++i) {
    if (stores_[i].problem) look_again(i);
    infos.push_back(info_of(stores_[i]));
    if (infos.back().available) keep_reserve(stores_[i], infos.back().available_bytes);
  }
  return infos;
}

Task<Result<void>> DirectorySegmentStore::create(SegmentId id, const std::string& store) {
  CHECK(id > 0 && id < uint64_t{1} << 33);
  const auto place = std::ranges::find(stores_, store, &Store::name);
  if (place == stores_.end())
    co_return fail(ErrorKind::kNotFound, "segment {}: the pool has no store {}", id, store);
  if (place->problem) co_return std::unexpected(*place->problem);
  const auto index = static_cast<size_t>(place - stores_.begin());
  if (segments_.contains(id)) co_return fail(ErrorKind::kExists, "{}: exists", describe(id, index));
  const std::string path = path_of(id, index);
  auto created = co_await run_on(*stores_[index].executor, reactor_, [&]() -> Result<void> {
    TRY_ASSIGN(const int handle,
               file_system_.open(path, {.write = true, .create = true, .exclusive = true}));
    file_system_.close(handle);
    return file_system_.sync_directory(parent_directory(path));
  });
  if (!created) co_return std::unexpected(created.error().wrap(describe(id, index)));
  segments_.try_emplace(id, Segment{.store = index});
  co_return Result<void>();
}

Task<Result<void>> DirectorySegmentStore::write(SegmentId id, std::span<const iovec> from,
                                                uint64_t offset) {
  CO_TRY_ASSIGN(Segment * segment, find_writable(id));
  CO_TRY_ASSIGN(const HandleCache::Pin pin, open_buffered(id, segment->store));
  segment->unsynced = pin;
  ++segment->changes;
  const int result = co_await write_all(reactor_, pin.handle(), from, offset);
  ++segment->changes;
  if (result < 0)
    co_return fail_errno(-result, "{}: write at offset {}", describe(id, segment->store), offset);
  co_return Result<void>();
}

Task<Result<void>> DirectorySegmentStore::sync(SegmentId id) {
  CO_TRY_ASSIGN(Segment * segment, find_writable(id));
  if (!segment->unsynced) co_return Result<void>();
  const HandleCache::Pin pin = segment->unsynced;
  const uint64_t changes = segment->changes;
  const int result = co_await io_sync(reactor_, pin.handle());
  if (result < 0) {
    segment->sync_failed = true;
    co_return fail_errno(-result, "{}: sync", describe(id, segment->store));
  }
  if (segment->changes == changes) segment->unsynced = {};
  co_return Result<void>();
}

Task<Result<size_t>> DirectorySegmentStore::read(SegmentId id, Bytes to, uint64_t offset) {
  CO_TRY_ASSIGN(const Segment* segment, find(id));
  const size_t store = segment->store;
  if (stores_[store].direct_reads && !segment->unsynced)
    co_return co_await read_direct(id, store, to, offset);
  co_return co_await read_buffered(id, store, to, offset);
}

Task<Result<size_t>> DirectorySegmentStore::read_buffered(SegmentId id, size_t store, Bytes to,
                                                          uint64_t offset) {
  CO_TRY_ASSIGN(const HandleCache::Pin pin, open_buffered(id, store));
  const int got = co_await io_read(reactor_, pin.handle(), to, offset);
  if (got < 0) co_return fail_errno(-got, "{}: read at offset {}", describe(id, store), offset);
  co_return static_cast<size_t>(got);
}

Task<Result<size_t>> DirectorySegmentStore::read_direct(SegmentId id, size_t store, Bytes to,
                                                        uint64_t offset) {
  CO_TRY_ASSIGN(const HandleCache::Pin pin, open_direct(id, store));
  const uint64_t begin = round_down(offset, kBlock);
  const uint64_t end = round_up(offset + to.size(), kBlock);
  int got = 0;
  if (begin == offset && end == offset + to.size() && is_aligned(to.data())) {
    got = co_await io_read(reactor_, pin.handle(), to, offset);
  } else {
    AlignedBuffer bounce = take_bounce_buffer(end - begin);
    const Bytes range = bounce.bytes().first(end - begin);
    got = co_await io_read(reactor_, pin.handle(), range, begin);
    if (got > 0) {
      const size_t skip = std::min<size_t>(offset - begin, static_cast<size_t>(got));
      const size_t length = std::min(static_cast<size_t>(got) - skip, to.size());
      if (length > 0) std::memcpy(to.data(), range.data() + skip, length);
      got = static_cast<int>(length);
    }
    keep_bounce_buffer(std::move(bounce));
  }
  if (got == -EINVAL) {
    // The file system took O_DIRECT and then refuses it: read this store through the cache.
    LOG_WARN("engine: store {} ({}) refuses direct reads; reading it through the page cache",
             stores_[store].name, stores_[store].path);
    stores_[store].direct_reads = false;
    co_return co_await read_buffered(id, store, to, offset);
  }
  if (got < 0) co_return fail_errno(-got, "{}: read at offset {}", describe(id, store), offset);
  co_return static_cast<size_t>(got);
}

// Kept buffers spare the allocation and the page faults of a fresh one on every read.
AlignedBuffer DirectorySegmentStore::take_bounce_buffer(size_t size) {
  if (size > kBounceBytes || bounce_buffers_.empty())
    return AlignedBuffer(std::max(size, kBounceBytes));
  AlignedBuffer buffer = std::move(bounce_buffers_.back());
  bounce_buffers_.pop_back();
  return buffer;
}

void DirectorySegmentStore::keep_bounce_buffer(AlignedBuffer buffer) {
  if (buffer.size() == kBounceBytes && bounce_buffers_.size() < kBounceBuffersKept)
    bounce_buffers_.push_back(std::move(buffer));
}

Task<Result<void>> DirectorySegmentStore::truncate(SegmentId id, uint64_t size_bytes) {
  CO_TRY_ASSIGN(Segment * segment, find_writable(id));
  CO_TRY_ASSIGN(const HandleCache::Pin pin, open_buffered(id, segment->store));
  segment->unsynced = pin;
  ++segment->changes;
  auto done = co_await run_on(*stores_[segment->store].executor, reactor_,
                              [&] { return file_system_.truncate(pin.handle(), size_bytes); });
  ++segment->changes;
  if (!done)
    co_return std::unexpected(done.error().wrap(
        fmt::format("{}: truncate to {}", describe(id, segment->store), size_bytes)));
  co_return Result<void>();
}

Task<Result<void>> DirectorySegmentStore::punch(SegmentId id, uint64_t offset, uint64_t length) {
  CO_TRY_ASSIGN(Segment * segment, find_writable(id));
  const uint64_t begin = round_up(offset, kBlock);
  const uint64_t end = round_down(offset + length, kBlock);
  if (begin >= end) co_return Result<void>();
  CO_TRY_ASSIGN(const HandleCache::Pin pin, open_buffered(id, segment->store));
  segment->unsynced = pin;
  ++segment->changes;
  const int result = co_await io_punch(reactor_, pin.handle(), begin, end - begin);
  ++segment->changes;
  if (result == -EOPNOTSUPP) can_punch_ = false;
  if (result < 0)
    co_return fail_errno(-result, "{}: punch {} bytes at offset {}", describe(id, segment->store),
                         end - begin, begin);
  co_return Result<void>();
}

Task<Result<void>> DirectorySegmentStore::remove(SegmentId id) {
  CO_TRY_ASSIGN(Segment * segment, find(id));
  const size_t store = segment->store;
  const std::string path = path_of(id, store);
  // Closed before the unlink, so that it is the executor that waits while the space is freed.
  segment->unsynced = {};
  drop_handles(id);
  auto removed = co_await run_on(*stores_[store].executor, reactor_, [&]() -> Result<void> {
    TRY(file_system_.remove(path));
    return file_system_.sync_directory(parent_directory(path));
  });
  if (!removed) co_return std::unexpected(removed.error().wrap(describe(id, store)));
  drop_handles(id);
  segments_.erase(id);
  co_return Result<void>();
}

// A file that is there from an earlier time is another one: numbers are not reused, but may come
// back with an old catalog.
Task<Result<std::string>> DirectorySegmentStore::quarantine(SegmentId id) {
  CO_TRY_ASSIGN(Segment * segment, find(id));
  const size_t store = segment->store;
  const std::string from = path_of(id, store);
  const std::string directory = stores_[store].path + "/quarantine";
  std::string to = directory + "/" + file_name(id);
  segment->unsynced = {};
  drop_handles(id);
  auto moved = co_await run_on(executor_, reactor_, [&]() -> Result<void> {
    TRY(file_system_.make_directory_durably(directory));
    for (int copy = 2; file_system_.exists(to); ++copy)
      to = fmt::format("{}/{}.{}", directory, file_name(id), copy);
    TRY(file_system_.rename(from, to));
    TRY(file_system_.sync_directory(directory));
    return file_system_.sync_directory(parent_directory(from));
  });
  if (!moved) co_return std::unexpected(moved.error().wrap(describe(id, store)));
  drop_handles(id);
  segments_.erase(id);
  co_return to;
}

}  // namespace squall
