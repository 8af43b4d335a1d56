#include "base/uuid.h"

#include <sys/random.h>

#include "base/check.h"

namespace squall {

Uuid Uuid::generate() {
  Uuid id;
  CHECK(::getrandom(id.bytes.data(), id.bytes.size(), 0) == static_cast<ssize_t>(id.bytes.size()));
  id.bytes[6] = (id.bytes[6] & std::byte{0x0f}) | std::byte{0x40};
  id.bytes[8] = (id.bytes[8] & std::byte{0x3f}) | std::byte{0x80};
  return id;
}

namespace {
int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}
}  // namespace

Result<Uuid> Uuid::parse(std::string_view text) {
  Uuid id;
  size_t digits = 0;
  for (char c : text) {
    if (c == '-') continue;
    const int digit = hex_digit(c);
    if (digit < 0 || digits == 32) return fail(ErrorKind::kInvalid, "'{}' is not a UUID", text);
    auto& byte = id.bytes[digits / 2];
    byte = (byte << 4) | static_cast<std::byte>(digit);
    ++digits;
  }
  if (digits != 32) return fail(ErrorKind::kInvalid, "'{}' is not a UUID", text);
  return id;
}

std::string Uuid::to_string() const {
  std::string text;
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", static_cast<unsigned>(bytes[i]));
  }
  return text;
}

}  // namespace squall
