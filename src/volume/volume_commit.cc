// Commit and everything else that publishes a head.
//
// A commit freezes the dirty map and the journal position it reaches, packs the frozen content into
// chunks, rebuilds the touched part of the index, makes all of it durable, and publishes root and
// position in one transaction. Until then readers see the frozen map; if anything fails it goes
// back under the active one and nothing is lost but time.
#include <set>

#include "base/buffer.h"
#include "base/log.h"
#include "volume/base_reader.h"
#include "volume/chunk_packer.h"
#include "volume/extents.h"
#include "volume/volume.h"

namespace squall {

using journal_format::RecordType;

// Reads a map in block order and feeds the packer. Places without a file are in `memory`. Where the
// volume shrinks to `end_bytes`, what lies beyond is left out, and a last block that it cuts in two
// ends in zeros: that is what a later growth shows.
class Volume::CommitBuilder {
 public:
  CommitBuilder(Volume& volume, const DirtyMap& map, ConstBytes memory, uint64_t end_bytes,
                Placement placement)
      : volume_(volume),
        map_(map),
        memory_(memory),
        packer_(volume.context_.records, std::move(placement),
                {.deduplicate = volume.head_.deduplicate}),
        buffer_(volume.context_.journal.max_payload_bytes()),
        shrinks_(end_bytes < volume.head_.size_bytes),
        end_bytes_(shrinks_ ? end_bytes : ~uint64_t{0}) {}

  Task<Result<void>> run() {
    const uint64_t whole_end = round_down(end_bytes_, kBlockBytes);
    for (auto it = map_.entries().begin(); it != map_.entries().end(); ++it) {
      if (it->first >= whole_end) break;
      CO_TRY(co_await entry(it->first, std::min(it->second.end, whole_end), it->second));
    }
    if (shrinks_ && whole_end < end_bytes_) CO_TRY(co_await partial(whole_end / kBlockBytes));
    co_return co_await packer_.finish();
  }
  std::vector<BlockRun>& runs() { return packer_.runs(); }

 private:
  // [begin, end) of the volume has what `entry` says. Blocks below next_block_ are done: a block
  // that several entries touch is done with the first.
  Task<Result<void>> entry(uint64_t begin, uint64_t end, const DirtyMap::Entry& entry) {
    uint64_t block = std::max(begin / kBlockBytes, next_block_);
    const uint64_t full_end = end / kBlockBytes;
    if (block * kBlockBytes < begin && block < round_up(end, kBlockBytes) / kBlockBytes) {
      CO_TRY(co_await partial(block));
      ++block;
    }
    if (block < full_end) {
      if (entry.zero) {
        CO_TRY(co_await packer_.add_hole(block, full_end - block));
      } else {
        CO_TRY(co_await full(block, full_end, begin, entry));
      }
      block = full_end;
    }
    if (end % kBlockBytes != 0 && block == full_end) {
      CO_TRY(co_await partial(block));
      ++block;
    }
    next_block_ = std::max(next_block_, block);
    co_return Result<void>{};
  }

  Task<Result<void>> read(const DirtyMap::Entry& entry, uint64_t skip, Bytes to) {
    const uint64_t position = entry.place.position + skip;
    if (entry.place.file != nullptr)
      co_return co_await volume_.context_.journal.read({entry.place.file, position}, to);
    std::memcpy(to.data(), memory_.data() + position, to.size());
    co_return Result<void>{};
  }

  Task<Result<void>> full(uint64_t block, uint64_t end, uint64_t begin,
                          const DirtyMap::Entry& entry) {
    while (block < end) {
      const uint64_t count = std::min<uint64_t>(end - block, buffer_.size() / kBlockBytes);
      const Bytes data = buffer_.bytes().first(count * kBlockBytes);
      const uint64_t skip = block * kBlockBytes - begin;
      CO_TRY(co_await read(entry, skip, data));
      for (uint64_t i = 0; i < count; ++i)
        CO_TRY(co_await packer_.add(block + i, data.subspan(i * kBlockBytes, kBlockBytes)));
      block += count;
    }
    co_return Result<void>{};
  }

  // A block that the map covers in part: the rest comes from the published root.
  Task<Result<void>> partial(uint64_t block) {
    AlignedBuffer content(kBlockBytes);
    const uint64_t at = block * kBlockBytes;
    std::vector<DiskExtent> extents;
    CO_TRY(co_await read_base(volume_.context_.reactor, volume_.context_.records, volume_.root_, at,
                              content.bytes(), extents));
    std::vector<DirtyMap::Piece> pieces;
    map_.visit(at, at + kBlockBytes,
               [&](const DirtyMap::Piece& piece) { pieces.push_back(piece); });
    for (const DirtyMap::Piece& piece : pieces) {
      if (piece.entry == nullptr) continue;
      const Bytes part = content.bytes().subspan(piece.begin - at, piece.end - piece.begin);
      if (piece.entry->zero) {
        std::memset(part.data(), 0, part.size());
      } else {
        CO_TRY(co_await read(*piece.entry, piece.skip, part));
      }
    }
    if (at + kBlockBytes > end_bytes_)
      std::memset(content.data() + (end_bytes_ - at), 0, at + kBlockBytes - end_bytes_);
    co_return co_await packer_.add(block, content.bytes());
  }

  Volume& volume_;
  const DirtyMap& map_;
  ConstBytes memory_;
  ChunkPacker packer_;
  AlignedBuffer buffer_;
  const bool shrinks_;
  const uint64_t end_bytes_;
  uint64_t next_block_ = 0;
};

// Compares the head as last known and replaces it. The caller holds head_mutex_.
Task<Result<void>> Volume::publish(VolumeHead head, std::vector<MetaTransaction::Put> extra) {
  MetaTransaction transaction;
  transaction.partition = volume_partition(name_);
  transaction.compares.push_back({std::string(kHeadKey), head_value_});
  std::string value = encode(head);
  transaction.puts.push_back({std::string(kHeadKey), value});
  for (auto& put : extra) transaction.puts.push_back(std::move(put));
  auto done = co_await context_.meta.commit(std::move(transaction));
  if (!done) {
    if (done.error().kind() == ErrorKind::kConflict) {
      failed_ =
          Error(ErrorKind::kFenced, fmt::format("volume {}: another writer took it over", name_));
      co_return std::unexpected(*failed_);
    }
    co_return std::unexpected(done.error().wrap(fmt::format("volume {}: head not written", name_)));
  }
  head_ = std::move(head);
  head_value_ = std::move(value);
  co_return Result<void>{};
}

// What another node's journal may hold is missing here: nothing may be built on the root.
Result<void> Volume::check_ours() const {
  if (!head_.dirty || head_.owner == context_.journal.id()) return {};
  return fail(ErrorKind::kFenced,
              "volume {}: the journal of node {} holds data the pool does not; start that node or "
              "run: squall volume takeover {}",
              name_, head_.owner.to_string(), name_);
}

Task<Result<IndexRoot>> Volume::build_root(const DirtyMap& map, ConstBytes memory,
                                           uint64_t size_bytes) {
  const Placement placement{head_.store};
  const AppendMark mark = context_.records.mark(placement);
  CommitBuilder builder(*this, map, memory, size_bytes, placement);
  CO_TRY(co_await builder.run());
  const uint64_t blocks = round_up(size_bytes, kBlockBytes) / kBlockBytes;
  CO_TRY_ASSIGN(const IndexRoot root,
                co_await index_update(context_.records, root_, blocks, builder.runs(), placement));
  CO_TRY(co_await context_.records.sync(mark));
  co_return root;
}

// The caller holds commit_mutex_. `snapshot`, when given, receives the published root.
Task<Result<void>> Volume::commit_locked(bool even_if_clean, uint64_t size_bytes,
                                         SnapshotHead* snapshot) {
  if (active_.empty() && !even_if_clean) co_return Result<void>{};
  CO_TRY(check_ours());
  uint64_t part = 0;
  if (is_logged() && !folding_log_) {
    // Log records from here on go to a new part, so that the old ones, all of which have landed and
    // are about to be frozen, can be dropped whole.
    co_await log_mutex_.acquire();
    SemaphoreGuard guard(log_mutex_);
    CO_TRY_ASSIGN(part, co_await context_.logs.rotate(head_.id, head_.epoch));
  }
  CHECK(frozen_.empty());
  frozen_.swap(active_);
  const uint64_t position = std::max(last_landed_, head_.journal_position);
  auto work = [](Volume& self, uint64_t position, uint64_t size_bytes,
                 SnapshotHead* snapshot) -> Task<Result<void>> {
    const Epochs::Pass operation = self.context_.records.begin();
    CO_TRY_ASSIGN(const IndexRoot root, co_await self.build_root(self.frozen_, {}, size_bytes));
    co_await self.head_mutex_.acquire();
    SemaphoreGuard guard(self.head_mutex_);
    VolumeHead head = self.head_;
    head.root = root.address;
    head.root_height = root.height;
    head.journal_position = position;
    head.size_bytes = size_bytes;
    std::vector<MetaTransaction::Put> extra;
    if (snapshot != nullptr) {
      snapshot->root = root.address;
      snapshot->root_height = root.height;
      snapshot->size_bytes = size_bytes;
      extra.push_back({snapshot_key(snapshot->source), encode(*snapshot)});
    }
    CO_TRY(co_await self.publish(std::move(head), std::move(extra)));
    self.root_ = root;
    co_return Result<void>{};
  };
  Result<void> outcome = co_await work(*this, position, size_bytes, snapshot);
  if (outcome) {
    frozen_.clear();
    commit_error_.reset();
    committed_ns_ = context_.reactor.now_ns();
    if (part > 0) {
      if (auto dropped = co_await context_.logs.drop_before(head_.id, part); !dropped)
        LOG_WARN("volume {}: {}", name_, dropped.error().message());
    }
  } else {
    active_.merge_under(frozen_);
    commit_error_ = outcome.error();
  }
  context_.journal.reclaim();
  commit_done_.wake_all();
  co_return outcome;
}

Task<Result<void>> Volume::commit() {
  auto pass = gate_.enter();
  if (!pass) co_return fail_errno(ESHUTDOWN, "volume {} is closed", name_);
  co_await commit_mutex_.acquire();
  SemaphoreGuard guard(commit_mutex_);
  if (failed_) co_return std::unexpected(*failed_);
  CO_TRY(check_ours());
  auto done = co_await commit_locked(false, head_.size_bytes, nullptr);
  if (!done) commit_error_ = done.error();
  co_return done;
}

void Volume::request_commit() {
  if (commit_requested_ || failed_ || gate_.is_closed()) return;
  commit_requested_ = true;
  context_.reactor.post([this, pass = gate_.enter()] {
    if (pass) spawn(commit_in_background());
  });
}

Task<void> Volume::commit_in_background() {
  auto pass = gate_.enter();
  if (pass) {
    const bool failing = commit_failing();
    // A volume that cannot commit tries again with the next request, not in a tight loop, and says
    // so once.
    if (auto done = co_await commit(); !done) {
      if (!failing)
        LOG_WARN("volume {}: commit failed, its writes stay in the journal: {}", name_,
                 done.error().message());
      co_await sleep_ns(context_.reactor, 100'000'000);
    }
  }
  commit_requested_ = false;
  commit_done_.wake_all();
}

Task<Result<SnapshotHead>> Volume::snapshot(std::string snapshot, uint64_t id) {
  auto pass = gate_.enter();
  if (!pass) co_return fail_errno(ESHUTDOWN, "volume {} is closed", name_);
  co_await commit_mutex_.acquire();
  SemaphoreGuard guard(commit_mutex_);
  if (failed_) co_return std::unexpected(*failed_);
  SnapshotHead head;
  head.id = id;
  head.created_s = context_.reactor.wall_clock_s();
  head.source = snapshot;
  head.store = head_.store;
  head.deduplicate = head_.deduplicate;
  CO_TRY(co_await commit_locked(true, head_.size_bytes, &head));
  co_return head;
}

Task<Result<void>> Volume::remove_snapshot(std::string snapshot) {
  auto pass = gate_.enter();
  if (!pass) co_return fail_errno(ESHUTDOWN, "volume {} is closed", name_);
  co_await head_mutex_.acquire();
  SemaphoreGuard guard(head_mutex_);
  std::vector<MetaTransaction::Put> extra;
  extra.push_back({snapshot_key(snapshot), std::nullopt});
  co_return co_await publish(head_, std::move(extra));
}

Task<Result<void>> Volume::resize(uint64_t size_bytes) {
  auto pass = gate_.enter();
  if (!pass) co_return fail_errno(ESHUTDOWN, "volume {} is closed", name_);
  co_await intake_.lock();
  ExclusiveLock alone(intake_);
  co_await commit_mutex_.acquire();
  SemaphoreGuard guard(commit_mutex_);
  if (failed_) co_return std::unexpected(*failed_);
  co_return co_await commit_locked(true, size_bytes, nullptr);
}

Task<Result<void>> Volume::rollback(SnapshotHead snapshot) {
  auto pass = gate_.enter();
  if (!pass) co_return fail_errno(ESHUTDOWN, "volume {} is closed", name_);
  co_await intake_.lock();
  ExclusiveLock alone(intake_);
  co_await commit_mutex_.acquire();
  SemaphoreGuard guard(commit_mutex_);
  co_await head_mutex_.acquire();
  SemaphoreGuard head_guard(head_mutex_);
  CO_TRY(check_ours());  // the journal position of another node's head counts in its journal
  VolumeHead head = head_;
  head.root = snapshot.root;
  head.root_height = snapshot.root_height;
  head.size_bytes = snapshot.size_bytes;
  head.journal_position = context_.journal.last_sequence();
  head.lost = false;
  CO_TRY(co_await publish(std::move(head), {}));
  root_ = {snapshot.root, snapshot.root_height};
  active_.clear();
  unlogged_.clear();
  commit_error_.reset();
  if (lost_ || unrecovered_) failed_.reset();
  lost_ = unrecovered_ = false;
  context_.journal.reclaim();
  commit_done_.wake_all();
  co_return Result<void>{};
}

// Most of the copying is done before commits are held up; what they changed meanwhile is little.
Task<Result<void>> Volume::relocate(IndexRelocation& relocation, AppendMark mark) {
  auto pass = gate_.enter();
  if (!pass) co_return Result<void>{};
  const Placement placement{head_.store};
  CO_TRY(co_await relocation.relocate(root_, placement));
  co_await commit_mutex_.acquire();
  SemaphoreGuard guard(commit_mutex_);
  CO_TRY_ASSIGN(const IndexRoot root, co_await relocation.relocate(root_, placement));
  if (root == root_) co_return Result<void>{};
  CO_TRY(co_await context_.records.sync(mark));
  co_await head_mutex_.acquire();
  SemaphoreGuard head_guard(head_mutex_);
  if (failed_ || !check_ours()) co_return Result<void>{};
  VolumeHead head = head_;
  head.root = root.address;
  head.root_height = root.height;
  CO_TRY(co_await publish(std::move(head), {}));
  root_ = root;
  co_return Result<void>{};
}

Task<Result<void>> Volume::remove(std::vector<std::string> snapshots) {
  auto pass = gate_.enter();
  if (!pass) co_return fail_errno(ESHUTDOWN, "volume {} is closed", name_);
  co_await intake_.lock();
  ExclusiveLock alone(intake_);
  co_await commit_mutex_.acquire();
  SemaphoreGuard guard(commit_mutex_);
  co_await head_mutex_.acquire();
  SemaphoreGuard head_guard(head_mutex_);
  MetaTransaction transaction;
  transaction.partition = volume_partition(name_);
  transaction.compares.push_back({std::string(kHeadKey), head_value_});
  transaction.puts.push_back({std::string(kHeadKey), std::nullopt});
  for (const std::string& snapshot : snapshots)
    transaction.puts.push_back({snapshot_key(snapshot), std::nullopt});
  CO_TRY(co_await context_.meta.commit(std::move(transaction)));
  failed_ = Error::from_errno(ESHUTDOWN, fmt::format("volume {} was removed", name_));
  active_.clear();
  unlogged_.clear();
  context_.journal.reclaim();
  commit_done_.wake_all();
  if (is_logged()) {
    if (auto removed = co_await context_.logs.remove(head_.id); !removed)
      LOG_WARN("volume {}: {}", name_, removed.error().message());
  }
  co_return Result<void>{};
}

Task<Result<void>> Volume::release() {
  if (!check_ours() || lost_ || unrecovered_) co_return Result<void>{};
  CO_TRY(co_await commit());
  auto pass = gate_.enter();
  if (!pass) co_return fail_errno(ESHUTDOWN, "volume {} is closed", name_);
  co_await intake_.lock();
  ExclusiveLock alone(intake_);
  co_await head_mutex_.acquire();
  SemaphoreGuard guard(head_mutex_);
  if (is_dirty() || failed_ || head_.owner.is_nil()) co_return Result<void>{};
  VolumeHead head = head_;
  head.owner = Uuid{};
  head.dirty = false;
  // When this fails the catalog may have the new head all the same, and replay would skip what is
  // written under the old one: the next write takes the lease again, or fails.
  lease_held_ = false;
  CO_TRY(co_await publish(std::move(head), {}));
  co_return Result<void>{};
}

// Moves [begin, entry.end) of the active map, which lies in the oldest file, to the log's end. What
// cannot be read any more is given up: the volume is lost from then on, others go on.
Task<Result<void>> Volume::reappend(uint64_t begin, DirtyMap::Entry entry) {
  const uint64_t limit = context_.journal.max_payload_bytes();
  uint64_t step = limit;
  std::vector<std::byte> data;
  for (uint64_t at = begin; at < entry.end;) {
    const uint64_t size = entry.zero ? entry.end - at : std::min(step, entry.end - at);
    data.resize(entry.zero ? 0 : size);
    if (!entry.zero) {
      auto got = co_await context_.journal.read(
          {entry.place.file, entry.place.position + (at - begin)}, data);
      const bool damaged = !got && got.error().kind() == ErrorKind::kCorrupt;
      if (damaged && size > kBlockBytes) {
        step = kBlockBytes;
        continue;
      }
      if (damaged) {
        if (!lost_) fail_lost(got.error().message());
        CO_TRY(co_await record_loss());
        active_.erase(at, at + size);
        at += size;
        continue;
      }
      CO_TRY(std::move(got));
    }
    context_.journal.admit_reserved(data.size());
    CO_TRY(co_await context_.journal.append(entry.zero ? RecordType::kZero : RecordType::kWrite,
                                            head_.id, head_.epoch, at, size, data,
                                            JournalPath::kCached));
    at += size;
  }
  co_return Result<void>{};
}

Task<Result<void>> Volume::reappend_stragglers() {
  auto pass = gate_.enter();
  if (!pass) co_return fail_errno(ESHUTDOWN, "volume {} is closed", name_);
  // Alone, so that no newer write to the same range is under way: the copy's sequence is higher
  // than that of every write that landed, and what it copies is still the newest.
  co_await intake_.lock();
  ExclusiveLock alone(intake_);
  co_await commit_mutex_.acquire();
  SemaphoreGuard guard(commit_mutex_);
  // Their new numbers would say that the journal has everything the log in the pool has.
  if (unrecovered_) co_return std::unexpected(*failed_);
  const JournalFile* oldest = context_.journal.oldest_file();
  std::vector<std::pair<uint64_t, DirtyMap::Entry>> stragglers;
  for (const auto& [begin, entry] : active_.entries())
    if (entry.place.file == oldest) stragglers.emplace_back(begin, entry);
  if (stragglers.empty()) co_return Result<void>{};
  // A rescue may point the map elsewhere meanwhile; the places copied here must stay.
  JournalFile* file = stragglers.front().second.place.file;
  ++file->pins;
  Result<void> outcome;
  for (const auto& [begin, entry] : stragglers) {
    outcome = co_await reappend(begin, entry);
    if (!outcome) break;
  }
  --file->pins;
  context_.journal.reclaim();
  co_return outcome;
}

}  // namespace squall
