// LossPolicy: what a simulated power cut does to the changes that no sync had made durable.
//
// The unsynced changes of a disk (data writes, truncates, punches, and changes of names) are
// numbered from 0 in the order in which they took effect; SimDisk::unsynced_writes() says how many
// there are, so that a test can try each one. A disk's own order of writing is free, so every
// subset of them may be what survives. Two rules keep a result one that a journaling file system
// could give: changes of one name survive in order (without the first, the later ones are lost
// too; keep_one keeps those before it), and a sector of 512 bytes is old or new, never a mixture.
#pragma once

#include <cstdint>

namespace squall::sim {

constexpr uint64_t kSectorSize = 512;

// How much of a torn write reaches the disk.
enum class Tear : uint8_t {
  kNone,
  kPrefix,  // its first sectors
  kSubset,  // some of its sectors
};

struct LossPolicy {
  enum class Kind : uint8_t { kKeepAll, kLoseAll, kLoseOne, kKeepOne, kRandom };

  Kind kind = Kind::kLoseAll;
  uint64_t index = 0;             // of kLoseOne and kKeepOne
  uint64_t seed = 0;              // of kRandom and of tears
  double keep_probability = 0.5;  // of kRandom, for each change
  // The last unsynced write survives in part, whatever the policy says of it; with kRandom every
  // surviving write may.
  Tear tear = Tear::kNone;

  static LossPolicy keep_all() { return {.kind = Kind::kKeepAll}; }
  static LossPolicy lose_all() { return {.kind = Kind::kLoseAll}; }
  static LossPolicy lose_one(uint64_t index) { return {.kind = Kind::kLoseOne, .index = index}; }
  static LossPolicy keep_one(uint64_t index) { return {.kind = Kind::kKeepOne, .index = index}; }
  static LossPolicy random(uint64_t seed) { return {.kind = Kind::kRandom, .seed = seed}; }
  LossPolicy torn(Tear how, uint64_t tear_seed) const {
    LossPolicy policy = *this;
    policy.tear = how;
    policy.seed = tear_seed;
    return policy;
  }
};

}  // namespace squall::sim
