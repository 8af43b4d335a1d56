#include "sim/sim_reactor.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace squall::sim {

namespace {
constexpr int64_t kWallClockStart_s = 1'767'225'600;  // 2026-01-01 00:00 UTC
constexpr uint64_t kErrorDelay_ns = 1'000;

void* to_private(uint64_t id) {
  return reinterpret_cast<void*>(static_cast<uintptr_t>(id));
}
uint64_t from_private(const void* value) {
  return reinterpret_cast<uintptr_t>(value);
}

uint64_t total_length(const Operation& op) {
  uint64_t total = 0;
  for (uint32_t i = 0; i < op.iov_count; ++i) total += op.iov[i].iov_len;
  return total;
}

// Calls visit(memory) for the parts of the operation's buffers that make up [begin, begin +
// length).
template <class Visit>
void for_each_buffer(const Operation& op, uint64_t begin, uint64_t length, Visit visit) {
  for (uint32_t i = 0; i < op.iov_count && length > 0; ++i) {
    const Bytes buffer(static_cast<std::byte*>(op.iov[i].iov_base), op.iov[i].iov_len);
    if (begin >= buffer.size()) {
      begin -= buffer.size();
      continue;
    }
    const uint64_t part = std::min<uint64_t>(length, buffer.size() - begin);
    visit(buffer.subspan(begin, part));
    begin = 0;
    length -= part;
  }
}

std::vector<std::byte> gather(const Operation& op, uint64_t begin, uint64_t length) {
  std::vector<std::byte> data;
  data.reserve(length);
  for_each_buffer(op, begin, length,
                  [&](Bytes part) { data.insert(data.end(), part.begin(), part.end()); });
  return data;
}

void scatter(const Operation& op, uint64_t begin, ConstBytes data) {
  for_each_buffer(op, begin, data.size(), [&](Bytes part) {
    std::memcpy(part.data(), data.data(), part.size());
    data = data.subspan(part.size());
  });
}
}  // namespace

SimReactor::SimReactor(uint64_t seed, SimDisk& disk, SimTiming timing)
    : timing_(timing), random_(seed) {
  mount(disk);
}

SimReactor::~SimReactor() {
  for (const auto& [core, source] : watched_) core->remove_in_flight_source(source);
}

SimFileSystem& SimReactor::mount(SimDisk& disk) {
  const DiskCore* core = disk.core().get();
  const uint64_t source = disk.core()->add_in_flight_source(
      [this, core](std::vector<InFlightWrite>& writes) { report_in_flight(core, writes); });
  watched_.emplace_back(disk.core(), source);
  file_systems_.push_back(std::make_unique<SimFileSystem>(disk, table_, trace_));
  return *file_systems_.back();
}

void SimReactor::report_in_flight(const DiskCore* core, std::vector<InFlightWrite>& writes) const {
  for (const auto& [id, disk_op] : disk_ops_) {
    if (disk_op.file->core.get() != core) continue;
    if (disk_op.op->code != Operation::Code::kWrite) continue;
    for (const Piece& piece : disk_op.pieces) {
      if (piece.landed) continue;
      writes.push_back({.inode = disk_op.file->inode,
                        .offset = disk_op.op->offset + piece.begin,
                        .data = gather(*disk_op.op, piece.begin, piece.length)});
    }
  }
}

// --- Events --------------------------------------------------------------------------------------

SimReactor::EventKey SimReactor::schedule(uint64_t delay_ns, std::move_only_function<void()> work) {
  const EventKey key{now_ns_ + delay_ns, random_(), ++last_id_};
  events_.emplace(key, std::move(work));
  return key;
}

void SimReactor::complete_later(Operation& op, uint64_t delay_ns, int result) {
  schedule(delay_ns, [this, &op, result] { complete(op, result); });
}

void SimReactor::complete(Operation& op, int result) {
  trace_.add({now_ns_, from_private(op.reactor_private), static_cast<uint64_t>(op.code),
              static_cast<uint64_t>(result)});
  op.reactor_private = nullptr;
  op.result = result;
  op.on_complete(op);
}

void SimReactor::arm(Timer& timer, uint64_t deadline_ns) {
  CHECK(!timer.armed);
  timer.deadline_ns = deadline_ns;
  timer.armed = true;
  const uint64_t delay_ns = deadline_ns > now_ns_ ? deadline_ns - now_ns_ : 0;
  const uint64_t id = ++last_id_;
  timer.reactor_private = to_private(id);
  const EventKey key = schedule(delay_ns, [this, &timer, id] {
    timers_.erase(id);
    timer.armed = false;
    timer.reactor_private = nullptr;
    trace_.add({now_ns_, id});
    timer.on_expire(timer);
  });
  timers_.emplace(id, key);
}

void SimReactor::disarm(Timer& timer) {
  if (!timer.armed) return;
  const auto found = timers_.find(from_private(timer.reactor_private));
  CHECK(found != timers_.end());
  events_.erase(found->second);
  timers_.erase(found);
  timer.armed = false;
  timer.reactor_private = nullptr;
}

void SimReactor::post(std::move_only_function<void()> work) {
  CHECK(on_own_thread());
  posted_.push_back(std::move(work));
}

int64_t SimReactor::wall_clock_s() const {
  return kWallClockStart_s + static_cast<int64_t>(now_ns_ / 1'000'000'000);
}

void SimReactor::run() {
  while (!stopped_ && run_once()) {
  }
  stopped_ = false;
}

bool SimReactor::run_once() {
  CHECK(on_own_thread());
  if (!posted_.empty()) {
    auto batch = std::exchange(posted_, {});
    trace_.add({now_ns_, batch.size()});
    for (auto& work : batch) work();
    return true;
  }
  if (events_.empty()) return false;
  auto next = events_.extract(events_.begin());
  now_ns_ = std::max(now_ns_, next.key().time_ns);
  next.mapped()();
  return true;
}

// --- Disk operations -----------------------------------------------------------------------------

void SimReactor::submit(Operation& op) {
  const OpId id = ++last_id_;
  op.cancelled = false;
  op.reactor_private = to_private(id);
  trace_.add({now_ns_, id, static_cast<uint64_t>(op.code), static_cast<uint64_t>(op.handle),
              op.offset, op.length});
  submit_to_disk(op, id);
}

void SimReactor::submit_to_disk(Operation& op, OpId id) {
  DiskOp disk_op{.op = &op, .file = table_.find(op.handle), .pieces = {}};
  if (disk_op.file == nullptr) {
    complete_later(op, kErrorDelay_ns, -EBADF);
    return;
  }
  const bool moves_data = op.code == Operation::Code::kRead || op.code == Operation::Code::kWrite;
  const int error =
      moves_data ? check_direct(*disk_op.file, std::span(op.iov, op.iov_count), op.offset) : 0;
  if (error < 0) {
    complete_later(op, kErrorDelay_ns, error);
    return;
  }
  cut_into_pieces(disk_op);
  if (op.code == Operation::Code::kSync) {
    disk_op.sync_mark = disk_op.file->core->begin_sync(*disk_op.file);
  }
  for (size_t piece = 0; piece < disk_op.pieces.size(); ++piece) {
    schedule(disk_delay(disk_op), [this, id, piece] { land(id, piece); });
  }
  disk_ops_.emplace(id, std::move(disk_op));
}

uint64_t SimReactor::disk_delay(const DiskOp& disk_op) {
  const DiskCore& core = *disk_op.file->core;
  if (core.power() != DiskCore::Power::kOn) return kErrorDelay_ns;
  const uint64_t max =
      disk_op.op->code == Operation::Code::kSync ? timing_.sync_ns_max : timing_.disk_ns_max;
  return random_.between(timing_.disk_ns_min, max);
}

// One piece mostly; sometimes two or three, cut between sectors, so that readers and crashes see
// long operations half done.
void SimReactor::cut_into_pieces(DiskOp& disk_op) {
  const Operation& op = *disk_op.op;
  const bool moves_data = op.code == Operation::Code::kRead || op.code == Operation::Code::kWrite;
  const uint64_t length = moves_data ? total_length(op) : 0;
  uint64_t begin = 0;
  while (disk_op.pieces.size() < 2 && random_.chance(0.25)) {
    const uint64_t cut =
        round_down(op.offset + begin + random_.below(length - begin + 1), kSectorSize);
    if (cut <= op.offset + begin) break;
    disk_op.pieces.push_back({.begin = begin, .length = cut - op.offset - begin});
    begin = cut - op.offset;
  }
  disk_op.pieces.push_back({.begin = begin, .length = length - begin});
  disk_op.pieces_left = disk_op.pieces.size();
}

void SimReactor::land(OpId id, size_t index) {
  const auto found = disk_ops_.find(id);
  if (found == disk_ops_.end()) return;  // cancelled
  DiskOp& disk_op = found->second;
  Piece& piece = disk_op.pieces[index];
  // Marked first: the effect itself may be what cuts the power and asks what is in flight.
  piece.landed = true;
  piece.result = apply(disk_op, piece);
  if (--disk_op.pieces_left > 0) return;
  const uint64_t delay = disk_delay(disk_op) + disk_op.file->core->latency_ns(*disk_op.file);
  schedule(delay, [this, id] { finish(id); });
}

int64_t SimReactor::apply(DiskOp& disk_op, Piece& piece) {
  Operation& op = *disk_op.op;
  OpenFile& file = *disk_op.file;
  DiskCore& core = *file.core;
  const uint64_t offset = op.offset + piece.begin;
  switch (op.code) {
    case Operation::Code::kRead: {
      std::vector<std::byte> data(piece.length);
      const int64_t count = core.read(file, offset, data);
      if (count > 0) {
        scatter(op, piece.begin, ConstBytes(data).first(static_cast<size_t>(count)));
        trace_.add(ConstBytes(data).first(static_cast<size_t>(count)));
      }
      return count;
    }
    case Operation::Code::kWrite: {
      const std::vector<std::byte> data = gather(op, piece.begin, piece.length);
      trace_.add(data);
      const int error = core.write(file, offset, data);
      return error < 0 ? error : static_cast<int64_t>(piece.length);
    }
    case Operation::Code::kSync:
      return core.sync(file, disk_op.sync_mark);
    case Operation::Code::kPunch:
      return core.punch(file, op.offset, op.length);
    default:
      return -EINVAL;
  }
}

void SimReactor::finish(OpId id) {
  const DiskOp disk_op = std::move(disk_ops_.extract(id).mapped());
  int64_t result = 0;
  for (const Piece& piece : disk_op.pieces) {
    if (piece.result < 0) {
      result = piece.result;
      break;
    }
    result += piece.result;
    if (piece.result < static_cast<int64_t>(piece.length)) break;  // end of file
  }
  // A process that died meanwhile never learns how it went.
  if (disk_op.file->core->power() != DiskCore::Power::kOn) result = -EIO;
  complete(*disk_op.op, static_cast<int>(result));
}

void SimReactor::cancel(Operation& op) {
  op.cancelled = true;
  const OpId id = from_private(op.reactor_private);
  const auto found = disk_ops_.find(id);
  if (found == disk_ops_.end()) return;
  DiskOp& disk_op = found->second;
  const bool untouched = disk_op.pieces_left == disk_op.pieces.size();
  if (!untouched || random_.chance(0.5)) return;
  // Pieces must not find it any more, nor a kill its buffers once it has completed.
  disk_ops_.erase(found);
  complete_later(op, kErrorDelay_ns, -ECANCELED);
}

}  // namespace squall::sim
