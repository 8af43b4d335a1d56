// Damage: the records that a check suspects, and what becomes of them: faults, when the roots that
// the catalog holds at the end still lead to them. One reactor's thread.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "check/catalog_check.h"
#include "check/root_walk.h"

namespace squall {

using SegmentStores = std::map<SegmentId, std::string>;  // the store that a segment lies in

// "segment 5 in store default".
std::string describe_segment(SegmentId segment, const SegmentStores& stores);

class Damage {
 public:
  // A record that some index needs.
  void suspect(Address address, BadRecord why) { bad_.insert_or_assign(address, std::move(why)); }
  void suspect(BadRecords records) { bad_.merge(records); }
  // One that a segment holds and nobody was seen to need.
  void suspect_unused(Address address, std::string problem) {
    unused_.emplace_back(address, std::move(problem));
  }
  // Takes in what a check of one segment has found. What is damaged beside its records is returned:
  // the one thing that needs no confirmation.
  std::vector<Fault> note(const SegmentInfo& segment, const SegmentReport& report,
                          const SegmentStores& stores);
  uint64_t suspects() const { return bad_.size(); }

  // Walks the present roots, if there is anything to confirm. Errors: kCancelled, the catalog's.
  Task<Result<std::vector<Fault>>> confirm(MetaStore& catalog, SegmentChecker& checker,
                                           const std::set<std::string>& store_names,
                                           const SegmentStores& stores);

 private:
  Task<Result<void>> find_hits(MetaStore& catalog, DamageFinder& finder, CatalogRoot root);
  void add_hits(const CatalogRoot& root, const std::vector<DamageFinder::Hit>& hits);
  std::vector<Fault> faults_of_used(const SegmentStores& stores) const;
  Task<Result<void>> add_unused(SegmentChecker& checker, const SegmentStores& stores,
                                std::vector<Fault>& faults) const;

  BadRecords bad_;
  std::vector<std::pair<Address, std::string>> unused_;
  struct Affected {
    std::vector<AffectedRange> ranges;
    uint64_t left_out = 0;
  };
  std::map<Address, Affected> hits_;
};

}  // namespace squall
