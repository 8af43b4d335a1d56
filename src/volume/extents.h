// Small helpers on lists of DiskExtent.
#pragma once

#include <vector>

#include "volume/disk.h"

namespace squall {

// Adds a run behind the last one, merging where they are alike.
inline void append_extent(std::vector<DiskExtent>& extents, uint64_t length, bool hole, bool zero) {
  if (length == 0) return;
  if (!extents.empty() && extents.back().hole == hole && extents.back().zero == zero) {
    extents.back().length += length;
  } else {
    extents.push_back({length, hole, zero});
  }
}

// Cuts the list to at most `max_extents` runs.
inline void limit_extents(std::vector<DiskExtent>& extents, size_t max_extents) {
  if (extents.size() > max_extents) extents.resize(max_extents);
}

// Fills the zero runs' bytes: turns the bytes of a sparse read into those of a plain one.
inline void fill_zero_extents(const std::vector<DiskExtent>& extents, Bytes to) {
  size_t at = 0;
  for (const DiskExtent& extent : extents) {
    if (extent.zero) std::memset(to.data() + at, 0, extent.length);
    at += extent.length;
  }
}

}  // namespace squall
