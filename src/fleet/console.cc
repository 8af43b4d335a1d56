#include "fleet/console.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/check.h"

namespace squall {

TextScanner::TextScanner(std::vector<std::string> texts) : texts_(std::move(texts)) {
  CHECK(!texts_.empty());
  for (const std::string& text : texts_) {
    CHECK(!text.empty());
    keep_bytes_ = std::max(keep_bytes_, text.size() - 1);
  }
}

bool TextScanner::feed(std::string_view piece) {
  if (found_) return true;
  tail_.append(piece);
  found_ = std::ranges::any_of(
      texts_, [&](const std::string& text) { return tail_.find(text) != std::string::npos; });
  if (tail_.size() > keep_bytes_) tail_.erase(0, tail_.size() - keep_bytes_);
  return found_;
}

ConsoleWatch::ConsoleWatch(std::string path, std::vector<std::string> texts)
    : path_(std::move(path)), scanner_(std::move(texts)) {}

bool ConsoleWatch::poll() {
  // A guest that writes without end must not keep us here.
  constexpr int kReadsMax = 64;
  if (scanner_.found()) return true;
  const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
  if (fd < 0) return false;
  std::array<char, 16384> buffer;
  for (int i = 0; i < kReadsMax && !scanner_.found(); ++i) {
    const ssize_t n = ::pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(offset_));
    if (n <= 0) break;
    offset_ += static_cast<uint64_t>(n);
    scanner_.feed({buffer.data(), static_cast<size_t>(n)});
  }
  ::close(fd);
  return scanner_.found();
}

namespace {

// Leaves out ESC sequences (CSI: up to a byte in 0x40-0x7e; others: one byte) and what is not
// printable ASCII.
std::string printable(std::string_view line) {
  std::string result;
  for (size_t i = 0; i < line.size(); ++i) {
    const auto c = static_cast<unsigned char>(line[i]);
    if (c == 0x1b) {
      ++i;
      if (i < line.size() && line[i] == '[') {
        do ++i;
        while (i < line.size() && (line[i] < 0x40 || line[i] > 0x7e));
      }
    } else if (c >= 0x20 && c < 0x7f) {
      result.push_back(static_cast<char>(c));
    }
  }
  result.erase(result.find_last_not_of(' ') + 1);
  result.erase(0, result.find_first_not_of(' '));
  return result;
}

}  // namespace

std::string last_line(std::string_view log, size_t length_max) {
  while (!log.empty()) {
    const size_t start = log.find_last_of("\r\n");
    const size_t begin = start == std::string_view::npos ? 0 : start + 1;
    if (std::string line = printable(log.substr(begin)); !line.empty()) {
      line.resize(std::min(line.size(), length_max));
      return line;
    }
    log = log.substr(0, begin == 0 ? 0 : begin - 1);
  }
  return {};
}

std::string last_line_of_file(const std::string& path, size_t length_max) {
  constexpr off_t kTailBytes = 4096;
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
  if (fd < 0) return {};
  struct stat status{};
  std::array<char, kTailBytes> tail;
  ssize_t n = 0;
  if (::fstat(fd, &status) == 0)
    n = ::pread(fd, tail.data(), tail.size(), std::max<off_t>(0, status.st_size - kTailBytes));
  ::close(fd);
  return n <= 0 ? std::string() : last_line({tail.data(), static_cast<size_t>(n)}, length_max);
}

}  // namespace squall
