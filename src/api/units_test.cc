#include "api/units.h"

#include <gtest/gtest.h>

#include "base/random.h"

namespace squall {
namespace {

TEST(Units, ParsesSizes) {
  EXPECT_EQ(parse_size("0").value(), 0u);
  EXPECT_EQ(parse_size("512").value(), 512u);
  EXPECT_EQ(parse_size("512B").value(), 512u);
  EXPECT_EQ(parse_size("4k").value(), 4096u);
  EXPECT_EQ(parse_size("512M").value(), 512ull << 20);
  EXPECT_EQ(parse_size("10G").value(), 10ull << 30);
  EXPECT_EQ(parse_size("10GiB").value(), 10ull << 30);
  EXPECT_EQ(parse_size("10GB").value(), 10ull << 30);
  EXPECT_EQ(parse_size("1.5T").value(), 3ull << 39);
  EXPECT_EQ(parse_size("18446744073709551615").value(), ~0ull);
}

TEST(Units, RejectsWhatIsNoSize) {
  for (const char* text : {"", "G", "-1", "10X", "10 G", "1.2.3", "1.3B", "18446744073709551616",
                           "16E", "99999999999G", "10Gigs", "1e3", "0x10", "."}) {
    const auto size = parse_size(text);
    EXPECT_FALSE(size) << text;
  }
}

TEST(Units, FormatsSizes) {
  EXPECT_EQ(format_size(0), "0");
  EXPECT_EQ(format_size(1023), "1023");
  EXPECT_EQ(format_size(4096), "4K");
  EXPECT_EQ(format_size(4096 + 512), "4.5K");
  EXPECT_EQ(format_size(10ull << 30), "10G");
  EXPECT_EQ(format_size((10ull << 30) + 1), "10G");
  EXPECT_EQ(format_size(~0ull), "16E");
}

TEST(Units, ExactSizesReadBack) {
  Random random(7);
  for (int i = 0; i < 1000; ++i) {
    const uint64_t bytes = random() >> random.below(64);
    EXPECT_EQ(parse_size(format_size_exact(bytes)).value(), bytes);
  }
  EXPECT_EQ(format_size_exact(1000ull << 20), "1000M");
}

TEST(Units, FormatsDurations) {
  EXPECT_EQ(format_duration(0), "0 ms");
  EXPECT_EQ(format_duration(1500), "1.5 s");
  EXPECT_EQ(format_duration(59'000), "59 s");
  EXPECT_EQ(format_duration(200'000), "3 min 20 s");
  EXPECT_EQ(format_duration(7'500'000), "2 h 5 min");
  EXPECT_EQ(format_duration(90'000'000), "1 d 1 h");
}

}  // namespace
}  // namespace squall
