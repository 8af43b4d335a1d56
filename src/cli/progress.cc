#include "cli/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "api/units.h"

namespace squall {

namespace {
constexpr auto kFirstDraw = std::chrono::milliseconds(1000);
constexpr auto kDrawInterval = std::chrono::milliseconds(200);
constexpr const char* kEraseLine = "\r\033[K";

void draw_line(const std::string& line) {
  std::fputs((kEraseLine + line).c_str(), stderr);
  std::fflush(stderr);
}

bool is_terminal() {
  return ::isatty(STDERR_FILENO) == 1;
}
}  // namespace

Progress::Progress(std::string title, bool enabled)
    : title_(std::move(title)),
      enabled_(enabled && is_terminal()),
      next_draw_(started_ + kFirstDraw) {}

Progress::~Progress() {
  if (drawn_) draw_line("");
}

StatusLine::StatusLine(bool enabled) : enabled_(enabled && is_terminal()) {}

StatusLine::~StatusLine() {
  if (drawn_) draw_line("");
}

void StatusLine::show(const std::string& text) {
  if (!enabled_ || std::chrono::steady_clock::now() - started_ < kFirstDraw) return;
  drawn_ = true;
  draw_line(text);
}

void Progress::add(uint64_t bytes) {
  done_bytes_ += bytes;
  if (!enabled_) return;
  if (const auto now = std::chrono::steady_clock::now(); now >= next_draw_) draw(now);
}

void Progress::draw(std::chrono::steady_clock::time_point now) {
  next_draw_ = now + kDrawInterval;
  drawn_ = true;
  const double seconds = std::chrono::duration<double>(now - started_).count();
  const double rate = static_cast<double>(done_bytes_) / seconds;
  std::string line = fmt::format("{}  {}", title_, format_size(done_bytes_));
  if (total_bytes_ > 0) {
    const uint64_t left = total_bytes_ - std::min(done_bytes_, total_bytes_);
    line += fmt::format(" of {}  {}%", format_size(total_bytes_), 100 - 100 * left / total_bytes_);
    if (rate > 0) {
      const auto left_ms = static_cast<uint64_t>(1000 * static_cast<double>(left) / rate);
      line += fmt::format("  {}/s  {} left", format_size(static_cast<uint64_t>(rate)),
                          format_duration(left_ms));
    }
  }
  draw_line(line);
}

Waiting::Waiting(std::string title, bool enabled) {
  if (enabled && is_terminal()) {
    ticker_ = std::thread([this, title = std::move(title)] { tick(title); });
  }
}

Waiting::~Waiting() {
  if (!ticker_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    ended_ = true;
  }
  ended_changed_.notify_one();
  ticker_.join();
}

void Waiting::tick(const std::string& title) {
  const auto started = std::chrono::steady_clock::now();
  std::unique_lock lock(mutex_);
  auto wait = kFirstDraw;
  bool drawn = false;
  while (!ended_changed_.wait_for(lock, wait, [this] { return ended_; })) {
    wait = kDrawInterval;
    drawn = true;
    const auto gone = std::chrono::duration_cast<std::chrono::milliseconds>(
        std::chrono::steady_clock::now() - started);
    draw_line(fmt::format("{}  {}", title, format_duration(static_cast<uint64_t>(gone.count()))));
  }
  if (drawn) draw_line("");
}

}  // namespace squall
