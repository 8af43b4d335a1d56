// A 128-bit random identifier (RFC 4122 version 4). Plain value.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/error.h"

namespace squall {

struct Uuid {
  std::array<std::byte, 16> bytes{};

  static Uuid generate();  // from the kernel's generator
  static Result<Uuid> parse(std::string_view text);
  std::string to_string() const;
  bool is_nil() const { return *this == Uuid{}; }
  auto operator<=>(const Uuid&) const = default;
};

}  // namespace squall
