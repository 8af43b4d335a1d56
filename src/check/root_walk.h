// Walking block indexes as a check does: reads every page itself, past the caches, and goes on
// behind damage. Two walks: RootMarker collects what all roots need of the pool's segments;
// DamageFinder tells, once some records are known to be bad, which blocks of a root they hit.
// Pages that several roots share are read once by each. One reactor's thread; the SegmentChecker
// outlives them.
#pragma once

#include <unordered_map>
#include <vector>

#include "index/block_index.h"
#include "pool/segment_check.h"

namespace squall {

using UsesBySegment = std::unordered_map<SegmentId, std::vector<RecordUse>>;

// Why a record is of no use.
struct BadRecord {
  std::string problem;
  uint64_t good_blocks = 0;  // uses that need no more of it than this are served
  bool is_page = false;
};
using BadRecords = std::unordered_map<Address, BadRecord>;

// Pages, each with the place in a tree where it was found good: nowhere else may it serve.
using PagePlaces = std::unordered_map<Address, uint64_t>;

class RootMarker {
 public:
  explicit RootMarker(SegmentChecker& reader) : reader_(reader) {}

  // Adds what `root` needs. Pages that are damaged go to bad(); what lies below them is not seen.
  // kCancelled.
  Task<Result<void>> mark(IndexRoot root);

  uint64_t pages() const { return seen_.size(); }
  UsesBySegment take_uses() { return std::move(uses_); }
  BadRecords take_bad() { return std::move(bad_); }

 private:
  struct Page;
  Task<Result<void>> visit(std::vector<Page> pages);
  void visit_content(const Page& page, std::vector<Page>& below);
  void use(Address address, RecordKind kind, uint64_t blocks);

  SegmentChecker& reader_;
  bool is_new(Address page, unsigned level, uint64_t first_block);
  PagePlaces seen_;
  UsesBySegment uses_;
  BadRecords bad_;
};

class DamageFinder {
 public:
  // Blocks of a root that a bad record hits.
  struct Hit {
    Address record;
    uint64_t first_block = 0;
    uint64_t count = 0;
  };

  // Pages that turn out to be damaged on the way are added to `bad`, which outlives it.
  DamageFinder(SegmentChecker& reader, BadRecords& bad) : reader_(reader), bad_(bad) {}

  // In the order of blocks. kCancelled.
  Task<Result<std::vector<Hit>>> find(IndexRoot root);

 private:
  using Hits = std::vector<Hit>;
  Task<Result<Hits>> visit(Address address, unsigned level, uint64_t first_block);

  SegmentChecker& reader_;
  BadRecords& bad_;
  PagePlaces clean_;                             // pages without hits below
  std::unordered_map<Address, Hits> with_hits_;  // pages with
};

}  // namespace squall
