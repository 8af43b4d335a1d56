// How the index's algorithms get at pages. Internal to index/.
#pragma once

#include "index/block_index.h"

namespace squall::internal {

// kCorrupt when a catalog value cannot be a root.
Result<void> check_root(IndexRoot root);

// A page in memory, held while it is used.
struct HeldPage {
  PayloadRef payload;
  PageView view;
};

// Checks that `payload`, read from `address`, is the page that belongs there.
Result<HeldPage> hold_page(PayloadRef payload, Address address, unsigned level,
                           uint64_t first_block);

// From memory if it is there, else from the store.
Task<Result<HeldPage>> read_page(RecordStore& store, Address address, unsigned level,
                                 uint64_t first_block);

}  // namespace squall::internal
