#include "sim/disk_image.h"

#include <algorithm>
#include <set>

#include "base/check.h"
#include "base/hash.h"

namespace squall::sim {

std::optional<InodeId> NameTable::find(const Place& place) const {
  const auto found = by_place_.find(place);
  if (found == by_place_.end()) return std::nullopt;
  return found->second;
}

const Place* NameTable::place_of(InodeId inode) const {
  const auto found = by_inode_.find(inode);
  return found == by_inode_.end() ? nullptr : &found->second;
}

void NameTable::set(InodeId inode, const std::optional<Place>& place) {
  if (const auto old = by_inode_.find(inode); old != by_inode_.end()) {
    by_place_.erase(old->second);
    by_inode_.erase(old);
  }
  if (!place) return;
  if (const auto displaced = by_place_.find(*place); displaced != by_place_.end()) {
    by_inode_.erase(displaced->second);
    by_place_.erase(displaced);
  }
  by_place_.emplace(*place, inode);
  by_inode_.emplace(inode, *place);
}

std::vector<std::string> NameTable::list(InodeId directory) const {
  std::vector<std::string> names;
  for (auto it = by_place_.lower_bound({directory, ""});
       it != by_place_.end() && it->first.directory == directory; ++it) {
    names.push_back(it->first.name);
  }
  return names;
}

bool DiskImage::NameChange::touches(InodeId directory) const {
  return (from && from->directory == directory) || (to && to->directory == directory);
}

bool DiskImage::NameChange::shares_name_with(const NameChange& other) const {
  const auto has = [&](const std::optional<Place>& place) {
    return place && (place == other.from || place == other.to);
  };
  return has(from) || has(to);
}

uint64_t DiskImage::DataChange::sectors() const {
  return (round_up(offset + length, kSectorSize) - round_down(offset, kSectorSize)) / kSectorSize;
}

void DiskImage::DataChange::apply(CowBytes& to) const {
  switch (kind) {
    case Kind::kWrite:
      if (data != nullptr) {
        to.write(offset, *data);
      } else {
        to.write_zeros(offset, length);
      }
      break;
    case Kind::kTruncate:
      to.resize(length);
      break;
    case Kind::kPunch:
      to.punch(offset, length);
      break;
    case Kind::kAllocate:
      to.allocate(length);
      break;
  }
}

void DiskImage::DataChange::apply_sectors(CowBytes& to, uint64_t first, uint64_t count) const {
  const uint64_t base = round_down(offset, kSectorSize) + first * kSectorSize;
  const uint64_t begin = std::max(offset, base);
  const uint64_t end = std::min(offset + length, base + count * kSectorSize);
  if (begin >= end) return;
  if (data != nullptr) {
    to.write(begin, ConstBytes(*data).subspan(begin - offset, end - begin));
  } else {
    to.write_zeros(begin, end - begin);
  }
}

DiskImage::DiskImage() {
  inodes_[kRootInode].is_directory = true;
}

std::string DiskImage::path_of(InodeId inode) const {
  if (inode == kRootInode) return "/";
  std::string path;
  while (inode != kRootInode) {
    const Place* place = live_names_.place_of(inode);
    if (place == nullptr) return "";
    path = "/" + place->name + path;
    inode = place->directory;
  }
  return path;
}

InodeId DiskImage::create(const Place& place, bool is_directory) {
  const InodeId inode = ++last_inode_;
  inodes_[inode].is_directory = is_directory;
  move(inode, place);
  return inode;
}

void DiskImage::move(InodeId inode, const std::optional<Place>& to) {
  NameChange change{.sequence = ++last_sequence_, .inode = inode, .from = {}, .to = to};
  if (const Place* from = live_names_.place_of(inode)) change.from = *from;
  live_names_.set(inode, to);
  name_changes_.push_back(std::move(change));
}

void DiskImage::sync_names(InodeId directory) {
  // A change of two directories ties the earlier changes of both: they go to the medium together.
  std::set<InodeId> directories{directory};
  std::vector<bool> durable(name_changes_.size());
  for (size_t i = name_changes_.size(); i-- > 0;) {
    const NameChange& change = name_changes_[i];
    durable[i] = std::ranges::any_of(directories, [&](InodeId one) { return change.touches(one); });
    if (!durable[i]) continue;
    if (change.from) directories.insert(change.from->directory);
    if (change.to) directories.insert(change.to->directory);
  }
  std::vector<NameChange> rest;
  for (size_t i = 0; i < name_changes_.size(); ++i) {
    if (durable[i]) {
      durable_names_.set(name_changes_[i].inode, name_changes_[i].to);
    } else {
      rest.push_back(std::move(name_changes_[i]));
    }
  }
  name_changes_ = std::move(rest);
}

void DiskImage::collect(const std::function<bool(InodeId)>& is_open) {
  std::set<InodeId> changed;
  for (const NameChange& change : name_changes_) changed.insert(change.inode);
  std::erase_if(inodes_, [&](const auto& entry) {
    const InodeId inode = entry.first;
    return inode != kRootInode && live_names_.place_of(inode) == nullptr &&
           durable_names_.place_of(inode) == nullptr && !changed.contains(inode) && !is_open(inode);
  });
}

uint64_t DiskImage::allocated_bytes(const std::function<bool(InodeId)>& counts) const {
  uint64_t total = 0;
  for (const auto& [id, inode] : inodes_) {
    if (inode.live.allocated_bytes() > 0 && counts(id)) total += inode.live.allocated_bytes();
  }
  return total;
}

void DiskImage::change(InodeId inode, DataChange data_change) {
  Inode& file = inodes_.at(inode);
  data_change.sequence = ++last_sequence_;
  data_change.apply(file.live);
  file.unsynced.push_back(std::move(data_change));
}

void DiskImage::write(InodeId inode, uint64_t offset, ConstBytes from) {
  if (from.empty()) return;
  std::shared_ptr<const std::vector<std::byte>> data;
  if (!is_zero(from)) {
    data = std::make_shared<const std::vector<std::byte>>(from.begin(), from.end());
  }
  change(inode, {.kind = DataChange::Kind::kWrite,
                 .offset = offset,
                 .length = from.size(),
                 .data = std::move(data)});
}

void DiskImage::truncate(InodeId inode, uint64_t size) {
  change(inode, {.kind = DataChange::Kind::kTruncate, .length = size, .data = {}});
}

void DiskImage::punch(InodeId inode, uint64_t offset, uint64_t length) {
  change(inode, {.kind = DataChange::Kind::kPunch, .offset = offset, .length = length, .data = {}});
}

void DiskImage::allocate(InodeId inode, uint64_t size) {
  change(inode, {.kind = DataChange::Kind::kAllocate, .length = size, .data = {}});
}

void DiskImage::rot(InodeId inode, uint64_t offset, std::byte mask) {
  Inode& file = inodes_.at(inode);
  for (CowBytes* copy : {&file.live, &file.durable}) {
    if (offset >= copy->size()) continue;
    std::byte value{};
    copy->read(offset, {&value, 1});
    value ^= mask;
    copy->write(offset, {&value, 1});
  }
}

void DiskImage::sync(InodeId inode, uint64_t last_sequence, Random& random) {
  Inode& file = inodes_.at(inode);
  auto end = std::ranges::find_if(
      file.unsynced, [&](const DataChange& change) { return change.sequence > last_sequence; });
  const auto beside = static_cast<uint64_t>(file.unsynced.end() - end);
  if (beside > 0) end += static_cast<int64_t>(random.below(beside + 1));
  for (auto it = file.unsynced.begin(); it != end; ++it) it->apply(file.durable);
  file.unsynced.erase(file.unsynced.begin(), end);
}

void DiskImage::drop_unsynced(InodeId inode, bool evict, Random& random) {
  Inode& file = inodes_.at(inode);
  for (const DataChange& change : file.unsynced) {
    if (random.chance(0.5)) change.apply(file.durable);
  }
  file.unsynced.clear();
  if (evict) file.live = file.durable;
}

uint64_t DiskImage::unsynced_changes() const {
  uint64_t count = name_changes_.size();
  for (const auto& [id, inode] : inodes_) count += inode.unsynced.size();
  return count;
}

DiskImage::Fates DiskImage::decide(const LossPolicy& policy, Random& random) const {
  Fates fates;
  std::set<uint64_t> writes;
  for (const NameChange& change : name_changes_) fates[change.sequence] = {};
  for (const auto& [id, inode] : inodes_) {
    for (const DataChange& change : inode.unsynced) {
      fates[change.sequence] = {};
      if (change.kind == DataChange::Kind::kWrite) writes.insert(change.sequence);
    }
  }
  using Kind = LossPolicy::Kind;
  uint64_t index = 0;
  for (auto& [sequence, fate] : fates) {
    const bool is_index = index++ == policy.index;
    fate.kept = policy.kind == Kind::kKeepAll || (policy.kind == Kind::kLoseOne && !is_index) ||
                (policy.kind == Kind::kKeepOne && is_index) ||
                (policy.kind == Kind::kRandom && random.chance(policy.keep_probability));
    if (policy.kind == Kind::kRandom && fate.kept && random.chance(0.5)) fate.tear = policy.tear;
  }
  if (policy.tear != Tear::kNone && !writes.empty()) {
    fates[*writes.rbegin()] = {.kept = true, .tear = policy.tear};
  }
  respect_name_order(policy.kind, fates);
  return fates;
}

void DiskImage::respect_name_order(LossPolicy::Kind kind, Fates& fates) const {
  const size_t count = name_changes_.size();
  const auto kept = [&](size_t i) -> bool& { return fates[name_changes_[i].sequence].kept; };
  if (kind == LossPolicy::Kind::kKeepOne) {
    for (size_t i = count; i-- > 0;) {
      for (size_t earlier = 0; kept(i) && earlier < i; ++earlier) {
        if (name_changes_[i].shares_name_with(name_changes_[earlier])) kept(earlier) = true;
      }
    }
    return;
  }
  for (size_t i = 0; i < count; ++i) {
    for (size_t earlier = 0; kept(i) && earlier < i; ++earlier) {
      if (!kept(earlier) && name_changes_[i].shares_name_with(name_changes_[earlier])) {
        kept(i) = false;
      }
    }
  }
}

void DiskImage::apply_torn(const DataChange& change, Tear tear, CowBytes& to, Random& random) {
  if (tear == Tear::kNone || change.kind != DataChange::Kind::kWrite) {
    change.apply(to);
    return;
  }
  const uint64_t sectors = change.sectors();
  if (tear == Tear::kPrefix) {
    change.apply_sectors(to, 0, random.below(sectors + 1));
    return;
  }
  for (uint64_t sector = 0; sector < sectors; ++sector) {
    if (random.chance(0.5)) change.apply_sectors(to, sector, 1);
  }
}

void DiskImage::lose(const LossPolicy& policy) {
  Random random(policy.seed);
  const Fates fates = decide(policy, random);
  for (const NameChange& change : name_changes_) {
    if (fates.at(change.sequence).kept) durable_names_.set(change.inode, change.to);
  }
  name_changes_.clear();
  live_names_ = durable_names_;
  for (auto& [id, inode] : inodes_) {
    for (const DataChange& change : inode.unsynced) {
      const Fate& fate = fates.at(change.sequence);
      if (fate.kept) apply_torn(change, fate.tear, inode.durable, random);
    }
    inode.unsynced.clear();
    inode.live = inode.durable;
  }
  drop_unreachable();
}

void DiskImage::drop_unreachable() {
  std::vector<InodeId> lost;
  for (const auto& [id, inode] : inodes_) {
    if (path_of(id).empty()) lost.push_back(id);
  }
  for (const InodeId inode : lost) {
    live_names_.set(inode, std::nullopt);
    inodes_.erase(inode);
  }
  durable_names_ = live_names_;
}

uint64_t DiskImage::fingerprint() const {
  uint64_t hash = 0;
  for (const NameTable* names : {&live_names_, &durable_names_}) {
    for (const auto& [place, inode] : names->all()) {
      hash = checksum(as_bytes(place.name), mix(mix(hash, place.directory), inode));
    }
  }
  std::vector<std::byte> buffer(64 * kKiB);
  for (const auto& [id, inode] : inodes_) {
    for (const CowBytes* copy : {&inode.live, &inode.durable}) {
      hash = mix(mix(hash, id), copy->size());
      for (uint64_t offset = 0; offset < copy->size(); offset += buffer.size()) {
        copy->read(offset, buffer);
        hash = checksum(buffer, hash);
      }
    }
  }
  return hash;
}

}  // namespace squall::sim
