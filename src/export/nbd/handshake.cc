#include "export/nbd/handshake.h"

#include <algorithm>
#include <array>

namespace squall::nbd {
namespace {

// Replies to LIST are sent in pieces of about this size.
constexpr size_t kFlushBytes = 64 * kKiB;

OptionReply reply_type(const Error& error) {
  switch (error.kind()) {
    case ErrorKind::kInvalid:
      return OptionReply::kErrInvalid;
    case ErrorKind::kPermission:
    case ErrorKind::kBusy:
    case ErrorKind::kFenced:
      return OptionReply::kErrPolicy;
    case ErrorKind::kCancelled:
      return OptionReply::kErrShutdown;
    default:
      return OptionReply::kErrUnknown;
  }
}

// Whether a query of a metadata option names base:allocation. A bare namespace asks what there is
// in it, which makes sense only when listing.
bool selects_allocation(std::string_view query, bool listing) {
  return query == kBaseAllocation || (listing && query == "base:");
}

}  // namespace

Handshake::Handshake(const Context& context, Receiver& receiver, const PeerIdentity& identity,
                     AdmittedPeer& self)
    : context_(context),
      receiver_(receiver),
      socket_(receiver.socket()),
      identity_(identity),
      self_(self),
      deadline_(socket_) {}

Task<std::optional<Session>> Handshake::run() {
  deadline_.start(context_.limits.handshake_ns_max);
  out_.resize(kGreetingBytes);
  encode_greeting(kFlagFixedNewstyle | kFlagNoZeroes, out_);
  if (!co_await flush()) co_return std::nullopt;
  if (!co_await receiver_.fill(sizeof client_flags_)) co_return std::nullopt;
  client_flags_ = load_be<uint32_t>(receiver_.buffered().data());
  receiver_.consume(sizeof client_flags_);
  if ((client_flags_ & ~uint32_t{kFlagFixedNewstyle | kFlagNoZeroes}) != 0) co_return std::nullopt;
  for (uint64_t options = 0; options < context_.limits.option_count_max; ++options) {
    const Next next = co_await next_option();
    // The last word is sent even when the connection ends with it: ABORT is acknowledged.
    if (!co_await flush() || next == Next::kClose) co_return std::nullopt;
    if (next == Next::kServe) {
      deadline_.pause();
      co_return std::move(session_);
    }
  }
  co_return std::nullopt;
}

Task<Handshake::Next> Handshake::next_option() {
  if (!co_await receiver_.fill(kOptionHeaderBytes)) co_return Next::kClose;
  const auto header = decode_option_header(receiver_.buffered().first(kOptionHeaderBytes));
  if (!header) co_return Next::kClose;
  receiver_.consume(kOptionHeaderBytes);
  option_ = header->option;
  const auto option = static_cast<Option>(header->option);
  // A client that does not know option replies could not make sense of one.
  const bool fixed = (client_flags_ & kFlagFixedNewstyle) != 0;
  if (!fixed && option != Option::kExportName) co_return Next::kClose;
  if (header->length > context_.limits.option_bytes_max) {
    if (header->length > context_.limits.option_skip_bytes_max || option == Option::kExportName)
      co_return Next::kClose;
    if (!co_await receiver_.skip(header->length)) co_return Next::kClose;
    reply(OptionReply::kErrTooBig, "option data too long");
    co_return Next::kContinue;
  }
  std::vector<std::byte> data(header->length);
  if (!co_await receiver_.read_into(data)) co_return Next::kClose;
  co_return co_await answer(option, data);
}

Task<Handshake::Next> Handshake::answer(Option option, ConstBytes data) {
  switch (option) {
    case Option::kExportName:
      co_return co_await answer_export_name(data);
    case Option::kAbort:
      reply(OptionReply::kAck);
      co_return Next::kClose;
    case Option::kList:
      co_return co_await answer_list(data);
    case Option::kStartTls:
      co_return answer_start_tls(data);
    case Option::kInfo:
      co_return co_await answer_info(data, false);
    case Option::kGo:
      co_return co_await answer_info(data, true);
    case Option::kStructuredReply:
      co_return answer_structured_reply(data);
    case Option::kListMetaContext:
      co_return co_await answer_meta_context(data, false);
    case Option::kSetMetaContext:
      co_return co_await answer_meta_context(data, true);
  }
  reply(OptionReply::kErrUnsupported);
  co_return Next::kContinue;
}

// EXPORT_NAME has no way to report an error but to close.
Task<Handshake::Next> Handshake::answer_export_name(ConstBytes data) {
  const std::string name(as_text(data));
  if (name.empty() || name.size() > kMaxNameBytes) co_return Next::kClose;
  deadline_.pause();
  auto disk = co_await context_.directory.open_disk(name);
  if (!disk) co_return Next::kClose;
  if (!co_await admit(name, std::move(*disk))) co_return Next::kClose;
  deadline_.start(context_.limits.handshake_ns_max);
  append_export_name_reply(out_, session_.disk.disk->size_bytes(),
                           transmission_flags(session_.disk, session_.may_write()),
                           (client_flags_ & kFlagNoZeroes) == 0);
  co_return Next::kServe;
}

Task<Handshake::Next> Handshake::answer_info(ConstBytes data, bool go) {
  const auto request = decode_info_request(data);
  if (!request) {
    reply_error(request.error());
    co_return Next::kContinue;
  }
  const std::string name(request->name);
  if (name.empty()) {
    reply(OptionReply::kErrUnknown, "there is no default export: name a volume or an image");
    co_return Next::kContinue;
  }
  // Waiting for the pool, or for an older connection to leave, is not the client's delay.
  deadline_.pause();
  auto disk = co_await context_.directory.open_disk(name);
  Result<void> admitted;
  if (disk && go) admitted = co_await admit(name, *disk);
  deadline_.start(context_.limits.handshake_ns_max);
  if (!disk || !admitted) {
    reply_error(disk ? admitted.error() : disk.error());
    co_return Next::kContinue;
  }
  const Admission::Access access{disk->writer != nullptr, disk->shared};
  const bool may_write =
      go ? session_.may_write() : context_.admission.would_write(name, identity_, access);
  append_info(*disk, may_write, *request);
  reply(OptionReply::kAck);
  co_return go ? Next::kServe : Next::kContinue;
}

Task<Handshake::Next> Handshake::answer_list(ConstBytes data) {
  if (!data.empty()) {
    reply(OptionReply::kErrInvalid, "LIST takes no data");
    co_return Next::kContinue;
  }
  auto disks = co_await context_.directory.list_disks();
  if (!disks) {
    reply_error(disks.error());
    co_return Next::kContinue;
  }
  for (const DiskSummary& disk : *disks) {
    append_server_reply(out_, option_, disk.name, disk.description);
    if (out_.size() >= kFlushBytes && !co_await flush()) co_return Next::kClose;
  }
  reply(OptionReply::kAck);
  co_return Next::kContinue;
}

Task<Handshake::Next> Handshake::answer_meta_context(ConstBytes data, bool set) {
  if (set) allocation_ = false;  // each SET replaces the selection, a failed one included
  const auto request = decode_meta_context_request(data);
  if (!request || !session_.structured) {
    reply(OptionReply::kErrInvalid, "malformed, or structured replies were not negotiated");
    co_return Next::kContinue;
  }
  const std::string name(request->name);
  deadline_.pause();
  const auto disk = co_await context_.directory.open_disk(name);
  deadline_.start(context_.limits.handshake_ns_max);
  if (!disk) {
    reply_error(disk.error());
    co_return Next::kContinue;
  }
  const bool selected = std::ranges::any_of(
      request->queries, [&](std::string_view query) { return selects_allocation(query, !set); });
  if (selected || (!set && request->queries.empty())) {
    append_meta_context(out_, option_, set ? kAllocationContextId : 0, kBaseAllocation);
    if (set) {
      allocation_ = true;
      allocation_name_ = name;
    }
  }
  reply(OptionReply::kAck);
  co_return Next::kContinue;
}

Handshake::Next Handshake::answer_structured_reply(ConstBytes data) {
  if (!data.empty()) {
    reply(OptionReply::kErrInvalid, "STRUCTURED_REPLY takes no data");
  } else {
    session_.structured = true;
    reply(OptionReply::kAck);
  }
  return Next::kContinue;
}

Handshake::Next Handshake::answer_start_tls(ConstBytes data) {
  if (data.empty()) {
    reply(OptionReply::kErrUnsupported, "this server does not speak TLS");
  } else {
    reply(OptionReply::kErrInvalid, "STARTTLS takes no data");
  }
  return Next::kContinue;
}

Task<Result<void>> Handshake::admit(const std::string& name, OpenDisk disk) {
  const Admission::Access access{disk.writer != nullptr, disk.shared};
  auto ticket = co_await context_.admission.admit(name, identity_, access, self_);
  if (!ticket) co_return std::unexpected(ticket.error());
  session_.ticket = std::move(*ticket);
  session_.disk = std::move(disk);
  session_.name = name;
  session_.allocation = allocation_ && allocation_name_ == name;
  co_return Result<void>{};
}

uint16_t Handshake::transmission_flags(const OpenDisk& disk, bool may_write) const {
  uint16_t flags = kFlagHasFlags | kFlagSendFua | kFlagSendCache;
  if (session_.structured) flags |= kFlagSendDf;
  // Without a write cache a client need not flush, and is told so.
  if (disk.writer == nullptr || disk.writer->has_write_cache()) flags |= kFlagSendFlush;
  if (may_write) {
    flags |= kFlagSendTrim | kFlagSendWriteZeroes | kFlagSendFastZero;
  } else {
    flags |= kFlagReadOnly;
  }
  // On TCP a client's second writing connection takes the first one's place.
  if (identity_.is_unix || !may_write || disk.shared) flags |= kFlagCanMultiConn;
  return flags;
}

void Handshake::append_info(const OpenDisk& disk, bool may_write, const InfoRequest& request) {
  const auto asked = [&](Info item) {
    return std::ranges::find(request.items, static_cast<uint16_t>(item)) != request.items.end();
  };
  append_info_export(out_, option_, disk.disk->size_bytes(), transmission_flags(disk, may_write));
  if (asked(Info::kName)) append_info_text(out_, option_, Info::kName, request.name);
  if (asked(Info::kDescription) && !disk.description.empty())
    append_info_text(out_, option_, Info::kDescription, disk.description);
  if (asked(Info::kBlockSize))
    append_info_block_size(out_, option_, 1, kPreferredBlockBytes, kMaxPayloadBytes);
}

void Handshake::reply(OptionReply type, std::string_view message) {
  append_option_reply(out_, option_, type, as_bytes(message.substr(0, kMaxNameBytes)));
}

void Handshake::reply_error(const Error& error) {
  reply(reply_type(error), error.message());
}

Task<bool> Handshake::flush() {
  size_t sent = 0;
  while (sent < out_.size()) {
    const iovec iov{&out_[sent], out_.size() - sent};
    const int result = co_await socket_.send({&iov, 1});
    if (result <= 0) co_return false;
    sent += static_cast<size_t>(result);
  }
  out_.clear();
  co_return true;
}

}  // namespace squall::nbd
