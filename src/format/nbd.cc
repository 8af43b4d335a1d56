#include "format/nbd.h"

#include <cerrno>

#include "base/check.h"

namespace squall::nbd {
namespace {

// Takes big-endian fields off the front of a span; fails once, for good, when it is too short.
class Reader {
 public:
  explicit Reader(ConstBytes from) : rest_(from) {}
  template <class T>
  T take() {
    if (rest_.size() < sizeof(T)) {
      short_ = true;
      return 0;
    }
    const T value = load_be<T>(rest_.data());
    rest_ = rest_.subspan(sizeof(T));
    return value;
  }
  std::string_view take_text(size_t length) {
    if (rest_.size() < length) {
      short_ = true;
      return {};
    }
    const auto text = as_text(rest_.first(length));
    rest_ = rest_.subspan(length);
    return text;
  }
  // A string of the protocol: bounded, without NUL.
  std::string_view take_string(size_t length) {
    if (length > kMaxNameBytes) short_ = true;
    const auto text = short_ ? std::string_view() : take_text(length);
    if (text.find('\0') != text.npos) short_ = true;
    return text;
  }
  size_t left() const { return rest_.size(); }
  bool bad() const { return short_; }
  bool done() const { return !short_ && rest_.empty(); }

 private:
  ConstBytes rest_;
  bool short_ = false;
};

template <class T>
void append(std::vector<std::byte>& out, T value) {
  std::byte bytes[sizeof(T)];
  store_be<T>(bytes, value);
  out.insert(out.end(), bytes, bytes + sizeof(T));
}
void append(std::vector<std::byte>& out, std::string_view text) {
  const auto bytes = as_bytes(text);
  out.insert(out.end(), bytes.begin(), bytes.end());
}
void append_reply_header(std::vector<std::byte>& out, uint32_t option, OptionReply type,
                         size_t length) {
  append<uint64_t>(out, kOptionReplyMagic);
  append<uint32_t>(out, option);
  append<uint32_t>(out, static_cast<uint32_t>(type));
  append<uint32_t>(out, static_cast<uint32_t>(length));
}

}  // namespace

WireError wire_error(int os_errno) {
  switch (os_errno) {
    case 0:
      return WireError::kOk;
    case EPERM:
    case EACCES:
    case EROFS:
      return WireError::kPerm;
    case ENOMEM:
      return WireError::kNoMemory;
    case EINVAL:
      return WireError::kInvalid;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return WireError::kNoSpace;
    case EOVERFLOW:
      return WireError::kOverflow;
    case EOPNOTSUPP:
      return WireError::kNotSupported;
    case ESHUTDOWN:
      return WireError::kShutdown;
    default:
      return WireError::kIo;
  }
}

void encode_greeting(uint16_t flags, Bytes to) {
  CHECK(to.size() == kGreetingBytes);
  store_be<uint64_t>(to.data(), kServerMagic);
  store_be<uint64_t>(to.data() + 8, kOptionMagic);
  store_be<uint16_t>(to.data() + 16, flags);
}

Result<OptionHeader> decode_option_header(ConstBytes from) {
  CHECK(from.size() == kOptionHeaderBytes);
  if (load_be<uint64_t>(from.data()) != kOptionMagic)
    return fail(ErrorKind::kInvalid, "nbd: an option without its magic number");
  return OptionHeader{load_be<uint32_t>(from.data() + 8), load_be<uint32_t>(from.data() + 12)};
}

void encode_option_header(const OptionHeader& header, Bytes to) {
  CHECK(to.size() == kOptionHeaderBytes);
  store_be<uint64_t>(to.data(), kOptionMagic);
  store_be<uint32_t>(to.data() + 8, header.option);
  store_be<uint32_t>(to.data() + 12, header.length);
}

Result<InfoRequest> decode_info_request(ConstBytes data) {
  Reader reader(data);
  InfoRequest request;
  request.name = reader.take_string(reader.take<uint32_t>());
  const size_t items = reader.take<uint16_t>();
  if (reader.bad() || reader.left() != items * sizeof(uint16_t))
    return fail(ErrorKind::kInvalid, "nbd: malformed INFO or GO of {} bytes", data.size());
  request.items.reserve(items);
  for (size_t i = 0; i < items; ++i) request.items.push_back(reader.take<uint16_t>());
  return request;
}

Result<MetaContextRequest> decode_meta_context_request(ConstBytes data) {
  Reader reader(data);
  MetaContextRequest request;
  request.name = reader.take_string(reader.take<uint32_t>());
  const size_t queries = reader.take<uint32_t>();
  // Every query has at least its length field: bounds the loop by the bytes that were sent.
  if (reader.bad() || queries > reader.left() / sizeof(uint32_t))
    return fail(ErrorKind::kInvalid, "nbd: malformed metadata query of {} bytes", data.size());
  for (size_t i = 0; i < queries && !reader.bad(); ++i)
    request.queries.push_back(reader.take_string(reader.take<uint32_t>()));
  if (!reader.done())
    return fail(ErrorKind::kInvalid, "nbd: malformed metadata query of {} bytes", data.size());
  return request;
}

void append_option_reply(std::vector<std::byte>& out, uint32_t option, OptionReply type,
                         ConstBytes data) {
  append_reply_header(out, option, type, data.size());
  out.insert(out.end(), data.begin(), data.end());
}

void append_server_reply(std::vector<std::byte>& out, uint32_t option, std::string_view name,
                         std::string_view description) {
  append_reply_header(out, option, OptionReply::kServer, 4 + name.size() + description.size());
  append<uint32_t>(out, static_cast<uint32_t>(name.size()));
  append(out, name);
  append(out, description);
}

void append_info_export(std::vector<std::byte>& out, uint32_t option, uint64_t size_bytes,
                        uint16_t flags) {
  append_reply_header(out, option, OptionReply::kInfo, 12);
  append<uint16_t>(out, static_cast<uint16_t>(Info::kExport));
  append<uint64_t>(out, size_bytes);
  append<uint16_t>(out, flags);
}

void append_info_text(std::vector<std::byte>& out, uint32_t option, Info item,
                      std::string_view text) {
  append_reply_header(out, option, OptionReply::kInfo, 2 + text.size());
  append<uint16_t>(out, static_cast<uint16_t>(item));
  append(out, text);
}

void append_info_block_size(std::vector<std::byte>& out, uint32_t option, uint32_t min_bytes,
                            uint32_t preferred_bytes, uint32_t max_bytes) {
  append_reply_header(out, option, OptionReply::kInfo, 14);
  append<uint16_t>(out, static_cast<uint16_t>(Info::kBlockSize));
  append<uint32_t>(out, min_bytes);
  append<uint32_t>(out, preferred_bytes);
  append<uint32_t>(out, max_bytes);
}

void append_meta_context(std::vector<std::byte>& out, uint32_t option, uint32_t id,
                         std::string_view name) {
  append_reply_header(out, option, OptionReply::kMetaContext, 4 + name.size());
  append<uint32_t>(out, id);
  append(out, name);
}

void append_export_name_reply(std::vector<std::byte>& out, uint64_t size_bytes, uint16_t flags,
                              bool with_zeroes) {
  append<uint64_t>(out, size_bytes);
  append<uint16_t>(out, flags);
  if (with_zeroes) out.resize(out.size() + 124);
}

std::optional<Request> decode_request(ConstBytes from) {
  CHECK(from.size() == kRequestBytes);
  const std::byte* at = from.data();
  if (load_be<uint32_t>(at) != kRequestMagic) return {};
  return Request{.flags = load_be<uint16_t>(at + 4),
                 .command = load_be<uint16_t>(at + 6),
                 .cookie = load_be<uint64_t>(at + 8),
                 .offset = load_be<uint64_t>(at + 16),
                 .length = load_be<uint32_t>(at + 24)};
}

void encode_request(const Request& request, Bytes to) {
  CHECK(to.size() == kRequestBytes);
  std::byte* at = to.data();
  store_be<uint32_t>(at, kRequestMagic);
  store_be<uint16_t>(at + 4, request.flags);
  store_be<uint16_t>(at + 6, request.command);
  store_be<uint64_t>(at + 8, request.cookie);
  store_be<uint64_t>(at + 16, request.offset);
  store_be<uint32_t>(at + 24, request.length);
}

void encode_simple_reply(WireError error, uint64_t cookie, Bytes to) {
  CHECK(to.size() == kSimpleReplyBytes);
  store_be<uint32_t>(to.data(), kSimpleReplyMagic);
  store_be<uint32_t>(to.data() + 4, static_cast<uint32_t>(error));
  store_be<uint64_t>(to.data() + 8, cookie);
}

void encode_chunk_header(const ChunkHeader& header, Bytes to) {
  CHECK(to.size() == kChunkHeaderBytes);
  std::byte* at = to.data();
  store_be<uint32_t>(at, kStructuredReplyMagic);
  store_be<uint16_t>(at + 4, header.flags);
  store_be<uint16_t>(at + 6, static_cast<uint16_t>(header.type));
  store_be<uint64_t>(at + 8, header.cookie);
  store_be<uint32_t>(at + 16, header.length);
}

void encode_data_chunk(uint16_t flags, uint64_t cookie, uint64_t offset, uint32_t length,
                       Bytes to) {
  CHECK(to.size() == kDataChunkBytes);
  encode_chunk_header({flags, Chunk::kOffsetData, cookie, length + 8}, to.first(kChunkHeaderBytes));
  store_be<uint64_t>(to.data() + kChunkHeaderBytes, offset);
}

void encode_hole_chunk(uint16_t flags, uint64_t cookie, uint64_t offset, uint32_t length,
                       Bytes to) {
  CHECK(to.size() == kHoleChunkBytes);
  encode_chunk_header({flags, Chunk::kOffsetHole, cookie, 12}, to.first(kChunkHeaderBytes));
  store_be<uint64_t>(to.data() + kChunkHeaderBytes, offset);
  store_be<uint32_t>(to.data() + kChunkHeaderBytes + 8, length);
}

void encode_error_chunk(uint64_t cookie, WireError error, uint16_t message_bytes, Bytes to) {
  CHECK(to.size() == kErrorChunkBytes && error != WireError::kOk);
  encode_chunk_header({kChunkFlagDone, Chunk::kError, cookie, uint32_t{6} + message_bytes},
                      to.first(kChunkHeaderBytes));
  store_be<uint32_t>(to.data() + kChunkHeaderBytes, static_cast<uint32_t>(error));
  store_be<uint16_t>(to.data() + kChunkHeaderBytes + 4, message_bytes);
}

void encode_status_chunk(uint64_t cookie, uint32_t context_id, uint32_t descriptors, Bytes to) {
  CHECK(to.size() == kStatusChunkBytes && descriptors > 0);
  const uint32_t length = 4 + descriptors * static_cast<uint32_t>(kStatusDescriptorBytes);
  encode_chunk_header({kChunkFlagDone, Chunk::kBlockStatus, cookie, length},
                      to.first(kChunkHeaderBytes));
  store_be<uint32_t>(to.data() + kChunkHeaderBytes, context_id);
}

void encode_status_descriptor(uint32_t length, uint32_t state, Bytes to) {
  CHECK(to.size() == kStatusDescriptorBytes);
  store_be<uint32_t>(to.data(), length);
  store_be<uint32_t>(to.data() + 4, state);
}

}  // namespace squall::nbd
