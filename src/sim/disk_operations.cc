#include "sim/disk_operations.h"

#include <cerrno>

#include "sim/operation_buffers.h"

namespace squall::sim {

namespace {
constexpr uint64_t kErrorDelay_ns = 1'000;

bool moves_data(const Operation& op) {
  return op.code == Operation::Code::kRead || op.code == Operation::Code::kWrite;
}
}  // namespace

DiskOperations::~DiskOperations() {
  for (const auto& [core, source] : watched_) core->remove_in_flight_source(source);
}

void DiskOperations::watch(const std::shared_ptr<DiskCore>& core) {
  const uint64_t source =
      core->add_in_flight_source([this, disk = core.get()](std::vector<InFlightWrite>& writes) {
        report_in_flight(disk, writes);
      });
  watched_.emplace_back(core, source);
}

void DiskOperations::report_in_flight(const DiskCore* core,
                                      std::vector<InFlightWrite>& writes) const {
  for (const auto& [id, disk_op] : ops_) {
    if (disk_op.file->core.get() != core || disk_op.op->code != Operation::Code::kWrite) continue;
    if (!disk_op.file->options.write) continue;
    for (const Piece& piece : disk_op.pieces) {
      if (piece.landed) continue;
      writes.push_back({.inode = disk_op.file->inode,
                        .offset = disk_op.op->offset + piece.begin,
                        .data = gather(*disk_op.op, piece.begin, piece.length)});
    }
  }
}

void DiskOperations::submit(Operation& op) {
  DiskOp disk_op{.op = &op, .file = files_.find(op.handle), .pieces = {}};
  int error = disk_op.file == nullptr ? -EBADF : 0;
  if (error == 0 && moves_data(op)) {
    error = check_direct(*disk_op.file, std::span(op.iov, op.iov_count), op.offset);
  }
  if (error < 0) {
    loop_.complete_later(op, kErrorDelay_ns, error);
    return;
  }
  cut_into_pieces(disk_op);
  if (op.code == Operation::Code::kSync) {
    disk_op.sync_mark = disk_op.file->core->begin_sync(*disk_op.file);
  }
  const OpId id = EventLoop::id_of(op);
  for (size_t index = 0; index < disk_op.pieces.size(); ++index) {
    loop_.schedule(delay(disk_op), [this, id, index] { land(id, index); });
  }
  ops_.emplace(id, std::move(disk_op));
}

uint64_t DiskOperations::delay(const DiskOp& disk_op) {
  if (!disk_op.file->core->is_alive(*disk_op.file)) return kErrorDelay_ns;
  const uint64_t max =
      disk_op.op->code == Operation::Code::kSync ? timing_.sync_ns_max : timing_.disk_ns_max;
  return loop_.random().between(timing_.disk_ns_min, max);
}

// One piece mostly; sometimes two or three, cut between sectors, so that readers and crashes see
// long operations half done.
void DiskOperations::cut_into_pieces(DiskOp& disk_op) {
  const Operation& op = *disk_op.op;
  const uint64_t length = moves_data(op) ? total_length(op) : 0;
  uint64_t begin = 0;
  while (disk_op.pieces.size() < 2 && loop_.random().chance(0.25)) {
    const uint64_t somewhere = op.offset + begin + loop_.random().below(length - begin + 1);
    const uint64_t cut = round_down(somewhere, kSectorSize);
    if (cut <= op.offset + begin) break;
    disk_op.pieces.push_back({.begin = begin, .length = cut - op.offset - begin});
    begin = cut - op.offset;
  }
  disk_op.pieces.push_back({.begin = begin, .length = length - begin});
  disk_op.pieces_left = disk_op.pieces.size();
}

void DiskOperations::land(OpId id, size_t index) {
  const auto found = ops_.find(id);
  if (found == ops_.end()) return;  // cancelled
  DiskOp& disk_op = found->second;
  Piece& piece = disk_op.pieces[index];
  // Marked first: the effect itself may be what cuts the power and asks what is in flight.
  piece.landed = true;
  piece.result = apply(disk_op, piece);
  if (--disk_op.pieces_left > 0) return;
  loop_.schedule(delay(disk_op) + disk_op.file->core->latency_ns(*disk_op.file),
                 [this, id] { finish(id); });
}

int64_t DiskOperations::apply(DiskOp& disk_op, const Piece& piece) {
  const Operation& op = *disk_op.op;
  OpenFile& file = *disk_op.file;
  DiskCore& core = *file.core;
  switch (op.code) {
    case Operation::Code::kRead: {
      std::vector<std::byte> data(piece.length);
      const int64_t count = core.read(file, op.offset + piece.begin, data);
      if (count > 0) {
        data.resize(static_cast<size_t>(count));
        scatter(op, piece.begin, data);
        loop_.trace().add(data);
      }
      return count;
    }
    case Operation::Code::kWrite: {
      const std::vector<std::byte> data = gather(op, piece.begin, piece.length);
      loop_.trace().add(data);
      const int error = core.write(file, op.offset + piece.begin, data);
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

void DiskOperations::finish(OpId id) {
  const DiskOp disk_op = std::move(ops_.extract(id).mapped());
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
  if (!disk_op.file->core->is_alive(*disk_op.file)) result = -EIO;
  loop_.complete(*disk_op.op, static_cast<int>(result));
}

bool DiskOperations::cancel(Operation& op) {
  const auto found = ops_.find(EventLoop::id_of(op));
  if (found == ops_.end()) return false;
  const bool untouched = found->second.pieces_left == found->second.pieces.size();
  if (untouched && loop_.random().chance(0.5)) {
    ops_.erase(found);  // its pieces will find nothing
    loop_.complete_later(op, kErrorDelay_ns, -ECANCELED);
  }
  return true;
}

}  // namespace squall::sim
