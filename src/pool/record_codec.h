// RecordCodec: compresses and decompresses payloads. Keeps the libraries' contexts and one scratch
// buffer; one reactor's thread.
#pragma once

#include <memory>

#include "base/bytes.h"
#include "base/error.h"
#include "format/segment.h"

namespace squall {

class RecordCodec {
 public:
  explicit RecordCodec(Codec codec);
  ~RecordCodec();
  RecordCodec(const RecordCodec&) = delete;
  RecordCodec& operator=(const RecordCodec&) = delete;

  struct Encoded {
    Codec codec;
    ConstBytes stored;  // in the scratch buffer until the next call, or the payload itself
  };
  // Falls back to Codec::kNone where compression would not save a sector.
  Encoded encode(ConstBytes payload);

  // Fills `to`, whose size is the record's raw length. kCorrupt when `stored` gives anything else.
  Result<void> decode(Codec codec, ConstBytes stored, Bytes to);

 private:
  struct Contexts;
  Codec codec_;
  std::unique_ptr<Contexts> contexts_;
};

}  // namespace squall
