// Sizes and dates as people write and read them. Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"

namespace squall {

// "512", "4K", "512M", "10G", "1.5T", also "10GiB" and "10GB": powers of 1024 throughout. Whole
// bytes must come out.
Result<uint64_t> parse_size(std::string_view text);

// "0", "4.0K", "10G": at most three significant digits, powers of 1024.
std::string format_size(uint64_t bytes);
// Exactly, in the largest unit that divides it: "4G", "1000M", "1234567".
std::string format_size_exact(uint64_t bytes);

// Local time, "2026-11-21 08:00".
std::string format_time(int64_t seconds_since_1970);

// "850 ms", "12 s", "3 min 20 s", "2 h 5 min", "4 d 3 h".
std::string format_duration(uint64_t duration_ms);

}  // namespace squall
