// SegmentChecker: reads whole segments and verifies every byte of them that carries something:
// header, records (against footer, checksum and decompressed length), fingerprints, footer,
// trailer. What is below: check (all of a pool, with what the volumes need of it) and scrub.
//
// Nothing is repeated from memory: it reads through the SegmentStore, past every cache. Verifying
// runs on an executor, so that the reactor's other work is not held up by checksums. One reactor's
// thread; everything it is given outlives it; one check() at a time.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/executor.h"
#include "engine/segment_store.h"
#include "format/segment.h"
#include "pool/fingerprint.h"
#include "pool/pacer.h"
#include "pool/record_codec.h"

namespace squall {

// What an index needs of a record.
struct RecordUse {
  uint32_t sector = 0;
  uint16_t sectors = 0;
  RecordKind kind = RecordKind::kChunk;
  uint8_t blocks = 0;  // of a chunk: its payload holds at least so many 4 KiB blocks
  auto operator<=>(const RecordUse&) const = default;
};
// Each record once, in order.
void sort_uses(std::vector<RecordUse>& uses);

enum class SegmentPart : uint8_t { kHeader, kRecord, kFooter, kTrailer };

struct SegmentDamage {
  SegmentPart part = SegmentPart::kRecord;
  uint64_t offset = 0;  // bytes, within the segment
  uint64_t length = 0;
  std::string problem;
  bool is_page = false;      // records
  bool used = false;         // records: one of the uses is not served
  uint64_t good_blocks = 0;  // records that are good but shorter than a use needs: their blocks
};

struct SegmentReport {
  bool sealed = false;   // false: was open when its writer died, or is being written
  uint64_t records = 0;  // verified
  std::vector<SegmentDamage> damages;
};

// A record's decompressed payload, read from its segment and verified. kCorrupt with what is wrong.
struct VerifiedRecord {
  RecordKind kind = RecordKind::kChunk;
  std::vector<std::byte> payload;
};

class SegmentChecker {
 public:
  SegmentChecker(Reactor& reactor, Executor& executor, SegmentStore& segments, Uuid pool,
                 Pacer& pacer);

  // `uses` are sorted (sort_uses). In a sealed segment every record is verified, in another only
  // those that are used: the rest may be what a crash left of an unfinished write. A record that
  // nobody uses and that has been punched away is not damage. Errors: kCancelled only.
  Task<Result<SegmentReport>> check(SegmentInfo segment, std::vector<RecordUse> uses);
  // One record. kCorrupt, or the store's error.
  Task<Result<VerifiedRecord>> read(Address address);

 private:
  // A record to verify.
  struct Item {
    RecordEntry entry;
    bool in_footer = false;
    std::optional<RecordUse> use;
    std::string problem;  // set when it was found damaged
    uint64_t good_blocks = 0;
    bool in_footer_only = false;  // the problem lies in the footer: its fingerprints are wrong
    bool is_freed = false;
  };

  Task<Result<void>> check_parts(const SegmentInfo& segment, bool has_uses,
                                 std::optional<SegmentFooter>& footer, SegmentReport& report);
  Task<Result<void>> check_trailer(const SegmentInfo& segment,
                                   std::optional<SegmentTrailer>& trailer, SegmentReport& report);
  Task<Result<void>> check_header(const SegmentInfo& segment, bool must_be_good,
                                  SegmentReport& report);
  Task<Result<void>> check_items(const SegmentInfo& segment, const SegmentFooter* footer,
                                 std::vector<Item> items, SegmentReport& report);
  Task<Result<void>> check_window(const SegmentInfo& segment, const SegmentFooter* footer,
                                  std::span<Item> items, SegmentReport& report);
  void verify(SegmentId segment, const SegmentFooter* footer, Item& item, ConstBytes stored);
  static std::vector<Item> items_of(const SegmentFooter& footer, const std::vector<RecordUse>& uses,
                                    SegmentReport& report);

  Reactor& reactor_;
  Executor& executor_;
  SegmentStore& segments_;
  const Uuid pool_;
  const uint64_t pool_seed_;
  Pacer& pacer_;
  RecordCodec codec_;            // for read(), on the reactor
  RecordCodec executor_codec_;   // for check(), on the executor
  Fingerprinter fingerprinter_;  // the same
};

}  // namespace squall
