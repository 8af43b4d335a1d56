#include "testing/memory_engine.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/check.h"

namespace squall::testing {

MemorySegmentStore::MemorySegmentStore(Reactor& reactor, std::vector<std::string> stores)
    : reactor_(reactor), stores_(std::move(stores)) {}

Task<Result<void>> MemorySegmentStore::begin(Call call, SegmentId id) {
  co_await yield_to(reactor_);
  ++counts_[call];
  if (call != Call::kRead && changes_left_ != ~uint64_t{0} && changes_left_ > 0) --changes_left_;
  if (changes_left_ == 0) co_return fail_errno(EIO, "segment {}: the power is out", id);
  if (const auto failure = failures_.find(call); failure != failures_.end()) {
    const int os_errno = failure->second;
    failures_.erase(failure);
    co_return fail_errno(os_errno, "segment {}", id);
  }
  co_return Result<void>();
}

Result<MemorySegmentStore::Segment*> MemorySegmentStore::find(SegmentId id) {
  const auto segment = segments_.find(id);
  if (segment == segments_.end()) return fail_errno(ENOENT, "segment {}", id);
  return &segment->second;
}

uint64_t MemorySegmentStore::used_bytes() const {
  uint64_t bytes = 0;
  for (const auto& [id, segment] : segments_) bytes += segment.bytes.size();
  return bytes;
}

Task<Result<std::vector<SegmentInfo>>> MemorySegmentStore::list() {
  co_await yield_to(reactor_);
  std::vector<SegmentInfo> infos;
  for (const auto& [id, segment] : segments_)
    infos.push_back({id, segment.store, segment.bytes.size(), segment.bytes.size()});
  co_return infos;
}

Result<std::vector<StoreInfo>> MemorySegmentStore::stores() {
  std::vector<StoreInfo> infos;
  for (const std::string& name : stores_)
    infos.push_back({.name = name,
                     .path = "memory",
                     .total_bytes = capacity_bytes_,
                     .available_bytes = capacity_bytes_ - std::min(capacity_bytes_, used_bytes())});
  return infos;
}

Task<Result<void>> MemorySegmentStore::create(SegmentId id, const std::string& store) {
  // The caller's may be gone once this has waited.
  // NOLINTNEXTLINE(performance-unnecessary-copy-initialization)
  const std::string name = store;
  CO_TRY(co_await begin(Call::kCreate, id));
  if (std::ranges::find(stores_, name) == stores_.end())
    co_return fail(ErrorKind::kNotFound, "there is no store '{}'", name);
  if (segments_.contains(id)) co_return fail_errno(EEXIST, "segment {}", id);
  segments_[id].store = name;
  co_return Result<void>();
}

Task<Result<void>> MemorySegmentStore::write(SegmentId id, std::span<const iovec> from,
                                             uint64_t offset) {
  const bool was_cut = is_cut();
  auto begun = co_await begin(Call::kWrite, id);
  if (!begun && (was_cut || !is_cut())) co_return begun;
  CO_TRY_ASSIGN(Segment * segment, find(id));
  std::vector<std::byte> data;
  for (const iovec& iov : from) {
    const auto* base = static_cast<const std::byte*>(iov.iov_base);
    data.insert(data.end(), base, base + iov.iov_len);
  }
  const uint64_t end = offset + data.size();
  const uint64_t growth = end - std::min<uint64_t>(end, segment->bytes.size());
  if (growth > 0 && used_bytes() + growth > capacity_bytes_)
    co_return fail_errno(ENOSPC, "segment {}: write at offset {}", id, offset);
  segment->unsynced.push_back({offset, std::move(data)});
  if (begun) apply(segment->unsynced.back(), segment->bytes);
  co_return begun;
}

Task<Result<void>> MemorySegmentStore::sync(SegmentId id) {
  CO_TRY(co_await begin(Call::kSync, id));
  CO_TRY_ASSIGN(Segment * segment, find(id));
  for (const Change& change : std::exchange(segment->unsynced, {})) apply(change, segment->durable);
  co_return Result<void>();
}

Task<Result<size_t>> MemorySegmentStore::read(SegmentId id, Bytes to, uint64_t offset) {
  CO_TRY(co_await begin(Call::kRead, id));
  CO_TRY_ASSIGN(Segment * segment, find(id));
  const uint64_t size = segment->bytes.size();
  const uint64_t begin = std::min(offset, size);
  const size_t count = std::min<uint64_t>(to.size(), size - begin);
  std::copy_n(segment->bytes.begin() + static_cast<ptrdiff_t>(begin), count, to.begin());
  co_return count;
}

Task<Result<void>> MemorySegmentStore::truncate(SegmentId id, uint64_t size_bytes) {
  CO_TRY(co_await begin(Call::kTruncate, id));
  CO_TRY_ASSIGN(Segment * segment, find(id));
  segment->unsynced.push_back({size_bytes, std::nullopt});
  apply(segment->unsynced.back(), segment->bytes);
  co_return Result<void>();
}

Task<Result<void>> MemorySegmentStore::punch(SegmentId id, uint64_t offset, uint64_t length) {
  CO_TRY(co_await begin(Call::kPunch, id));
  CO_TRY_ASSIGN(Segment * segment, find(id));
  const uint64_t begin = std::min<uint64_t>(offset, segment->bytes.size());
  const uint64_t end = std::min<uint64_t>(offset + length, segment->bytes.size());
  segment->unsynced.push_back({begin, std::vector<std::byte>(end - begin)});
  apply(segment->unsynced.back(), segment->bytes);
  co_return Result<void>();
}

Task<Result<std::string>> MemorySegmentStore::quarantine(SegmentId id) {
  CO_TRY(co_await remove(id));
  co_return fmt::format("quarantine of segment {}", id);
}

Task<Result<void>> MemorySegmentStore::remove(SegmentId id) {
  CO_TRY(co_await begin(Call::kRemove, id));
  CO_TRY(find(id));
  segments_.erase(id);
  co_return Result<void>();
}

void MemorySegmentStore::apply(const Change& change, std::vector<std::byte>& bytes) {
  if (!change.data) {
    bytes.resize(change.offset);
    return;
  }
  const uint64_t end = change.offset + change.data->size();
  if (bytes.size() < end) bytes.resize(end);
  std::ranges::copy(*change.data, bytes.begin() + static_cast<ptrdiff_t>(change.offset));
}

void MemorySegmentStore::apply_sectors(const Change& change, std::vector<std::byte>& bytes,
                                       Random& random) {
  if (!change.data) return apply(change, bytes);
  for (uint64_t at = 0; at < change.data->size(); at += kSectorBytes) {
    if (random.chance(0.5)) continue;
    const auto first = change.data->begin() + static_cast<ptrdiff_t>(at);
    const uint64_t count = std::min(kSectorBytes, change.data->size() - at);
    apply(
        {change.offset + at, std::vector<std::byte>(first, first + static_cast<ptrdiff_t>(count))},
        bytes);
  }
}

void MemorySegmentStore::crash(Loss loss, Random& random) {
  changes_left_ = ~uint64_t{0};
  failures_.clear();
  for (auto& [id, segment] : segments_) {
    for (const Change& change : std::exchange(segment.unsynced, {})) {
      if (loss == Loss::kNone || (loss == Loss::kWrites && random.chance(0.5)))
        apply(change, segment.durable);
      if (loss == Loss::kSectors) apply_sectors(change, segment.durable, random);
    }
    segment.bytes = segment.durable;
  }
}

void MemorySegmentStore::flip_bit(SegmentId id, uint64_t offset, unsigned bit) {
  Segment& segment = segments_.at(id);
  const auto mask = static_cast<std::byte>(1U << bit);
  segment.bytes.at(offset) ^= mask;
  if (offset < segment.durable.size()) segment.durable[offset] ^= mask;
}

uint64_t MemorySegmentStore::count(Call call) const {
  const auto found = counts_.find(call);
  return found == counts_.end() ? 0 : found->second;
}

void MemorySegmentStore::put(SegmentId id, const std::string& store,
                             std::vector<std::byte> content) {
  segments_[id] = {.store = store, .bytes = content, .durable = content, .unsynced = {}};
}

Task<Result<std::optional<std::string>>> MemoryMetaStore::get(std::string partition,
                                                              std::string key) {
  co_await yield_to(reactor_);
  const auto entry = entries_.find({std::move(partition), std::move(key)});
  if (entry == entries_.end()) co_return std::optional<std::string>();
  co_return std::optional<std::string>(entry->second);
}

Task<Result<std::vector<MetaEntry>>> MemoryMetaStore::list(std::string partition_prefix,
                                                           std::string key_prefix) {
  co_await yield_to(reactor_);
  std::vector<MetaEntry> found;
  for (const auto& [name, value] : entries_)
    if (name.first.starts_with(partition_prefix) && name.second.starts_with(key_prefix))
      found.push_back({name.first, name.second, value});
  co_return found;
}

Task<Result<void>> MemoryMetaStore::commit(MetaTransaction transaction) {
  co_await yield_to(reactor_);
  if (commit_failure_ != 0)
    co_return fail_errno(std::exchange(commit_failure_, 0), "catalog: {}", transaction.partition);
  for (const auto& compare : transaction.compares) {
    const auto entry = entries_.find({transaction.partition, compare.key});
    const bool matches =
        entry == entries_.end() ? !compare.expected : compare.expected == entry->second;
    if (!matches)
      co_return fail(ErrorKind::kConflict, "catalog: {}/{} has changed", transaction.partition,
                     compare.key);
  }
  for (const auto& put : transaction.puts) {
    if (put.value)
      entries_[{transaction.partition, put.key}] = *put.value;
    else
      entries_.erase({transaction.partition, put.key});
  }
  co_return Result<void>();
}

}  // namespace squall::testing
