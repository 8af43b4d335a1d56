// Each unit in flight has a slot with a buffer and goes through its states when the loop finds its
// transfer done; callbacks only set flags, so nothing recurses. A slot's read and write concern the
// same whole unit and no two slots the same unit: no order between them matters.
#include "cli/block_copy.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <set>

#include "base/buffer.h"
#include "cli/interrupt.h"

namespace squall {

namespace {

uint64_t unit_bytes(uint64_t unit, uint64_t size_bytes) {
  return std::min(kCopyUnitBytes, size_bytes - unit * kCopyUnitBytes);
}

void add_units(const std::vector<DataRun>& runs, std::set<uint64_t>& units) {
  for (const DataRun& run : runs) {
    if (run.length == 0) continue;
    const uint64_t last = (run.offset + run.length - 1) / kCopyUnitBytes;
    for (uint64_t unit = run.offset / kCopyUnitBytes; unit <= last; ++unit) units.insert(unit);
  }
}

uint64_t total_bytes(const std::set<uint64_t>& units, uint64_t size_bytes) {
  uint64_t total = 0;
  for (const uint64_t unit : units) total += unit_bytes(unit, size_bytes);
  return total;
}

Result<void> check_transfer(const Transfer& transfer, std::string_view operation,
                            const BlockEndpoint& endpoint) {
  if (transfer.error == 0) return {};
  const std::string explanation = endpoint.explanation();
  return fail_errno(transfer.error, "{} {} at offset {}{}{}", operation, endpoint.name(),
                    transfer.offset, explanation.empty() ? "" : ": ", explanation);
}

// Sleeps until one of the endpoints may go on, and lets it.
Result<void> wait_for(BlockEndpoint& a, BlockEndpoint* b = nullptr) {
  const PollInterest first = a.poll_interest();
  const PollInterest second = b == nullptr ? PollInterest{} : b->poll_interest();
  std::array<pollfd, 2> fds{{{first.fd, first.events, 0}, {second.fd, second.events, 0}}};
  TRY(poll_interruptibly(fds));
  if (fds[0].revents != 0) TRY(a.on_poll(fds[0].revents));
  if (fds[1].revents != 0) TRY(b->on_poll(fds[1].revents));
  return {};
}

// Runs `advance` over every slot until all are idle and none finds more to do. `advance` returns
// whether the slot changed its state.
template <class Slot, class Advance>
Result<void> drive(std::vector<Slot>& slots, BlockEndpoint& a, BlockEndpoint& b, Advance advance) {
  for (;;) {
    TRY(check_interrupt());
    bool changed = false;
    for (Slot& slot : slots) {
      TRY_ASSIGN(const bool moved, advance(slot));
      changed |= moved;
    }
    if (changed) continue;
    if (std::ranges::all_of(slots, &Slot::is_idle)) return {};
    TRY(wait_for(a, &b));
  }
}

// Copying.

struct CopySlot {
  enum class State { kIdle, kReading, kWriting };
  State state = State::kIdle;
  AlignedBuffer buffer{kCopyUnitBytes};
  Transfer transfer{};
  bool is_idle() const { return state == State::kIdle; }
};

class Copier {
 public:
  Copier(BlockSource& source, BlockSink& sink, Progress& progress)
      : source_(source), sink_(sink), progress_(progress), slots_(kCopyUnitsInFlight) {}

  Result<CopyStats> run() {
    TRY_ASSIGN(const auto runs, source_.data_runs());
    add_units(runs, units_);
    progress_.set_total(total_bytes(units_, source_.size_bytes()));
    Result<void> driven =
        drive(slots_, source_, sink_, [this](CopySlot& slot) { return advance(slot); });
    if (!driven) {
      source_.abandon();
      sink_.abandon();
      return std::unexpected(driven.error());
    }
    TRY(sink_.flush());
    return stats_;
  }

 private:
  Result<bool> advance(CopySlot& slot) {
    if (slot.is_idle()) {
      if (units_.empty()) return false;
      const uint64_t unit = units_.extract(units_.begin()).value();
      const uint64_t length = unit_bytes(unit, source_.size_bytes());
      slot.transfer = {unit * kCopyUnitBytes, slot.buffer.bytes().first(length)};
      slot.state = CopySlot::State::kReading;
      TRY(source_.start_read(slot.transfer));
      return true;
    }
    if (!slot.transfer.done) return false;
    if (slot.state == CopySlot::State::kReading) {
      TRY(check_transfer(slot.transfer, "reading", source_));
      stats_.read_bytes += slot.transfer.bytes.size();
      return start_write(slot);
    }
    TRY(check_transfer(slot.transfer, "writing", sink_));
    stats_.written_bytes += slot.transfer.bytes.size();
    finish(slot);
    return true;
  }

  Result<bool> start_write(CopySlot& slot) {
    if (is_zero(slot.transfer.bytes)) {
      finish(slot);
      return true;
    }
    // A source may end inside a sector (one from the network); the disk does not.
    const size_t length = slot.transfer.bytes.size();
    const size_t padded = round_up(length, 512);
    std::memset(slot.buffer.data() + length, 0, padded - length);
    slot.transfer = {slot.transfer.offset, slot.buffer.bytes().first(padded)};
    slot.state = CopySlot::State::kWriting;
    TRY(sink_.start_write(slot.transfer));
    return true;
  }

  void finish(CopySlot& slot) {
    progress_.add(slot.transfer.bytes.size());
    slot.state = CopySlot::State::kIdle;
  }

  BlockSource& source_;
  BlockSink& sink_;
  Progress& progress_;
  std::vector<CopySlot> slots_;
  std::set<uint64_t> units_;
  CopyStats stats_;
};

// Comparing.

struct CompareSlot {
  bool reading = false;
  AlignedBuffer buffer_a{kCopyUnitBytes};
  AlignedBuffer buffer_b{kCopyUnitBytes};
  Transfer a{};
  Transfer b{};
  bool is_idle() const { return !reading; }
};

class Comparer {
 public:
  Comparer(BlockSource& a, BlockSource& b, Progress& progress)
      : a_(a), b_(b), progress_(progress), slots_(kCopyUnitsInFlight) {}

  Result<void> run() {
    if (round_up(a_.size_bytes(), 512) != round_up(b_.size_bytes(), 512)) {
      return fail(ErrorKind::kCorrupt, "the sizes differ: {} and {} bytes", a_.size_bytes(),
                  b_.size_bytes());
    }
    TRY_ASSIGN(const auto runs_a, a_.data_runs());
    TRY_ASSIGN(const auto runs_b, b_.data_runs());
    add_units(runs_a, units_);
    add_units(runs_b, units_);
    progress_.set_total(total_bytes(units_, a_.size_bytes()));
    Result<void> driven = drive(slots_, a_, b_, [this](CompareSlot& s) { return advance(s); });
    if (!driven) {
      a_.abandon();
      b_.abandon();
    }
    return driven;
  }

 private:
  Result<bool> advance(CompareSlot& slot) {
    if (slot.is_idle()) {
      if (units_.empty()) return false;
      const uint64_t unit = units_.extract(units_.begin()).value();
      const uint64_t offset = unit * kCopyUnitBytes;
      slot.a = {offset, slot.buffer_a.bytes().first(unit_bytes(unit, a_.size_bytes()))};
      slot.b = {offset, slot.buffer_b.bytes().first(unit_bytes(unit, b_.size_bytes()))};
      slot.reading = true;
      TRY(a_.start_read(slot.a));
      TRY(b_.start_read(slot.b));
      return true;
    }
    if (!slot.a.done || !slot.b.done) return false;
    TRY(check_transfer(slot.a, "reading", a_));
    TRY(check_transfer(slot.b, "reading", b_));
    TRY(compare(slot));
    progress_.add(slot.a.bytes.size());
    slot.reading = false;
    return true;
  }

  // The longer side's last sector must be zeros where the shorter has ended.
  static Result<void> compare(const CompareSlot& slot) {
    const size_t common = std::min(slot.a.bytes.size(), slot.b.bytes.size());
    if (std::memcmp(slot.a.bytes.data(), slot.b.bytes.data(), common) == 0 &&
        is_zero(slot.a.bytes.subspan(common)) && is_zero(slot.b.bytes.subspan(common))) {
      return {};
    }
    const auto differing = std::ranges::mismatch(slot.a.bytes, slot.b.bytes).in1;
    return fail(ErrorKind::kCorrupt, "the contents differ at offset {}",
                slot.a.offset + static_cast<uint64_t>(differing - slot.a.bytes.begin()));
  }

  BlockSource& a_;
  BlockSource& b_;
  Progress& progress_;
  std::vector<CompareSlot> slots_;
  std::set<uint64_t> units_;
};

}  // namespace

Result<CopyStats> copy_blocks(BlockSource& source, BlockSink& sink, Progress& progress) {
  return Copier(source, sink, progress).run();
}

Result<void> read_block(BlockSource& source, uint64_t offset, Bytes to) {
  Transfer transfer{offset, to};
  Result<void> result = source.start_read(transfer);
  while (result && !transfer.done) {
    result = check_interrupt();
    if (result) result = wait_for(source);
  }
  if (!result) {
    source.abandon();
    return result;
  }
  return check_transfer(transfer, "reading", source);
}

Result<void> compare_blocks(BlockSource& a, BlockSource& b, Progress& progress) {
  return Comparer(a, b, progress).run();
}

}  // namespace squall
