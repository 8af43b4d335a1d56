// Reads fill a buffer that the reply then owns; a write's payload is received into such a buffer
// and dropped with the (short) reply. The buffers are left uninitialised: whatever is sent from
// them was read from the disk or zeroed here.
//
// When receiving is stopped (the client is dead, or must go before a newer one is answered), no
// request starts any more, not even one that already lies in the receive buffer.

#include "export/nbd/transmission.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace squall::nbd {
namespace {

// A zero run shorter than this inside data is sent as data: a chunk of its own would cost the
// client more than the bytes.
constexpr uint64_t kMinHoleBytes = 4096;
constexpr size_t kStatusExtentsMax = 4096;
// What a BLOCK_STATUS may hold in memory while in flight.
constexpr uint64_t kStatusReplyBytes =
    kStatusExtentsMax * (sizeof(DiskExtent) + kStatusDescriptorBytes);
constexpr size_t kErrorMessageBytes = 512;

bool is_modifying(Command command) {
  return command == Command::kWrite || command == Command::kTrim ||
         command == Command::kWriteZeroes;
}

// A run of a read's buffer that is sent as one chunk.
struct Run {
  uint64_t begin;
  uint64_t length;
  bool zero;
};

// Joins extents to the runs to send, and zeroes what is sent as data although it is a zero extent.
// `single`: one run for all of it.
std::vector<Run> plan_runs(const std::vector<DiskExtent>& extents, std::byte* data, bool single) {
  const bool all_zero =
      std::ranges::all_of(extents, [](const DiskExtent& e) { return e.zero || e.hole; });
  std::vector<Run> runs;
  uint64_t at = 0;
  for (const DiskExtent& extent : extents) {
    bool zero = extent.zero || extent.hole;
    if (zero && !all_zero && (single || extent.length < kMinHoleBytes)) {
      std::memset(data + at, 0, extent.length);
      zero = false;
    }
    if (!runs.empty() && runs.back().zero == zero) {
      runs.back().length += extent.length;
    } else {
      runs.push_back({at, extent.length, zero});
    }
    at += extent.length;
  }
  return runs;
}

void join_equal_neighbours(std::vector<DiskExtent>& extents) {
  size_t last = 0;
  for (size_t i = 1; i < extents.size(); ++i) {
    if (extents[i].hole == extents[last].hole && extents[i].zero == extents[last].zero) {
      extents[last].length += extents[i].length;
    } else {
      extents[++last] = extents[i];
    }
  }
  extents.resize(last + 1);
}

// Gives each sector that a run of zeros covers only in part to the data beside it. qemu-img counts
// in sectors and takes one that begins with zeros for zeros altogether, so exact bytes would make
// it lose data. The ends of the request itself stay where they are.
void shrink_zeros_to_sectors(uint64_t begin, uint64_t end, std::vector<DiskExtent>& extents) {
  constexpr uint64_t kSectorBytes = 512;
  std::vector<DiskExtent> shrunk;
  uint64_t at = begin;
  for (const DiskExtent& extent : extents) {
    const uint64_t extent_end = at + extent.length;
    uint64_t from = at;
    uint64_t to = extent_end;
    if (extent.zero) {
      if (from != begin) from = round_up(from, kSectorBytes);
      if (to != end) to = round_down(to, kSectorBytes);
      if (from >= to) from = to = extent_end;
    }
    if (from > at) shrunk.push_back({from - at, false, false});
    if (to > from) shrunk.push_back({to - from, extent.hole, extent.zero});
    if (extent_end > to) shrunk.push_back({extent_end - to, false, false});
    at = extent_end;
  }
  // The list may stop before the end of the request; the next one is to begin at a sector.
  if (!shrunk.back().zero) shrunk.back().length += std::min(round_up(at, kSectorBytes), end) - at;
  extents = std::move(shrunk);
}

}  // namespace

Transmission::Transmission(const Context& context, Receiver& receiver, const Session& session)
    : context_(context),
      receiver_(receiver),
      session_(session),
      slots_(context.reactor, context.limits.requests_per_connection),
      bytes_(context.reactor, context.limits.bytes_per_connection),
      replies_(receiver.socket()) {}

Task<void> Transmission::run() {
  while (co_await next_request()) {
  }
  replies_.uncork();
  co_await gate_.close();
  // The last request's frame still unwinds below the await above: let it end first.
  co_await yield_to(context_.reactor);
  Deadline deadline(receiver_.socket());
  deadline.start(context_.limits.drain_ns_max);
  co_await replies_.drain();
}

// False when the connection is to end.
Task<bool> Transmission::next_request() {
  if (receiver_.buffered().size() < kRequestBytes) {
    replies_.uncork();
    if (!co_await receiver_.fill(kRequestBytes)) co_return false;
  }
  replies_.cork();
  const auto request = decode_request(receiver_.buffered().first(kRequestBytes));
  if (!request) co_return false;
  receiver_.consume(kRequestBytes);
  if (request->command == static_cast<uint16_t>(Command::kDisconnect)) co_return false;
  ++context_.stats.requests;
  ++counters_.requests;

  const Refusal refusal = check(*request);
  const bool is_write = request->command == static_cast<uint16_t>(Command::kWrite);
  if (refusal.error == WireError::kOk && is_write) co_return co_await start_write(*request);
  if (refusal.error != WireError::kOk && is_write && !co_await skip_payload(request->length))
    co_return false;
  auto reply = co_await reserve(refusal.error == WireError::kOk ? reply_bytes(*request) : 0);
  if (receiver_.socket().is_receiving_stopped()) co_return false;
  if (refusal.error != WireError::kOk) {
    fill_error(*reply, *request, refusal.error, refusal.message);
    replies_.push(std::move(reply));
    co_return true;
  }
  spawn(serve({*request, std::move(reply), gate_.enter()}));
  co_return true;
}

// A reply with its place among the requests in flight and `bytes` of buffers accounted for.
Task<std::unique_ptr<Reply>> Transmission::reserve(uint64_t bytes) {
  auto reply = std::make_unique<Reply>();
  reply->slot = slots_.try_acquire(1);
  if (reply->slot) reply->connection_bytes = bytes_.try_acquire(bytes);
  if (reply->connection_bytes) reply->global_bytes = context_.bytes_total.try_acquire(bytes);
  if (reply->global_bytes) co_return reply;
  replies_.uncork();  // what is answered must go out for others to get in
  if (!reply->slot) reply->slot = co_await slots_.acquire(1);
  if (!reply->connection_bytes) reply->connection_bytes = co_await bytes_.acquire(bytes);
  reply->global_bytes = context_.bytes_total.try_acquire(bytes);
  if (reply->global_bytes) co_return reply;
  context_.on_memory_shortage();
  reply->global_bytes = co_await context_.bytes_total.acquire(bytes);
  co_return reply;
}

// False: too much of it, or the stream ended.
Task<bool> Transmission::skip_payload(uint64_t bytes) {
  if (bytes > context_.limits.write_skip_bytes_max) co_return false;
  if (receiver_.buffered().size() < bytes) replies_.uncork();
  co_return co_await receiver_.skip(bytes);
}

Task<bool> Transmission::start_write(const Request& request) {
  auto reply = co_await reserve(request.length);
  if (receiver_.socket().is_receiving_stopped()) co_return false;
  reply->data = std::make_unique_for_overwrite<std::byte[]>(request.length);
  if (receiver_.buffered().size() < request.length) replies_.uncork();
  if (!co_await receiver_.read_into({reply->data.get(), request.length})) co_return false;
  if (receiver_.socket().is_receiving_stopped()) co_return false;
  spawn(serve({request, std::move(reply), gate_.enter()}));
  co_return true;
}

Transmission::Refusal Transmission::check(const Request& request) const {
  if (const Refusal refusal = check_flags(request); refusal.error != WireError::kOk) return refusal;
  const auto command = static_cast<Command>(request.command);
  if (is_modifying(command) && !session_.may_write())
    return {WireError::kPerm, "the export is read-only"};
  if (command == Command::kBlockStatus && !session_.allocation)
    return {WireError::kInvalid, "no metadata context was selected"};
  if (command == Command::kBlockStatus && request.length == 0)
    return {WireError::kInvalid, "BLOCK_STATUS of nothing"};
  if ((command == Command::kRead || command == Command::kWrite) &&
      request.length > kMaxPayloadBytes)
    return {WireError::kInvalid, "longer than 32 MiB"};
  return check_range(request);
}

Transmission::Refusal Transmission::check_flags(const Request& request) const {
  uint16_t allowed = kCommandFlagFua;  // harmless where nothing is written
  switch (static_cast<Command>(request.command)) {
    case Command::kRead:
      if (session_.structured) allowed |= kCommandFlagDf;
      break;
    case Command::kWriteZeroes:
      allowed |= kCommandFlagNoHole | kCommandFlagFastZero;
      break;
    case Command::kBlockStatus:
      allowed |= kCommandFlagReqOne;
      break;
    case Command::kWrite:
    case Command::kFlush:
    case Command::kTrim:
    case Command::kCache:
      break;
    default:
      return {WireError::kInvalid, "unknown command"};
  }
  if ((request.flags & ~allowed) != 0) return {WireError::kInvalid, "unknown command flag"};
  return {};
}

Transmission::Refusal Transmission::check_range(const Request& request) const {
  const auto command = static_cast<Command>(request.command);
  if (command == Command::kFlush) {
    if (request.offset == 0 && request.length == 0) return {};
    return {WireError::kInvalid, "FLUSH takes no range"};
  }
  // The disk's size now: it may have shrunk since the handshake.
  const uint64_t size_bytes = session_.disk.disk->size_bytes();
  if (request.offset <= size_bytes && request.length <= size_bytes - request.offset) return {};
  const bool writes = command == Command::kWrite || command == Command::kWriteZeroes;
  return {writes ? WireError::kNoSpace : WireError::kInvalid, "beyond the end of the export"};
}

uint64_t Transmission::reply_bytes(const Request& request) const {
  switch (static_cast<Command>(request.command)) {
    case Command::kRead:
      return request.length;
    case Command::kBlockStatus:
      return kStatusReplyBytes;
    default:
      return 0;
  }
}

// `flight` is a parameter by value: it belongs to the task.
Task<void> Transmission::serve(InFlight flight) {
  const Request& request = flight.request;
  Reply& reply = *flight.reply;
  Result<void> result;
  switch (static_cast<Command>(request.command)) {
    case Command::kRead:
      result = session_.structured ? co_await read_structured(request, reply)
                                   : co_await read(request, reply);
      break;
    case Command::kBlockStatus:
      result = co_await block_status(request, reply);
      break;
    default:
      result = co_await modify(request, reply);
  }
  finish(request, std::move(flight.reply), result);
}

Task<Result<void>> Transmission::read(const Request& request, Reply& reply) {
  if (request.length > 0) {
    reply.data = std::make_unique_for_overwrite<std::byte[]>(request.length);
    CO_TRY(co_await session_.disk.disk->read(request.offset, {reply.data.get(), request.length}));
  }
  encode_simple_reply(WireError::kOk, request.cookie, reply.extend_headers(kSimpleReplyBytes));
  reply.add_piece(reply.headers.data(), reply.headers.size());
  if (request.length > 0) reply.add_piece(reply.data.get(), request.length);
  co_return Result<void>{};
}

Task<Result<void>> Transmission::read_structured(const Request& request, Reply& reply) {
  std::vector<DiskExtent> extents;
  if (request.length > 0) {
    reply.data = std::make_unique_for_overwrite<std::byte[]>(request.length);
    CO_TRY(co_await session_.disk.disk->read_sparse(request.offset,
                                                    {reply.data.get(), request.length}, extents));
  }
  const bool single = (request.flags & kCommandFlagDf) != 0;
  const std::vector<Run> runs = plan_runs(extents, reply.data.get(), single);
  if (runs.empty()) {
    encode_chunk_header({kChunkFlagDone, Chunk::kNone, request.cookie, 0},
                        reply.extend_headers(kChunkHeaderBytes));
    reply.add_piece(reply.headers.data(), reply.headers.size());
    co_return Result<void>{};
  }
  CHECK(runs.back().begin + runs.back().length == request.length);
  reply.headers.reserve(runs.size() * kHoleChunkBytes);  // so that pieces stay where they point
  for (const Run& run : runs) {
    const uint16_t flags = &run == &runs.back() ? kChunkFlagDone : 0;
    const auto length = static_cast<uint32_t>(run.length);
    const uint64_t offset = request.offset + run.begin;
    if (run.zero) {
      const Bytes header = reply.extend_headers(kHoleChunkBytes);
      encode_hole_chunk(flags, request.cookie, offset, length, header);
      reply.add_piece(header.data(), header.size());
    } else {
      const Bytes header = reply.extend_headers(kDataChunkBytes);
      encode_data_chunk(flags, request.cookie, offset, length, header);
      reply.add_piece(header.data(), header.size());
      reply.add_piece(reply.data.get() + run.begin, run.length);
    }
  }
  co_return Result<void>{};
}

Task<Result<void>> Transmission::block_status(const Request& request, Reply& reply) {
  const size_t max = (request.flags & kCommandFlagReqOne) != 0 ? 1 : kStatusExtentsMax;
  std::vector<DiskExtent> extents;
  CO_TRY(co_await session_.disk.disk->status(request.offset, request.length, max, extents));
  CHECK(!extents.empty() && extents.size() <= max);
  shrink_zeros_to_sectors(request.offset, request.offset + request.length, extents);
  join_equal_neighbours(extents);
  extents.resize(std::min(extents.size(), max));
  encode_status_chunk(request.cookie, kAllocationContextId, static_cast<uint32_t>(extents.size()),
                      reply.extend_headers(kStatusChunkBytes));
  for (const DiskExtent& extent : extents) {
    const uint32_t state = (extent.hole ? kStateHole : 0) | (extent.zero ? kStateZero : 0);
    encode_status_descriptor(static_cast<uint32_t>(extent.length), state,
                             reply.extend_headers(kStatusDescriptorBytes));
  }
  reply.add_piece(reply.headers.data(), reply.headers.size());
  co_return Result<void>{};
}

// Everything whose reply is only success or failure.
Task<Result<void>> Transmission::modify(const Request& request, const Reply& reply) {
  const auto command = static_cast<Command>(request.command);
  if (command == Command::kFlush) {
    if (!session_.may_write()) co_return Result<void>{};
    co_return co_await session_.disk.writer->flush();
  }
  if (request.length == 0) co_return Result<void>{};
  if (command == Command::kCache)
    co_return co_await session_.disk.disk->prefetch(request.offset, request.length);
  const bool fua = (request.flags & kCommandFlagFua) != 0;
  WritableDisk& disk = *session_.disk.writer;
  if (command == Command::kTrim) co_return co_await disk.trim(request.offset, request.length, fua);
  if (command == Command::kWriteZeroes)
    co_return co_await disk.zero(request.offset, request.length, fua);
  CHECK(command == Command::kWrite);
  co_return co_await disk.write(request.offset, {reply.data.get(), request.length}, fua);
}

// Completes the reply of a request that was carried out, or failed, and queues it. What the
// daemon's end cancelled gets no answer: an error would reach the guest's file system, a connection
// that breaks makes a patient client (QEMU's reconnect-delay) send the request to the next daemon.
void Transmission::finish(const Request& request, std::unique_ptr<Reply> reply,
                          const Result<void>& result) {
  const auto command = static_cast<Command>(request.command);
  if (!result && result.error().kind() == ErrorKind::kCancelled) {
    receiver_.socket().shut_down();
    return;
  }
  if (!result) {
    reply->headers.clear();
    reply->pieces.clear();
    fill_error(*reply, request, wire_error(result.error().os_errno()), result.error().message());
  } else if (command == Command::kRead) {
    context_.stats.bytes_read += request.length;
    counters_.bytes_read += request.length;
  } else if (command != Command::kBlockStatus) {
    encode_simple_reply(WireError::kOk, request.cookie, reply->extend_headers(kSimpleReplyBytes));
    reply->add_piece(reply->headers.data(), reply->headers.size());
    reply->data.reset();
    if (command == Command::kWrite) {
      context_.stats.bytes_written += request.length;
      counters_.bytes_written += request.length;
    }
  }
  replies_.push(std::move(reply));
}

// A client that understands structured replies is told in words, too.
void Transmission::fill_error(Reply& reply, const Request& request, WireError error,
                              std::string_view message) {
  ++context_.stats.request_errors;
  reply.data.reset();
  if (session_.structured) {
    message = message.substr(0, kErrorMessageBytes);
    encode_error_chunk(request.cookie, error, static_cast<uint16_t>(message.size()),
                       reply.extend_headers(kErrorChunkBytes));
    const auto text = as_bytes(message);
    reply.headers.insert(reply.headers.end(), text.begin(), text.end());
  } else {
    encode_simple_reply(error, request.cookie, reply.extend_headers(kSimpleReplyBytes));
  }
  reply.add_piece(reply.headers.data(), reply.headers.size());
}

}  // namespace squall::nbd
