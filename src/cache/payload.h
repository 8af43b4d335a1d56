// Payload: a record's decompressed bytes in memory.
#pragma once

#include <memory>

#include "base/bytes.h"

namespace squall {

// Immutable and shared by all who read it; freed by whoever lets go last.
class Payload {
 public:
  virtual ~Payload() = default;
  ConstBytes bytes() const { return bytes_; }

 protected:
  explicit Payload(ConstBytes bytes) : bytes_(bytes) {}
  ConstBytes bytes_;
};
using PayloadRef = std::shared_ptr<const Payload>;

}  // namespace squall
