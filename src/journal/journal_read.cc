// Reads: verified piece by piece against sums kept in memory (payload_sums.h), so that a guest's
// read of 4 KiB reads no more than that.
#include <algorithm>

#include "base/log.h"
#include "journal/journal.h"

namespace squall {

using journal_format::kRecordHeaderBytes;
using journal_format::RecordType;

Task<Result<void>> Journal::read(JournalPlace place, Bytes to) {
  JournalFile& file = *place.file;
  ++file.pins;
  auto done = co_await read_verified(file, place.position, to);
  if (--file.pins == 0) reclaim();
  co_return done;
}

// Whole pieces are read, since those have sums; a request that begins or ends within one goes
// through a buffer.
Task<Result<void>> Journal::read_verified(JournalFile& file, uint64_t position, Bytes to) {
  constexpr uint64_t kPiece = PayloadSums::kPieceBytes;
  const size_t payload = file.payloads.find(position, to.size());
  if (!file.payloads.is_known(payload)) CO_TRY(co_await learn_payload(file, payload));
  const uint64_t origin = file.payloads.position(payload);
  const uint64_t skip = position - origin;
  const uint64_t begin = round_down(skip, kPiece);
  const uint64_t end =
      std::min<uint64_t>(round_up(skip + to.size(), kPiece), file.payloads.bytes(payload));
  std::vector<std::byte> buffer;
  Bytes pieces = to;
  if (end - begin != to.size()) {
    buffer.resize(end - begin);
    pieces = buffer;
  }
  const int got = co_await io_read(reactor_, file.cached_handle, pieces, origin + begin);
  if (got < 0) co_return fail_errno(-got, "journal: read of {} at {} failed", file.path, position);
  if (static_cast<size_t>(got) != pieces.size() || !file.payloads.matches(payload, begin, pieces))
    co_return std::unexpected(damaged(file, position));
  if (!buffer.empty()) std::memcpy(to.data(), pieces.data() + (skip - begin), to.size());
  co_return Result<void>{};
}

// A record that start-up knows from the file's index only: verified whole, once.
Task<Result<void>> Journal::learn_payload(JournalFile& file, size_t payload) {
  const uint64_t position = file.payloads.position(payload);
  std::vector<std::byte> bytes(kRecordHeaderBytes + file.payloads.bytes(payload));
  const int got =
      co_await io_read(reactor_, file.cached_handle, bytes, position - kRecordHeaderBytes);
  if (got < 0) co_return fail_errno(-got, "journal: read of {} at {} failed", file.path, position);
  std::optional<JournalRecord> record;
  if (static_cast<size_t>(got) == bytes.size())
    record = journal_format::decode_record(bytes, file.seed);
  if (!record || record->type != RecordType::kWrite ||
      record->payload_bytes != file.payloads.bytes(payload))
    co_return std::unexpected(damaged(file, position));
  file.payloads.learn(payload, ConstBytes(bytes).subspan(kRecordHeaderBytes));
  co_return Result<void>{};
}

Error Journal::damaged(const JournalFile& file, uint64_t position) {
  ++stats_.damaged_reads;
  Error error(
      ErrorKind::kCorrupt,
      fmt::format("journal: {} at {}: the data there fails its checksum; check the disk, and "
                  "overwrite it or roll the volume back",
                  file.path, position),
      EIO);
  // Whoever needs the data comes back for it again and again.
  if (stats_.damaged_reads <= 100 || stats_.damaged_reads % 1000 == 0)
    LOG_ERROR("{}", error.message());
  return error;
}

}  // namespace squall
