#include "api/units.h"

#include <array>
#include <charconv>
#include <cmath>
#include <ctime>

namespace squall {

namespace {
constexpr std::string_view kSuffixes = "KMGTPE";

// The power of 1024 that `suffix` stands for; -1 when it is none.
int power_of_suffix(std::string_view suffix) {
  if (suffix.empty() || suffix == "B") return 0;
  const size_t at = kSuffixes.find(static_cast<char>(std::toupper(suffix[0])));
  if (at == std::string_view::npos) return -1;
  const std::string_view unit = suffix.substr(1);
  if (!unit.empty() && unit != "B" && unit != "iB") return -1;
  return static_cast<int>(at) + 1;
}
}  // namespace

Result<uint64_t> parse_size(std::string_view text) {
  const auto bad = [&] {
    return fail(ErrorKind::kInvalid, "'{}' is not a size; write for example 512M, 10G or 1.5T",
                text);
  };
  const size_t digits = std::min(text.find_first_not_of("0123456789."), text.size());
  const std::string number(text.substr(0, digits));
  const int power = power_of_suffix(text.substr(digits));
  if (number.empty() || power < 0) return bad();
  const auto scale = 1ULL << (10 * power);

  uint64_t whole = 0;
  const char* end = number.data() + number.size();
  if (const auto [stop, error] = std::from_chars(number.data(), end, whole);
      error == std::errc() && stop == end) {
    uint64_t bytes = 0;
    if (__builtin_mul_overflow(whole, scale, &bytes)) return bad();
    return bytes;
  }
  double fraction = 0;
  const auto [stop, error] = std::from_chars(number.data(), end, fraction);
  const double bytes = fraction * static_cast<double>(scale);
  // 2^53: beyond it a double cannot tell whole bytes apart.
  if (error != std::errc() || stop != end || bytes > 0x1p53 || bytes != std::floor(bytes)) {
    return bad();
  }
  return static_cast<uint64_t>(bytes);
}

std::string format_size(uint64_t bytes) {
  if (bytes < 1024) return std::to_string(bytes);
  double value = static_cast<double>(bytes);
  int power = 0;
  // 999.5 and more would print as four digits.
  while (value >= 999.5 && power < static_cast<int>(kSuffixes.size())) {
    value /= 1024;
    ++power;
  }
  const char suffix = kSuffixes[static_cast<size_t>(power) - 1];
  const bool is_whole = value == std::floor(value);
  return fmt::format("{:.{}f}{}", value, value >= 9.95 || is_whole ? 0 : 1, suffix);
}

std::string format_size_exact(uint64_t bytes) {
  size_t power = 0;
  while (power < kSuffixes.size() && bytes != 0 && bytes % 1024 == 0) {
    bytes /= 1024;
    ++power;
  }
  return std::to_string(bytes) + (power == 0 ? "" : std::string(1, kSuffixes[power - 1]));
}

std::string format_time(int64_t seconds_since_1970) {
  const auto time = static_cast<std::time_t>(seconds_since_1970);
  std::tm local{};
  ::localtime_r(&time, &local);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M", &local);
  return text.data();
}

std::string format_duration(uint64_t duration_ms) {
  if (duration_ms < 10'000) {
    return duration_ms < 1000 ? fmt::format("{} ms", duration_ms)
                              : fmt::format("{:.1f} s", static_cast<double>(duration_ms) / 1000);
  }
  const uint64_t s = duration_ms / 1000;
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{} min {} s", s / 60, s % 60);
  if (s < 86400) return fmt::format("{} h {} min", s / 3600, s / 60 % 60);
  return fmt::format("{} d {} h", s / 86400, s / 3600 % 24);
}

}  // namespace squall
