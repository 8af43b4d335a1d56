// Progress on a terminal, on stderr, for whatever takes over a second; silent when stderr is no
// terminal or with --quiet. One thread per object.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>

namespace squall {

// A bar over a number of bytes: "import debian  1.2G of 4.0G  30%  310M/s  9 s left".
class Progress {
 public:
  Progress(std::string title, bool enabled);
  ~Progress();  // takes the line off the terminal
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void set_total(uint64_t bytes) { total_bytes_ = bytes; }  // 0: unknown
  void add(uint64_t bytes);
  uint64_t done_bytes() const { return done_bytes_; }

 private:
  void draw(std::chrono::steady_clock::time_point now);

  const std::string title_;
  const bool enabled_;
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point next_draw_;
  uint64_t total_bytes_ = 0;
  uint64_t done_bytes_ = 0;
  bool drawn_ = false;
};

// A line that says what somebody else is at.
class StatusLine {
 public:
  explicit StatusLine(bool enabled);
  ~StatusLine();
  StatusLine(const StatusLine&) = delete;
  StatusLine& operator=(const StatusLine&) = delete;

  void show(const std::string& text);

 private:
  const bool enabled_;
  const std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  bool drawn_ = false;
};

// A line with the time gone by, while the caller waits for one answer.
class Waiting {
 public:
  Waiting(std::string title, bool enabled);
  ~Waiting();
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;

 private:
  void tick(const std::string& title);

  std::mutex mutex_;
  std::condition_variable ended_changed_;
  bool ended_ = false;  // guarded by mutex_
  std::thread ticker_;
};

}  // namespace squall
