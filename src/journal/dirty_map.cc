#include "journal/dirty_map.h"

namespace squall {

using journal_format::RecordType;

DirtyMap::Iterator DirtyMap::add(uint64_t begin, const Entry& entry) {
  if (entry.place.file != nullptr) ++entry.place.file->live;
  if (!entry.zero) count_added(entry.end - begin);
  return entries_.emplace(begin, entry).first;
}

DirtyMap::Iterator DirtyMap::drop(Iterator it) {
  JournalFile* file = it->second.place.file;
  if (file != nullptr) {
    CHECK(file->live > 0);
    --file->live;
  }
  if (!it->second.zero) count_removed(it->second.end - it->first);
  return entries_.erase(it);
}

// No entry crosses `at` afterwards.
void DirtyMap::split_at(uint64_t at) {
  auto it = entries_.lower_bound(at);
  if (it == entries_.begin()) return;
  --it;
  if (it->second.end <= at) return;
  Entry tail = it->second;
  if (!tail.zero) tail.place.position += at - it->first;
  if (!tail.zero) count_removed(tail.end - at);
  it->second.end = at;
  add(at, tail);
}

void DirtyMap::insert(const JournalRecord& record, JournalPlace place) {
  const uint64_t begin = record.offset;
  const uint64_t end = record.offset + record.length;
  if (begin == end) return;
  split_at(begin);
  split_at(end);
  const bool zero = record.type == RecordType::kZero;
  auto put = [&](uint64_t from, uint64_t to) {
    JournalPlace at = place;
    if (!zero) at.position += from - begin;
    add(from, {to, record.sequence, zero, at});
  };
  uint64_t at = begin;  // what lies below is settled
  for (auto it = entries_.lower_bound(begin); it != entries_.end() && it->first < end;) {
    if (it->second.sequence > record.sequence) {
      if (it->first > at) put(at, it->first);
      at = it->second.end;
      ++it;
    } else {
      it = drop(it);
    }
  }
  if (at < end) put(at, end);
}

void DirtyMap::relocate(const JournalRecord& record, JournalPlace place) {
  const uint64_t end = record.offset + record.length;
  for (auto it = entries_.lower_bound(record.offset); it != entries_.end() && it->first < end;
       ++it) {
    Entry& entry = it->second;
    if (entry.sequence != record.sequence) continue;
    CHECK(entry.place.file != nullptr);
    --entry.place.file->live;
    ++place.file->live;
    entry.place = place;
    if (!entry.zero) entry.place.position += it->first - record.offset;
  }
}

bool DirtyMap::refers_to(const JournalRecord& record) const {
  const uint64_t end = record.offset + record.length;
  for (auto it = entries_.lower_bound(record.offset); it != entries_.end() && it->first < end; ++it)
    if (it->second.sequence == record.sequence) return true;
  return false;
}

void DirtyMap::merge_under(DirtyMap& older) {
  for (const auto& [begin, entry] : older.entries_) {
    std::vector<std::pair<uint64_t, uint64_t>> gaps;
    visit(begin, entry.end, [&](const Piece& piece) {
      if (piece.entry == nullptr) gaps.emplace_back(piece.begin, piece.end);
    });
    for (const auto& [from, to] : gaps) {
      Entry part = entry;
      part.end = to;
      if (!part.zero) part.place.position += from - begin;
      add(from, part);
    }
  }
  older.clear();
}

void DirtyMap::erase(uint64_t begin, uint64_t end) {
  if (begin >= end) return;
  split_at(begin);
  split_at(end);
  for (auto it = entries_.lower_bound(begin); it != entries_.end() && it->first < end;)
    it = drop(it);
}

void DirtyMap::clear() {
  for (auto it = entries_.begin(); it != entries_.end();) it = drop(it);
}

}  // namespace squall
