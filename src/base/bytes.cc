#include "base/bytes.h"

namespace squall {

bool is_zero(ConstBytes bytes) {
  // A buffer that starts with 16 zero bytes and equals itself shifted by 16 is all zero; memcmp
  // brings the vector code.
  const size_t head = std::min<size_t>(16, bytes.size());
  for (size_t i = 0; i < head; ++i)
    if (bytes[i] != std::byte{0}) return false;
  return bytes.size() <= 16 || std::memcmp(bytes.data(), bytes.data() + 16, bytes.size() - 16) == 0;
}

}  // namespace squall
