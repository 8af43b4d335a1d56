// DiskImage: the bytes and names of a simulated disk, each twice: as the running system sees them
// (live: page cache and directory cache) and as the medium holds them (durable), with the ordered
// changes between the two. A plain value; copying is cheap. Knows nothing of faults, handles or
// time: those are DiskCore's.
//
// A file has at most one name (there are no hard links), so a name change is "this inode now has
// that place, or none". Inode numbers are never reused.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/random.h"
#include "sim/cow_bytes.h"
#include "sim/loss_policy.h"

namespace squall::sim {

using InodeId = uint64_t;
constexpr InodeId kRootInode = 1;

struct Place {
  InodeId directory = 0;
  std::string name;
  auto operator<=>(const Place&) const = default;
};

// Which inode has which place.
class NameTable {
 public:
  std::optional<InodeId> find(const Place& place) const;
  const Place* place_of(InodeId inode) const;  // null: it has no name
  // Moves `inode` to `place` (or nowhere); whoever was there has no name afterwards.
  void set(InodeId inode, const std::optional<Place>& place);
  std::vector<std::string> list(InodeId directory) const;
  const std::map<Place, InodeId>& all() const { return by_place_; }

 private:
  std::map<Place, InodeId> by_place_;
  std::map<InodeId, Place> by_inode_;
};

class DiskImage {
 public:
  DiskImage();

  // Names, live.
  const NameTable& names() const { return live_names_; }
  bool contains(InodeId inode) const { return inodes_.contains(inode); }
  bool is_directory(InodeId inode) const { return inodes_.at(inode).is_directory; }
  std::string path_of(InodeId inode) const;  // empty when it has no name
  InodeId create(const Place& place, bool is_directory);
  void move(InodeId inode, const std::optional<Place>& to);  // nullopt: remove
  // Makes every change of names in `directory` durable, and those that they depend on.
  void sync_names(InodeId directory);
  // Drops inodes that no name, live or durable, and no unsynced change refers to.
  void collect(const std::function<bool(InodeId)>& is_open);

  // Content.
  const CowBytes& content(InodeId inode) const { return inodes_.at(inode).live; }
  uint64_t allocated_bytes(const std::function<bool(InodeId)>& counts) const;
  void write(InodeId inode, uint64_t offset, ConstBytes from);
  void truncate(InodeId inode, uint64_t size);
  void punch(InodeId inode, uint64_t offset, uint64_t length);
  void allocate(InodeId inode, uint64_t size);
  // Flips bits in the running system's copy and on the medium.
  void rot(InodeId inode, uint64_t offset, std::byte mask);
  // Makes the changes up to and including number `last_sequence` durable; later ones in order up
  // to a random one, since a sync may or may not see what runs beside it.
  void sync(InodeId inode, uint64_t last_sequence, Random& random);
  // What Linux does after a failed writeback: each unsynced change has reached the medium or not,
  // and none is tried again. With `evict` the running system forgets the lost ones too.
  void drop_unsynced(InodeId inode, bool evict, Random& random);

  uint64_t last_sequence() const { return last_sequence_; }
  uint64_t unsynced_changes() const;
  // What is there after a power cut.
  void lose(const LossPolicy& policy);
  // A hash of names and contents, live and durable.
  uint64_t fingerprint() const;

 private:
  struct DataChange {
    enum class Kind : uint8_t { kWrite, kTruncate, kPunch, kAllocate };
    uint64_t sequence = 0;
    Kind kind = Kind::kWrite;
    uint64_t offset = 0;
    uint64_t length = 0;                                 // of kTruncate and kAllocate: the size
    std::shared_ptr<const std::vector<std::byte>> data;  // of kWrite; null: zeros

    void apply(CowBytes& to) const;
    // A write's sectors from `first` on, `count` of them.
    void apply_sectors(CowBytes& to, uint64_t first, uint64_t count) const;
    uint64_t sectors() const;
  };
  struct NameChange {
    uint64_t sequence = 0;
    InodeId inode = 0;
    std::optional<Place> from, to;

    bool touches(InodeId directory) const;
    bool shares_name_with(const NameChange& other) const;
  };
  struct Inode {
    bool is_directory = false;
    CowBytes live;
    CowBytes durable;
    std::vector<DataChange> unsynced;
  };
  struct Fate {
    bool kept = true;
    Tear tear = Tear::kNone;
  };
  using Fates = std::map<uint64_t, Fate>;  // by sequence

  void change(InodeId inode, DataChange data_change);
  Fates decide(const LossPolicy& policy, Random& random) const;
  void respect_name_order(LossPolicy::Kind kind, Fates& fates) const;
  static void apply_torn(const DataChange& change, Tear tear, CowBytes& to, Random& random);
  void drop_unreachable();

  std::map<InodeId, Inode> inodes_;
  NameTable live_names_;
  NameTable durable_names_;
  std::vector<NameChange> name_changes_;  // unsynced, in order
  InodeId last_inode_ = kRootInode;
  uint64_t last_sequence_ = 0;
};

}  // namespace squall::sim
