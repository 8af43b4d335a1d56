#include "fleet/console.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>

namespace squall {
namespace {

TEST(TextScanner, FindsATextHoweverItIsCut) {
  const std::string log = "Debian GNU/Linux 12 squall ttyS0\r\n\r\nsquall login: ";
  for (size_t cut = 0; cut <= log.size(); ++cut) {
    TextScanner scanner({"squall-ready", "login:"});
    const bool early = scanner.feed(log.substr(0, cut));
    EXPECT_EQ(early, cut >= log.find("login:") + 6);
    EXPECT_TRUE(scanner.feed(log.substr(cut)));
  }
  TextScanner scanner({"login:"});
  bool found = false;
  for (const char c : log) found = scanner.feed({&c, 1});
  EXPECT_TRUE(found);
}

TEST(TextScanner, SeesNoTextThatIsNotThere) {
  TextScanner scanner({"login:"});
  EXPECT_FALSE(scanner.feed("log"));
  EXPECT_FALSE(scanner.feed("xin:"));
  EXPECT_FALSE(scanner.feed(std::string(100'000, 'l')));
  EXPECT_FALSE(scanner.feed(""));
}

TEST(ConsoleWatch, FollowsAGrowingFile) {
  const std::string path = testing::TempDir() + "console_test.log";
  std::remove(path.c_str());
  ConsoleWatch watch(path, {"login:"});
  EXPECT_FALSE(watch.poll());
  std::ofstream file(path);
  file << "booting" << std::string(50'000, '.') << "\nlog" << std::flush;
  EXPECT_FALSE(watch.poll());
  file << "in: " << std::flush;
  EXPECT_TRUE(watch.poll());
  std::remove(path.c_str());
}

TEST(LastLine, IsWhatAPersonWouldRead) {
  EXPECT_EQ(last_line("one\ntwo\n", 80), "two");
  EXPECT_EQ(last_line("one\r\n\x1b[0;1;32mOK\x1b[0m  ]\x07\r\n\r\n \n", 80), "OK  ]");
  EXPECT_EQ(last_line("", 80), "");
  EXPECT_EQ(last_line("\n\x1b[", 80), "");
  EXPECT_EQ(last_line("\x1b", 80), "");
  EXPECT_EQ(last_line(std::string(500, 'a'), 80), std::string(80, 'a'));
  EXPECT_EQ(last_line_of_file("/nonexistent", 80), "");
}

}  // namespace
}  // namespace squall
