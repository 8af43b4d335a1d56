// The pure half of an index update: a leaf's extents with updates applied. Internal to index/.
#pragma once

#include <span>
#include <vector>

#include "index/block_index.h"

namespace squall::internal {

// `updates` in the form index_update takes, clipped here to the leaf at `first_block`. Extents that
// lie contiguously in one chunk come out as one.
std::vector<PageExtent> merge_leaf(const std::vector<PageExtent>& old, uint64_t first_block,
                                   std::span<const BlockRun> updates);

}  // namespace squall::internal
