// A page is rewritten when it is itself to be left or when something it refers to has moved: copy
// on write, as an update does it. The memory of pages makes the work proportional to the distinct
// pages, whatever the number of trees, and is also what makes relocating a tree again, after a
// commit changed a few of its pages, quick.
#include "index/index_relocate.h"

#include <algorithm>
#include <optional>

#include "base/buffer.h"
#include "index/index_page_reader.h"
#include "io/gate.h"

namespace squall {

namespace {
constexpr size_t kReadsAtOnce = 16;
constexpr uint64_t kPageBytes = 8 * kKiB;  // about, for the account of work done
}  // namespace

// Fills new chunks with a leaf's blocks that move, in order.
class IndexRelocation::LeafPacker {
 public:
  LeafPacker(IndexRelocation& relocation, const Placement& placement)
      : relocation_(relocation), placement_(placement), buffer_(kMaxPayloadBytes) {}

  Task<Result<void>> add(Address chunk, unsigned block, ConstBytes data) {
    std::memcpy(buffer_.data() + waiting_.size() * kBlockBytes, data.data(), kBlockBytes);
    waiting_.push_back({chunk, block});
    if (waiting_.size() == kChunkBlocksMax) co_return co_await cut();
    co_return Result<void>();
  }
  Task<Result<void>> cut() {
    if (waiting_.empty()) co_return Result<void>();
    const ConstBytes payload = buffer_.bytes().first(waiting_.size() * kBlockBytes);
    std::vector<Fingerprint> fingerprints;
    relocation_.fingerprinter_.append(payload, fingerprints);
    CO_TRY_ASSIGN(const Address to, co_await relocation_.store_.append(RecordKind::kChunk, payload,
                                                                       placement_, fingerprints));
    relocation_.moved_bytes_ += to.stored_bytes();
    for (uint16_t i = 0; i < waiting_.size(); ++i)
      relocation_.chunks_[waiting_[i].chunk][waiting_[i].block] = {to, i};
    waiting_.clear();
    co_return Result<void>();
  }

 private:
  struct Waiting {
    Address chunk;
    unsigned block;
  };
  IndexRelocation& relocation_;
  const Placement& placement_;
  AlignedBuffer buffer_;
  std::vector<Waiting> waiting_;
};

Task<Result<IndexRoot>> IndexRelocation::relocate(IndexRoot root, Placement placement) {
  CO_TRY(internal::check_root(root));
  if (root.height == 0) co_return root;
  CO_TRY_ASSIGN(const Address top,
                co_await relocate_page(root.address, root.height - 1u, 0, placement));
  if (top.is_hole()) co_return IndexRoot();
  co_return IndexRoot{top, root.height};
}

Task<Result<Address>> IndexRelocation::relocate_page(Address old, unsigned level,
                                                     uint64_t first_block,
                                                     const Placement& placement) {
  if (const auto known = pages_.find(old); known != pages_.end()) co_return known->second;
  Result<Address> moved;
  if (level == 0)
    moved = co_await relocate_leaf(old, first_block, placement);
  else
    moved = co_await relocate_inner(old, level, first_block, placement);
  if (moved) pages_.emplace(old, *moved);
  co_return moved;
}

Task<Result<Address>> IndexRelocation::relocate_inner(Address old, unsigned level,
                                                      uint64_t first_block,
                                                      const Placement& placement) {
  CO_TRY_ASSIGN(const internal::HeldPage held,
                co_await internal::read_page(store_, old, level, first_block));
  CO_TRY_ASSIGN(InnerPage page, decode_inner_page(held.payload->bytes()));
  bool changed = leaves_(old);
  const uint64_t span = page_span_blocks(level - 1);
  for (unsigned slot = 0; slot < kPageFanout; ++slot) {
    Address& child = page.children[slot];
    if (child.is_hole()) continue;
    if (slot % kReadsAtOnce == 0) CO_TRY(co_await warm(page, slot));
    CO_TRY_ASSIGN(const Address moved,
                  co_await relocate_page(child, level - 1, first_block + slot * span, placement));
    changed |= moved != child;
    child = moved;
  }
  if (!changed) co_return old;
  if (std::ranges::all_of(page.children, &Address::is_hole)) co_return Address();
  const std::vector<std::byte> bytes = encode_inner_page(page);
  co_return co_await append_page(bytes, placement);
}

// Reads the next few children together; what cannot be read is reported by who needs it.
Task<Result<void>> IndexRelocation::warm(const InnerPage& page, unsigned slot) {
  Gate gate;
  uint64_t read = 0;
  for (unsigned i = slot; i < std::min<unsigned>(slot + kReadsAtOnce, kPageFanout); ++i) {
    const Address child = page.children[i];
    if (child.is_hole() || pages_.contains(child) || store_.read_cached(child)) continue;
    ++read;
    spawn(store_.read(RecordKind::kPage, child), [pass = gate.enter()](Result<PayloadRef>) {});
  }
  co_await gate.close();
  co_return co_await rest_((read + 1) * kPageBytes);
}

Task<Result<Address>> IndexRelocation::relocate_leaf(Address old, uint64_t first_block,
                                                     const Placement& placement) {
  CO_TRY_ASSIGN(const internal::HeldPage held,
                co_await internal::read_page(store_, old, 0, first_block));
  CO_TRY_ASSIGN(LeafPage leaf, decode_leaf_page(held.payload->bytes()));
  const bool moves = std::ranges::any_of(
      leaf.extents, [&](const PageExtent& extent) { return leaves_(extent.chunk); });
  if (!moves && !leaves_(old)) co_return old;
  if (moves) CO_TRY(co_await move_chunks(leaf, placement));
  std::vector<PageExtent> extents;
  for (const PageExtent& extent : leaf.extents) add_extent(extent, extents);
  if (extents.empty()) co_return Address();
  leaf.extents = std::move(extents);
  const std::vector<std::byte> bytes = encode_leaf_page(leaf);
  co_return co_await append_page(bytes, placement);
}

// The extent, or those of the new places of its blocks. A block without one reads as zeros.
void IndexRelocation::add_extent(const PageExtent& extent, std::vector<PageExtent>& to) const {
  const auto moved = chunks_.find(extent.chunk);
  if (moved == chunks_.end() || !leaves_(extent.chunk)) {
    to.push_back(extent);
    return;
  }
  for (uint16_t i = 0; i < extent.count; ++i) {
    const Place& place = moved->second[extent.chunk_block + i];
    if (place.chunk.is_hole()) continue;
    const auto block = static_cast<uint16_t>(extent.first_block + i);
    if (!to.empty() && to.back().chunk == place.chunk &&
        to.back().first_block + to.back().count == block &&
        to.back().chunk_block + to.back().count == place.block)
      ++to.back().count;
    else
      to.push_back(
          {.first_block = block, .count = 1, .chunk_block = place.block, .chunk = place.chunk});
  }
}

// Copies the leaf's blocks that are to move and have not moved yet.
Task<Result<void>> IndexRelocation::move_chunks(const LeafPage& leaf, const Placement& placement) {
  std::vector<PageExtent> moving;
  for (const PageExtent& extent : leaf.extents)
    if (leaves_(extent.chunk)) moving.push_back(extent);
  LeafPacker packer(*this, placement);
  for (size_t at = 0; at < moving.size(); at += kReadsAtOnce) {
    const std::span batch =
        std::span(moving).subspan(at, std::min(kReadsAtOnce, moving.size() - at));
    std::vector<std::optional<Result<PayloadRef>>> payloads(batch.size());
    Gate gate;
    for (size_t i = 0; i < batch.size(); ++i)
      if (has_unmoved(batch[i]))
        spawn(store_.read(RecordKind::kChunk, batch[i].chunk),
              [&to = payloads[i], pass = gate.enter()](Result<PayloadRef> payload) {
                to = std::move(payload);
              });
    co_await gate.close();
    uint64_t read_bytes = 0;
    for (size_t i = 0; i < batch.size(); ++i) {
      if (!payloads[i]) continue;
      CO_TRY_ASSIGN(const PayloadRef payload, std::move(*payloads[i]));
      read_bytes += batch[i].chunk.stored_bytes();
      CO_TRY(co_await add_blocks(batch[i], *payload, packer));
    }
    CO_TRY(co_await rest_(2 * read_bytes));
  }
  co_return co_await packer.cut();
}

bool IndexRelocation::has_unmoved(const PageExtent& extent) const {
  const auto moved = chunks_.find(extent.chunk);
  if (moved == chunks_.end()) return true;
  for (unsigned i = 0; i < extent.count; ++i)
    if (moved->second[extent.chunk_block + i].chunk.is_hole()) return true;
  return false;
}

Task<Result<void>> IndexRelocation::add_blocks(PageExtent extent, const Payload& payload,
                                               LeafPacker& packer) {
  const ConstBytes bytes = payload.bytes();
  if ((extent.chunk_block + extent.count) * kBlockBytes > bytes.size())
    co_return fail(ErrorKind::kCorrupt, "index points beyond the chunk at {}",
                   extent.chunk.to_string());
  for (unsigned i = 0; i < extent.count; ++i) {
    const unsigned block = extent.chunk_block + i;
    const ConstBytes data = bytes.subspan(block * kBlockBytes, kBlockBytes);
    if (!chunks_[extent.chunk][block].chunk.is_hole() || is_zero(data)) continue;
    CO_TRY(co_await packer.add(extent.chunk, block, data));
  }
  co_return Result<void>();
}

Task<Result<Address>> IndexRelocation::append_page(ConstBytes bytes, const Placement& placement) {
  CO_TRY_ASSIGN(const Address to, co_await store_.append(RecordKind::kPage, bytes, placement));
  moved_bytes_ += to.stored_bytes();
  co_return to;
}

}  // namespace squall
