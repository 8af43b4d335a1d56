// The NBD protocol on the wire, fixed newstyle: constants, and pure encode and decode. No I/O.
// Source: the protocol document of the NetworkBlockDevice project (doc/proto.md). All integers are
// big-endian. Decoders take exactly the bytes of one structure (the caller knows the length) and
// never read beyond them; views in decoded structures point into those bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"

namespace squall::nbd {

constexpr uint64_t kServerMagic = 0x4e42444d41474943;  // "NBDMAGIC"
constexpr uint64_t kOptionMagic = 0x49484156454f5054;  // "IHAVEOPT"
constexpr uint64_t kOptionReplyMagic = 0x0003e889045565a9;
constexpr uint32_t kRequestMagic = 0x25609513;
constexpr uint32_t kSimpleReplyMagic = 0x67446698;
constexpr uint32_t kStructuredReplyMagic = 0x668e33ef;

// Handshake flags: the server's 16 bits and the client's 32 bits use the same two.
constexpr uint16_t kFlagFixedNewstyle = 1 << 0;
constexpr uint16_t kFlagNoZeroes = 1 << 1;

// Transmission flags.
constexpr uint16_t kFlagHasFlags = 1 << 0;
constexpr uint16_t kFlagReadOnly = 1 << 1;
constexpr uint16_t kFlagSendFlush = 1 << 2;
constexpr uint16_t kFlagSendFua = 1 << 3;
constexpr uint16_t kFlagSendTrim = 1 << 5;
constexpr uint16_t kFlagSendWriteZeroes = 1 << 6;
constexpr uint16_t kFlagSendDf = 1 << 7;
constexpr uint16_t kFlagCanMultiConn = 1 << 8;
constexpr uint16_t kFlagSendCache = 1 << 10;
constexpr uint16_t kFlagSendFastZero = 1 << 11;

enum class Option : uint32_t {
  kExportName = 1,
  kAbort = 2,
  kList = 3,
  kStartTls = 5,
  kInfo = 6,
  kGo = 7,
  kStructuredReply = 8,
  kListMetaContext = 9,
  kSetMetaContext = 10,
};

enum class OptionReply : uint32_t {
  kAck = 1,
  kServer = 2,
  kInfo = 3,
  kMetaContext = 4,
  kErrUnsupported = 0x80000001,
  kErrPolicy = 0x80000002,
  kErrInvalid = 0x80000003,
  kErrUnknown = 0x80000006,
  kErrShutdown = 0x80000007,
  kErrTooBig = 0x80000009,
};

enum class Info : uint16_t { kExport = 0, kName = 1, kDescription = 2, kBlockSize = 3 };

enum class Command : uint16_t {
  kRead = 0,
  kWrite = 1,
  kDisconnect = 2,
  kFlush = 3,
  kTrim = 4,
  kCache = 5,
  kWriteZeroes = 6,
  kBlockStatus = 7,
};

constexpr uint16_t kCommandFlagFua = 1 << 0;
constexpr uint16_t kCommandFlagNoHole = 1 << 1;
constexpr uint16_t kCommandFlagDf = 1 << 2;
constexpr uint16_t kCommandFlagReqOne = 1 << 3;
constexpr uint16_t kCommandFlagFastZero = 1 << 4;

enum class Chunk : uint16_t {
  kNone = 0,
  kOffsetData = 1,
  kOffsetHole = 2,
  kBlockStatus = 5,
  kError = 0x8001,
};
constexpr uint16_t kChunkFlagDone = 1 << 0;

// The protocol's own error numbers, the same on every system.
enum class WireError : uint32_t {
  kOk = 0,
  kPerm = 1,
  kIo = 5,
  kNoMemory = 12,
  kInvalid = 22,
  kNoSpace = 28,
  kOverflow = 75,
  kNotSupported = 95,
  kShutdown = 108,
};
// The nearest protocol error of an errno; kIo when there is none.
WireError wire_error(int os_errno);

// Flags of an extent in the context base:allocation.
constexpr uint32_t kStateHole = 1 << 0;
constexpr uint32_t kStateZero = 1 << 1;
constexpr std::string_view kBaseAllocation = "base:allocation";

constexpr size_t kMaxNameBytes = 4096;  // any string of the protocol

// The server's greeting; the client answers with 32 bits of flags.
constexpr size_t kGreetingBytes = 18;
void encode_greeting(uint16_t flags, Bytes to);

// Header of an option the client sends.
struct OptionHeader {
  uint32_t option = 0;
  uint32_t length = 0;
};
constexpr size_t kOptionHeaderBytes = 16;
Result<OptionHeader> decode_option_header(ConstBytes from);
void encode_option_header(const OptionHeader& header, Bytes to);

// Data of INFO and GO.
struct InfoRequest {
  std::string_view name;
  std::vector<uint16_t> items;
};
Result<InfoRequest> decode_info_request(ConstBytes data);

// Data of LIST_META_CONTEXT and SET_META_CONTEXT.
struct MetaContextRequest {
  std::string_view name;
  std::vector<std::string_view> queries;
};
Result<MetaContextRequest> decode_meta_context_request(ConstBytes data);

// Replies to options, appended to `out`.
void append_option_reply(std::vector<std::byte>& out, uint32_t option, OptionReply type,
                         ConstBytes data);
void append_server_reply(std::vector<std::byte>& out, uint32_t option, std::string_view name,
                         std::string_view description);
void append_info_export(std::vector<std::byte>& out, uint32_t option, uint64_t size_bytes,
                        uint16_t flags);
void append_info_text(std::vector<std::byte>& out, uint32_t option, Info item,
                      std::string_view text);
void append_info_block_size(std::vector<std::byte>& out, uint32_t option, uint32_t min_bytes,
                            uint32_t preferred_bytes, uint32_t max_bytes);
void append_meta_context(std::vector<std::byte>& out, uint32_t option, uint32_t id,
                         std::string_view name);
// The answer to EXPORT_NAME, which has no reply header.
void append_export_name_reply(std::vector<std::byte>& out, uint64_t size_bytes, uint16_t flags,
                              bool with_zeroes);

// A request of the transmission phase; WRITE is followed by `length` bytes.
struct Request {
  uint16_t flags = 0;
  uint16_t command = 0;
  uint64_t cookie = 0;
  uint64_t offset = 0;
  uint32_t length = 0;
  bool operator==(const Request&) const = default;
};
constexpr size_t kRequestBytes = 28;
// Empty when the magic is wrong.
std::optional<Request> decode_request(ConstBytes from);
void encode_request(const Request& request, Bytes to);

constexpr size_t kSimpleReplyBytes = 16;
void encode_simple_reply(WireError error, uint64_t cookie, Bytes to);

// Header of a chunk of a structured reply.
struct ChunkHeader {
  uint16_t flags = 0;
  Chunk type = Chunk::kNone;
  uint64_t cookie = 0;
  uint32_t length = 0;  // of the payload
};
constexpr size_t kChunkHeaderBytes = 20;
void encode_chunk_header(const ChunkHeader& header, Bytes to);

// Chunks with the fixed part of their payload; what follows is sent after these bytes.
constexpr size_t kDataChunkBytes = kChunkHeaderBytes + 8;  // then the data
void encode_data_chunk(uint16_t flags, uint64_t cookie, uint64_t offset, uint32_t length, Bytes to);
constexpr size_t kHoleChunkBytes = kChunkHeaderBytes + 12;
void encode_hole_chunk(uint16_t flags, uint64_t cookie, uint64_t offset, uint32_t length, Bytes to);
constexpr size_t kErrorChunkBytes = kChunkHeaderBytes + 6;  // then the message
void encode_error_chunk(uint64_t cookie, WireError error, uint16_t message_bytes, Bytes to);
constexpr size_t kStatusChunkBytes = kChunkHeaderBytes + 4;  // then the descriptors
void encode_status_chunk(uint64_t cookie, uint32_t context_id, uint32_t descriptors, Bytes to);
constexpr size_t kStatusDescriptorBytes = 8;
void encode_status_descriptor(uint32_t length, uint32_t state, Bytes to);

}  // namespace squall::nbd
