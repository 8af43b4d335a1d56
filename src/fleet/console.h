// A guest's serial console as its log file shows it. Guests write what they like: everything here
// is bounded in memory and gives people printable text only.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace squall {

// Looks for any of some texts in a stream that comes in pieces. Remembers no more than the longest
// text. Plain value.
class TextScanner {
 public:
  // No text may be empty.
  explicit TextScanner(std::vector<std::string> texts);
  // True once one of the texts has appeared, however it was cut up.
  bool feed(std::string_view piece);
  bool found() const { return found_; }

 private:
  std::vector<std::string> texts_;
  size_t keep_bytes_ = 0;
  std::string tail_;
  bool found_ = false;
};

// Follows a log file as it grows. The file need not exist yet. One thread.
class ConsoleWatch {
 public:
  ConsoleWatch(std::string path, std::vector<std::string> texts);
  // Reads what was added since the last call, a bounded amount; true once a text has appeared.
  bool poll();

 private:
  std::string path_;
  TextScanner scanner_;
  uint64_t offset_ = 0;
};

// The last line with something printable in it of the end of a log: escape sequences and control
// characters left out, shortened to `length_max` bytes. Empty when there is none.
std::string last_line(std::string_view log, size_t length_max);

// The same of a file.
std::string last_line_of_file(const std::string& path, size_t length_max);

}  // namespace squall
