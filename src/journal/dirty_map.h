// DirtyMap: what of a volume lies in the journal and not yet in the pool: byte ranges, each with
// the place of its newest content or marked zero. Pure bookkeeping; keeps JournalFile::live (one
// count per entry) but does no I/O. One reactor's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>

#include "base/check.h"
#include "journal/journal.h"

namespace squall {

class DirtyMap {
 public:
  struct Entry {
    uint64_t end = 0;
    uint64_t sequence = 0;
    bool zero = false;
    JournalPlace place;  // of the range's first byte
  };
  // A piece of a range: entry == nullptr where the map says nothing. `skip` is how far into the
  // entry the piece begins.
  struct Piece {
    uint64_t begin = 0;
    uint64_t end = 0;
    const Entry* entry = nullptr;
    uint64_t skip = 0;
  };

  DirtyMap() = default;
  DirtyMap(DirtyMap&& other) noexcept { swap(other); }
  DirtyMap& operator=(DirtyMap&& other) noexcept {
    swap(other);
    return *this;
  }
  ~DirtyMap() { clear(); }

  // The record's range becomes the newest content there, except where something newer already is.
  void insert(const JournalRecord& record, JournalPlace place);
  // Where the map still points at this very record, it points at `place` from now on.
  void relocate(const JournalRecord& record, JournalPlace place);
  // Whether any of the record's content is still the newest.
  bool refers_to(const JournalRecord& record) const;
  // Takes over what `older` has where this map has nothing; `older` is empty afterwards.
  void merge_under(DirtyMap& older);
  // Forgets [begin, end).
  void erase(uint64_t begin, uint64_t end);
  void clear();

  // The pieces of [begin, end) in order, without gaps. `visit` must not change the map.
  template <class Visit>
  void visit(uint64_t begin, uint64_t end, Visit&& visit) const;

  bool empty() const { return entries_.empty(); }
  size_t size() const { return entries_.size(); }
  // Bytes that wait in the journal (zero ranges cost nothing).
  uint64_t data_bytes() const { return data_bytes_; }
  const std::map<uint64_t, Entry>& entries() const { return entries_; }
  // Every change of data_bytes() is from now on also made to `total`, which outlives the map.
  void count_in(uint64_t* total) {
    CHECK(total_ == nullptr);
    total_ = total;
    if (total_ != nullptr) *total_ += data_bytes_;
  }
  void swap(DirtyMap& other) noexcept {
    entries_.swap(other.entries_);
    std::swap(data_bytes_, other.data_bytes_);
    std::swap(total_, other.total_);
  }

 private:
  using Iterator = std::map<uint64_t, Entry>::iterator;
  void split_at(uint64_t at);
  Iterator add(uint64_t begin, const Entry& entry);
  Iterator drop(Iterator it);
  void count_added(uint64_t bytes) {
    data_bytes_ += bytes;
    if (total_ != nullptr) *total_ += bytes;
  }
  void count_removed(uint64_t bytes) {
    data_bytes_ -= bytes;
    if (total_ != nullptr) *total_ -= bytes;
  }

  std::map<uint64_t, Entry> entries_;  // by first byte; never overlapping
  uint64_t data_bytes_ = 0;
  uint64_t* total_ = nullptr;  // of all maps that count in it
};

template <class Visit>
void DirtyMap::visit(uint64_t begin, uint64_t end, Visit&& visit) const {
  if (begin >= end) return;
  auto it = entries_.upper_bound(begin);
  if (it != entries_.begin() && std::prev(it)->second.end > begin) --it;
  uint64_t at = begin;
  for (; it != entries_.end() && it->first < end; ++it) {
    if (it->first > at) visit(Piece{at, it->first, nullptr, 0});
    const uint64_t from = std::max(at, it->first);
    const uint64_t to = std::min(end, it->second.end);
    visit(Piece{from, to, &it->second, from - it->first});
    at = to;
  }
  if (at < end) visit(Piece{at, end, nullptr, 0});
}

}  // namespace squall
