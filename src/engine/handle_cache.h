// HandleCache: a bounded set of open files, least recently used first out. A Pin keeps its file
// open; only files without pins are closed to make room, so the bound is exceeded while more than
// that many files are in use at once. One reactor's thread; outlives its pins.
#pragma once

#include <cstdint>
#include <list>
#include <string>
#include <unordered_map>
#include <utility>

#include "base/check.h"
#include "io/file_system.h"

namespace squall {

class HandleCache {
 private:
  struct Entry {
    uint64_t key = 0;
    int handle = -1;
    uint64_t pins = 0;
    bool dropped = false;  // out of the map; closed when the last pin goes
    std::list<Entry*>::iterator idle;
  };

 public:
  class Pin {
   public:
    Pin() = default;
    Pin(HandleCache* cache, Entry* entry) : cache_(cache), entry_(entry) { ++entry->pins; }
    Pin(const Pin& other) : cache_(other.cache_), entry_(other.entry_) {
      if (entry_ != nullptr) ++entry_->pins;
    }
    Pin(Pin&& other) noexcept
        : cache_(other.cache_), entry_(std::exchange(other.entry_, nullptr)) {}
    Pin& operator=(Pin other) noexcept {
      std::swap(cache_, other.cache_);
      std::swap(entry_, other.entry_);
      return *this;
    }
    ~Pin() {
      if (entry_ != nullptr) cache_->unpin(*entry_);
    }
    explicit operator bool() const { return entry_ != nullptr; }
    int handle() const { return entry_->handle; }

   private:
    HandleCache* cache_ = nullptr;
    Entry* entry_ = nullptr;
  };

  HandleCache(FileSystem& file_system, size_t open_files_max)
      : file_system_(file_system), open_files_max_(open_files_max) {}
  ~HandleCache();
  HandleCache(const HandleCache&) = delete;
  HandleCache& operator=(const HandleCache&) = delete;

  // The file of `key`, opened at path() if it is not open yet.
  template <class Path>
  Result<Pin> acquire(uint64_t key, OpenOptions options, const Path& path) {
    if (auto found = entries_.find(key); found != entries_.end()) return pin(*found->second);
    TRY_ASSIGN(const int handle, file_system_.open(path(), options));
    return pin(insert(key, handle));
  }
  // Closes the file of `key`: now, or when its last pin goes. It may be acquired anew at once.
  void drop(uint64_t key);

  size_t open_files() const { return entries_.size(); }

 private:
  Entry& insert(uint64_t key, int handle);
  Pin pin(Entry& entry);
  void unpin(Entry& entry);
  void close_idle();

  FileSystem& file_system_;
  const size_t open_files_max_;
  std::unordered_map<uint64_t, Entry*> entries_;
  std::list<Entry*> idle_;  // without pins, most recently used first
  uint64_t dropped_ = 0;    // entries out of the map that pins still hold
};

}  // namespace squall
