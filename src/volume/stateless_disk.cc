// Order is what makes a killed daemon harmless: a block's data is in the scratch file before its
// state says so, and its state says zero before its space is given back.
#include "volume/stateless_disk.h"

#include <charconv>

#include "base/buffer.h"
#include "base/codec.h"
#include "base/hash.h"
#include "base/log.h"
#include "volume/base_reader.h"
#include "volume/extents.h"

namespace squall {

namespace {

struct Paths {
  std::string fast;
  std::string overflow;
  std::string map;
};
Paths paths_of(const ScratchConfig& config, uint64_t volume_id) {
  const std::string& near =
      config.fast_directory.empty() ? config.overflow_directory : config.fast_directory;
  return {fmt::format("{}/{:016x}.fast", near, volume_id),
          fmt::format("{}/{:016x}.data", config.overflow_directory, volume_id),
          fmt::format("{}/{:016x}.map", near, volume_id)};
}

std::string map_header(uint64_t volume_id, const std::string& boot_id) {
  ByteWriter w;
  w.put(uint64_t{0x314d54534c545351}).put(volume_id).put(checksum(as_bytes(boot_id), 1));
  return w.take();
}

// Whether the map belongs to this volume and this boot: without it the data means nothing. An error
// where that cannot be told, which is no reason to forget the data.
Result<bool> is_current(FileSystem& files, const std::string& map, const std::string& header) {
  const auto handle = files.open(map, {});
  if (!handle && handle.error().kind() == ErrorKind::kNotFound) return false;
  if (!handle) return std::unexpected(handle.error());
  std::vector<std::byte> found(4096);
  const auto got = files.read(*handle, found, 0);
  files.close(*handle);
  if (!got) return std::unexpected(got.error());
  return *got == found.size() && as_text(ConstBytes(found).first(header.size())) == header;
}

// The volume that a scratch file's name says it belongs to.
std::optional<uint64_t> volume_of_file(std::string_view name) {
  constexpr size_t kDigits = 16;
  uint64_t id = 0;
  const char* end = name.data() + std::min(kDigits, name.size());
  const auto parsed = std::from_chars(name.data(), end, id, 16);
  const std::string_view suffix = name.substr(static_cast<size_t>(end - name.data()));
  if (parsed.ec != std::errc() || parsed.ptr != end || end - name.data() != kDigits ||
      (suffix != ".fast" && suffix != ".data" && suffix != ".map"))
    return std::nullopt;
  return id;
}

void stop_counting(Scratch& scratch, uint64_t volume_id) {
  const auto closed = scratch.closed_fast_bytes.find(volume_id);
  if (closed == scratch.closed_fast_bytes.end()) return;
  scratch.fast_used_bytes -= closed->second;
  scratch.closed_fast_bytes.erase(closed);
}

}  // namespace

Result<void> take_stock(Scratch& scratch, const std::set<uint64_t>& known) {
  const ScratchConfig& config = scratch.config;
  std::set<uint64_t> found;
  for (const std::string& directory : {config.fast_directory, config.overflow_directory}) {
    if (directory.empty()) continue;
    TRY_ASSIGN(const auto names, scratch.files.list(directory));
    for (const std::string& name : names)
      if (const auto id = volume_of_file(name)) found.insert(*id);
  }
  for (const uint64_t id : found) {
    const Paths paths = paths_of(config, id);
    const auto current = is_current(scratch.files, paths.map, map_header(id, config.boot_id));
    if (!known.contains(id) || (current && !*current)) {
      StatelessDisk::forget(scratch, id);
    } else if (const auto info = scratch.files.stat(paths.fast); info) {
      scratch.closed_fast_bytes[id] = info->allocated_bytes;
      scratch.fast_used_bytes += info->allocated_bytes;
    }
  }
  return {};
}

StatelessDisk::StatelessDisk(Scratch& scratch, uint64_t volume_id, IndexRoot base,
                             uint64_t size_bytes)
    : scratch_(scratch),
      volume_id_(volume_id),
      base_(base),
      size_bytes_(size_bytes),
      writes_(scratch.reactor) {}

Result<std::shared_ptr<StatelessDisk>> StatelessDisk::open(Scratch& scratch, uint64_t volume_id,
                                                           IndexRoot base, uint64_t size_bytes) {
  std::shared_ptr<StatelessDisk> disk(new StatelessDisk(scratch, volume_id, base, size_bytes));
  if (auto opened = disk->open_files(); !opened)
    return std::unexpected(
        opened.error().wrap(fmt::format("scratch files of stateless volume {}", volume_id)));
  return disk;
}

Result<void> StatelessDisk::open_files() {
  FileSystem& fs = scratch_.files;
  const Paths paths = paths_of(scratch_.config, volume_id_);
  const std::string header = map_header(volume_id_, scratch_.config.boot_id);
  TRY_ASSIGN(const bool ours, is_current(fs, paths.map, header));
  if (!ours) forget(scratch_, volume_id_);
  const OpenOptions options{.write = true, .create = true};
  TRY_ASSIGN(fast_, fs.open(paths.fast, options));
  TRY_ASSIGN(overflow_, fs.open(paths.overflow, options));
  TRY_ASSIGN(map_handle_, fs.open(paths.map, options));
  TRY(fs.truncate(fast_, size_bytes_));
  TRY(fs.truncate(overflow_, size_bytes_));
  TRY(map_states(size_bytes_));
  std::memcpy(map_.data(), header.data(), header.size());
  for (uint64_t block = 0; ours && block < map_.size() - kMapHeader; ++block) {
    if (state(block) == kFast) ++fast_blocks_;
    if (state(block) == kOverflow) ++overflow_blocks_;
  }
  stop_counting(scratch_, volume_id_);
  scratch_.fast_used_bytes += fast_blocks_ * kBlockBytes;
  return {};
}

// The map's space is reserved before it is mapped: a store into a hole of a full file system would
// kill the daemon. An open disk's map only grows.
Result<void> StatelessDisk::map_states(uint64_t size_bytes) {
  const uint64_t bytes = kMapHeader + round_up(size_bytes, kBlockBytes) / kBlockBytes;
  if (bytes <= map_.size()) return {};
  FileSystem& fs = scratch_.files;
  // Asked for first, since a file system may hand out all it has before it finds that this is not
  // enough, with others' writes failing meanwhile.
  TRY_ASSIGN(const FileInfo before, fs.info(map_handle_));
  TRY_ASSIGN(const SpaceInfo space,
             fs.space(parent_directory(paths_of(scratch_.config, volume_id_).map)));
  if (bytes > before.allocated_bytes + space.available_bytes)
    return fail_errno(ENOSPC, "the block map of a volume of {} bytes takes {} bytes", size_bytes,
                      bytes);
  TRY(fs.truncate(map_handle_, bytes));
  if (auto allocated = fs.allocate(map_handle_, bytes); !allocated) {
    if (auto undone = fs.truncate(map_handle_, std::max(before.size, map_.size())); !undone)
      LOG_WARN("scratch: {}", undone.error().message());
    return allocated;
  }
  // Where that fails the disk goes on with the map it has.
  TRY_ASSIGN(const Bytes larger, scratch_.files.map(map_handle_, bytes));
  if (!map_.empty()) scratch_.files.unmap(map_);
  map_ = larger;
  return {};
}

void StatelessDisk::forget(Scratch& scratch, uint64_t volume_id) {
  stop_counting(scratch, volume_id);
  const Paths paths = paths_of(scratch.config, volume_id);
  // The map first: without it the data means nothing.
  for (const std::string& path : {paths.map, paths.fast, paths.overflow})
    if (scratch.files.exists(path))
      if (auto removed = scratch.files.remove(path); !removed)
        LOG_WARN("scratch: {}", removed.error().message());
}

StatelessDisk::~StatelessDisk() {
  // What it wrote goes on taking space, unless its files were deleted meanwhile.
  if (fast_blocks_ > 0 && scratch_.files.exists(paths_of(scratch_.config, volume_id_).map)) {
    scratch_.closed_fast_bytes[volume_id_] = fast_blocks_ * kBlockBytes;
  } else {
    scratch_.fast_used_bytes -= fast_blocks_ * kBlockBytes;
  }
  if (!map_.empty()) scratch_.files.unmap(map_);
  for (const int handle : {fast_, overflow_, map_handle_})
    if (handle >= 0) scratch_.files.close(handle);
}

uint64_t StatelessDisk::scratch_bytes() const {
  return (fast_blocks_ + overflow_blocks_) * kBlockBytes;
}

void StatelessDisk::set_state(uint64_t block, State next) {
  const State before = state(block);
  if (before == next) return;
  if (before == kFast) {
    --fast_blocks_;
    scratch_.fast_used_bytes -= kBlockBytes;
  }
  if (before == kOverflow) --overflow_blocks_;
  if (next == kFast) {
    ++fast_blocks_;
    scratch_.fast_used_bytes += kBlockBytes;
  }
  if (next == kOverflow) ++overflow_blocks_;
  map_[kMapHeader + block] = static_cast<std::byte>(next);
}

std::vector<StatelessDisk::Run> StatelessDisk::runs(uint64_t offset, uint64_t length,
                                                    size_t max_runs) const {
  std::vector<Run> found;
  const uint64_t end = offset + length;
  while (offset < end) {
    const uint64_t block_end = std::min(end, (offset / kBlockBytes + 1) * kBlockBytes);
    const State s = state(offset / kBlockBytes);
    if (!found.empty() && found.back().state == s) {
      found.back().end = block_end;
    } else if (found.size() == max_runs) {
      break;
    } else {
      found.push_back({offset, block_end, s});
    }
    offset = block_end;
  }
  return found;
}

Task<Result<void>> StatelessDisk::read(uint64_t offset, Bytes to) {
  std::vector<DiskExtent> extents;
  CO_TRY(co_await read_sparse(offset, to, extents));
  fill_zero_extents(extents, to);
  co_return Result<void>{};
}

Task<Result<void>> StatelessDisk::read_sparse(uint64_t offset, Bytes to,
                                              std::vector<DiskExtent>& extents) {
  auto pass = gate_.enter();
  if (!pass) co_return fail_errno(ESHUTDOWN, "stateless volume {} is closed", volume_id_);
  if (offset + to.size() > size_bytes_)
    co_return fail(ErrorKind::kInvalid, "stateless volume {}: read beyond its end", volume_id_);
  bytes_read += to.size();
  const Epochs::Pass operation = scratch_.records.begin();
  const std::vector<Run> plan = runs(offset, to.size(), ~size_t{0});
  for (const Run& run : plan) {
    const Bytes part = to.subspan(run.begin - offset, run.end - run.begin);
    if (run.state == kBase) {
      std::vector<DiskExtent> inner;
      CO_TRY(co_await read_base(scratch_.reactor, scratch_.records, base_, run.begin, part, inner));
      for (const DiskExtent& e : inner) append_extent(extents, e.length, e.hole, e.zero);
    } else if (run.state == kZero) {
      append_extent(extents, part.size(), true, true);
    } else {
      const int got = co_await io_read(scratch_.reactor, handle(run.state), part, run.begin);
      if (got < 0 || static_cast<size_t>(got) != part.size())
        co_return fail_errno(got < 0 ? -got : EIO, "scratch of volume {}: read at {} failed",
                             volume_id_, run.begin);
      append_extent(extents, part.size(), false, false);
    }
  }
  co_return Result<void>{};
}

Task<Result<void>> StatelessDisk::status(uint64_t offset, uint64_t length, size_t max_extents,
                                         std::vector<DiskExtent>& extents) {
  auto pass = gate_.enter();
  if (!pass) co_return fail_errno(ESHUTDOWN, "stateless volume {} is closed", volume_id_);
  const Epochs::Pass operation = scratch_.records.begin();
  const std::vector<Run> plan = runs(offset, length, max_extents);
  for (const Run& run : plan) {
    if (run.state == kBase) {
      CO_TRY(co_await base_status(scratch_.records, base_, run.begin, run.end - run.begin,
                                  max_extents, extents));
    } else {
      append_extent(extents, run.end - run.begin, run.state == kZero, run.state == kZero);
    }
    if (extents.size() > max_extents) break;
  }
  limit_extents(extents, max_extents);
  co_return Result<void>{};
}

Task<Result<void>> StatelessDisk::prefetch(uint64_t offset, uint64_t length) {
  auto pass = gate_.enter();
  if (!pass) co_return fail_errno(ESHUTDOWN, "stateless volume {} is closed", volume_id_);
  const Epochs::Pass operation = scratch_.records.begin();
  co_return co_await prefetch_base(scratch_.reactor, scratch_.records, base_, offset, length);
}

// A block keeps the place it has; a new one is fast while the budget lasts.
StatelessDisk::State StatelessDisk::place_for(uint64_t block) {
  const State now = state(block);
  if (now == kFast || now == kOverflow) return now;
  const bool room = !scratch_.config.fast_directory.empty() &&
                    scratch_.fast_used_bytes + kBlockBytes <= scratch_.config.fast_budget_bytes;
  return room ? kFast : kOverflow;
}

// Whole blocks (the last may be cut by the disk's end). No suspension.
Result<void> StatelessDisk::write_blocks(uint64_t offset, ConstBytes from) {
  for (size_t at = 0; at < from.size();) {
    const uint64_t first = (offset + at) / kBlockBytes;
    const State place = place_for(first);
    size_t size = std::min<size_t>(kBlockBytes, from.size() - at);
    uint64_t count = 1;
    // Every block is accounted as it is placed, so the budget holds within one write, too.
    if (state(first) == place) {
      while (at + size < from.size() && state(first + count) == place) {
        size += std::min<size_t>(kBlockBytes, from.size() - at - size);
        ++count;
      }
    }
    if (auto written = scratch_.files.write(handle(place), from.subspan(at, size), offset + at);
        !written) {
      // tmpfs may fill up before the budget does: the disk takes what does not fit.
      if (place != kFast || state(first) == kFast) return written;
      TRY(scratch_.files.write(overflow_, from.subspan(at, size), offset + at));
      set_state(first, kOverflow);
    } else {
      for (uint64_t i = 0; i < count; ++i) set_state(first + i, place);
    }
    at += size;
  }
  return {};
}

// A write within one block whose rest comes from below.
Task<Result<void>> StatelessDisk::write_block_part(uint64_t offset, ConstBytes from) {
  const uint64_t block = offset / kBlockBytes;
  const State now = state(block);
  if (now == kFast || now == kOverflow) co_return scratch_.files.write(handle(now), from, offset);
  const uint64_t begin = block * kBlockBytes;
  AlignedBuffer content(std::min(kBlockBytes, size_bytes_ - begin));
  if (now == kBase) {
    const Epochs::Pass operation = scratch_.records.begin();
    std::vector<DiskExtent> extents;
    CO_TRY(co_await read_base(scratch_.reactor, scratch_.records, base_, begin, content.bytes(),
                              extents));
  }
  std::memcpy(content.data() + (offset - begin), from.data(), from.size());
  co_return write_blocks(begin, content.bytes());
}

Task<Result<void>> StatelessDisk::write(uint64_t offset, ConstBytes from, bool fua) {
  auto pass = gate_.enter();
  if (!pass) co_return fail_errno(ESHUTDOWN, "stateless volume {} is closed", volume_id_);
  if (offset + from.size() > size_bytes_)
    co_return fail(ErrorKind::kInvalid, "stateless volume {}: write beyond its end", volume_id_);
  bytes_written += from.size();
  const uint64_t end = offset + from.size();
  const uint64_t locked = round_down(offset, kBlockBytes);
  auto guard = co_await writes_.lock(locked, round_up(end, kBlockBytes) - locked, true);
  uint64_t at = offset;
  if (at % kBlockBytes != 0 || end - at < kBlockBytes) {
    const uint64_t part_end = std::min(end, (at / kBlockBytes + 1) * kBlockBytes);
    if (at % kBlockBytes != 0 || part_end != size_bytes_) {
      CO_TRY(co_await write_block_part(at, from.first(part_end - at)));
      at = part_end;
    }
  }
  const uint64_t whole_end = end == size_bytes_ ? end : std::max(at, round_down(end, kBlockBytes));
  if (at < whole_end) CO_TRY(write_blocks(at, from.subspan(at - offset, whole_end - at)));
  at = std::max(at, whole_end);
  if (at < end) CO_TRY(co_await write_block_part(at, from.subspan(at - offset)));
  co_return Result<void>{};
}

Task<Result<void>> StatelessDisk::zero_blocks(uint64_t first, uint64_t end) {
  uint64_t run_begin = first;
  State run_state = kBase;
  for (uint64_t block = first; block <= end; ++block) {
    const State now = block < end ? state(block) : kBase;
    if (block == end || now != run_state) {
      if (run_state == kFast || run_state == kOverflow) {
        const int punched =
            co_await io_punch(scratch_.reactor, handle(run_state), run_begin * kBlockBytes,
                              (block - run_begin) * kBlockBytes);
        if (punched < 0 && punched != -EOPNOTSUPP)
          LOG_WARN("scratch of volume {}: space not given back: errno {}", volume_id_, -punched);
      }
      run_begin = block;
      run_state = now;
    }
    if (block < end) set_state(block, kZero);
  }
  co_return Result<void>{};
}

Task<Result<void>> StatelessDisk::zero(uint64_t offset, uint64_t length, bool fua) {
  auto pass = gate_.enter();
  if (!pass) co_return fail_errno(ESHUTDOWN, "stateless volume {} is closed", volume_id_);
  const uint64_t end = offset + length;
  if (end > size_bytes_)
    co_return fail(ErrorKind::kInvalid, "stateless volume {}: request beyond its end", volume_id_);
  const uint64_t locked = round_down(offset, kBlockBytes);
  auto guard = co_await writes_.lock(locked, round_up(end, kBlockBytes) - locked, true);
  static const std::array<std::byte, kBlockBytes> kZeros{};
  const uint64_t head_end = std::min(end, round_up(offset, kBlockBytes));
  if (head_end > offset)
    CO_TRY(co_await write_block_part(offset, ConstBytes(kZeros).first(head_end - offset)));
  const uint64_t tail = std::max(head_end, end == size_bytes_ ? end : round_down(end, kBlockBytes));
  if (tail > head_end)
    CO_TRY(co_await zero_blocks(head_end / kBlockBytes, round_up(tail, kBlockBytes) / kBlockBytes));
  if (tail < end) CO_TRY(co_await write_block_part(tail, ConstBytes(kZeros).first(end - tail)));
  co_return Result<void>{};
}

Task<Result<void>> StatelessDisk::trim(uint64_t offset, uint64_t length, bool fua) {
  const uint64_t begin = round_up(offset, kBlockBytes);
  const uint64_t end =
      offset + length == size_bytes_ ? size_bytes_ : round_down(offset + length, kBlockBytes);
  return zero(std::min(begin, end), end > begin ? end - begin : 0, fua);
}

Task<Result<void>> StatelessDisk::flush() {
  co_return Result<void>{};
}

Task<Result<void>> StatelessDisk::resize(uint64_t size_bytes) {
  auto guard = co_await writes_.lock(0, ~uint64_t{0}, true);
  const uint64_t old_bytes = size_bytes_;
  const uint64_t old_blocks = round_up(old_bytes, kBlockBytes) / kBlockBytes;
  const uint64_t blocks = round_up(size_bytes, kBlockBytes) / kBlockBytes;
  if (size_bytes <= old_bytes) {
    size_bytes_ = size_bytes;
    co_return co_await zero_blocks(blocks, old_blocks);
  }
  CO_TRY(map_states(size_bytes));
  CO_TRY(scratch_.files.truncate(fast_, size_bytes));
  CO_TRY(scratch_.files.truncate(overflow_, size_bytes));
  // What a shrink cut off, and what the parent has beyond the old end, reads as zeros.
  for (uint64_t block = old_blocks; block < blocks; ++block) set_state(block, kZero);
  size_bytes_ = size_bytes;
  const uint64_t tail_end = std::min(size_bytes, old_blocks * kBlockBytes);
  if (tail_end > old_bytes) {
    static const std::array<std::byte, kBlockBytes> kZeros{};
    CO_TRY(co_await write_block_part(old_bytes, ConstBytes(kZeros).first(tail_end - old_bytes)));
  }
  co_return Result<void>{};
}

Task<void> StatelessDisk::close() {
  co_await gate_.close();
}

}  // namespace squall
