#include "pool/record_codec.h"

#include <lz4.h>
#include <zstd.h>

#include <array>

#include "base/check.h"

namespace squall {

namespace {
constexpr int kZstdLevel = 1;

// The largest stored length that takes a sector less than the payload as it is; 0: there is none.
uint64_t useful_bytes_max(uint64_t raw_bytes) {
  const uint64_t sectors = record_sectors(raw_bytes) - 1;
  return sectors == 0 ? 0 : sectors * kSectorBytes - kRecordHeaderBytes;
}
}  // namespace

struct RecordCodec::Contexts {
  ZSTD_CCtx* compress = ZSTD_createCCtx();
  ZSTD_DCtx* decompress = ZSTD_createDCtx();
  std::array<std::byte, kMaxPayloadBytes> scratch;

  Contexts() { CHECK(compress != nullptr && decompress != nullptr); }
  ~Contexts() {
    ZSTD_freeCCtx(compress);
    ZSTD_freeDCtx(decompress);
  }

  // The compressed length, or 0 when it does not fit in `limit`.
  uint64_t run(Codec codec, ConstBytes payload, uint64_t limit) {
    if (limit == 0) return 0;
    if (codec == Codec::kLz4)
      return static_cast<uint64_t>(LZ4_compress_default(
          reinterpret_cast<const char*>(payload.data()), reinterpret_cast<char*>(scratch.data()),
          static_cast<int>(payload.size()), static_cast<int>(limit)));
    const size_t bytes = ZSTD_compressCCtx(compress, scratch.data(), limit, payload.data(),
                                           payload.size(), kZstdLevel);
    return ZSTD_isError(bytes) ? 0 : bytes;
  }
};

RecordCodec::RecordCodec(Codec codec) : codec_(codec), contexts_(std::make_unique<Contexts>()) {}
RecordCodec::~RecordCodec() = default;

RecordCodec::Encoded RecordCodec::encode(ConstBytes payload) {
  CHECK(!payload.empty() && payload.size() <= kMaxPayloadBytes);
  if (codec_ != Codec::kNone) {
    const uint64_t bytes = contexts_->run(codec_, payload, useful_bytes_max(payload.size()));
    if (bytes > 0) return {codec_, ConstBytes(contexts_->scratch).first(bytes)};
  }
  return {Codec::kNone, payload};
}

Result<void> RecordCodec::decode(Codec codec, ConstBytes stored, Bytes to) {
  bool good = false;
  switch (codec) {
    case Codec::kNone:
      good = stored.size() == to.size();
      if (good) std::memcpy(to.data(), stored.data(), to.size());
      break;
    case Codec::kLz4:
      good =
          LZ4_decompress_safe(reinterpret_cast<const char*>(stored.data()),
                              reinterpret_cast<char*>(to.data()), static_cast<int>(stored.size()),
                              static_cast<int>(to.size())) == static_cast<int>(to.size());
      break;
    case Codec::kZstd:
      good = ZSTD_decompressDCtx(contexts_->decompress, to.data(), to.size(), stored.data(),
                                 stored.size()) == to.size();
      break;
  }
  if (!good)
    return fail(ErrorKind::kCorrupt, "payload does not decompress ({}, {} to {} bytes)",
                to_string(codec), stored.size(), to.size());
  return {};
}

}  // namespace squall
