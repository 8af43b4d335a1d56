#include "engine/handle_cache.h"

namespace squall {

HandleCache::~HandleCache() {
  CHECK(idle_.size() == entries_.size() && dropped_ == 0);
  for (auto& [key, entry] : entries_) {
    file_system_.close(entry->handle);
    delete entry;
  }
}

HandleCache::Entry& HandleCache::insert(uint64_t key, int handle) {
  auto* entry = new Entry{.key = key, .handle = handle};
  entries_.emplace(key, entry);
  idle_.push_front(entry);
  entry->idle = idle_.begin();
  return *entry;
}

HandleCache::Pin HandleCache::pin(Entry& entry) {
  if (entry.pins == 0) idle_.erase(entry.idle);
  Pin pin(this, &entry);
  close_idle();
  return pin;
}

void HandleCache::unpin(Entry& entry) {
  CHECK(entry.pins > 0);
  if (--entry.pins > 0) return;
  if (entry.dropped) {
    file_system_.close(entry.handle);
    delete &entry;
    --dropped_;
    return;
  }
  idle_.push_front(&entry);
  entry.idle = idle_.begin();
  close_idle();
}

void HandleCache::close_idle() {
  while (entries_.size() > open_files_max_ && !idle_.empty()) drop(idle_.back()->key);
}

void HandleCache::drop(uint64_t key) {
  auto found = entries_.find(key);
  if (found == entries_.end()) return;
  Entry* entry = found->second;
  entries_.erase(found);
  if (entry->pins > 0) {
    entry->dropped = true;
    ++dropped_;
    return;
  }
  idle_.erase(entry->idle);
  file_system_.close(entry->handle);
  delete entry;
}

}  // namespace squall
