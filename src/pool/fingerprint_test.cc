// Fingerprints in footers: what a writer leaves, and what a scan finds again when it is gone.
#include "pool/fingerprint.h"

#include "pool/pool_test_util.h"
#include "pool/segment_reader.h"

namespace squall::testing {
namespace {

std::string hex(const Fingerprint& fingerprint) {
  std::string text;
  for (const std::byte byte : fingerprint)
    text += fmt::format("{:02x}", std::to_integer<unsigned>(byte));
  return text;
}

TEST(Fingerprinter, IsTheBeginningOfSha256) {
  Fingerprinter fingerprinter;
  std::vector<std::byte> block(kBlockBytes);
  EXPECT_EQ(hex(fingerprinter(block)), "ad7facb2586fc6e966c004d7d1d16b024f5805ff");
  std::fill(block.begin(), block.end(), std::byte{'a'});
  EXPECT_EQ(hex(fingerprinter(block)), "c93eee2d0db02f10acc7460d9576e122dcf8cd53");
}

TEST(Fingerprinter, OnlyWholeBlocks) {
  Fingerprinter fingerprinter;
  std::vector<Fingerprint> all;
  const auto payload = make_payload(3 * kBlockBytes + 100, 1);
  fingerprinter.append(payload, all);
  ASSERT_EQ(all.size(), 3);
  EXPECT_EQ(all[2], fingerprinter(ConstBytes(payload).subspan(2 * kBlockBytes, kBlockBytes)));
}

class FooterTest : public PoolTest {
 protected:
  Result<SegmentFooter> footer(SegmentId id) {
    const uint64_t bytes = segments_.content(id).size();
    TRY_ASSIGN(const SegmentTrailer trailer,
               run(read_segment_trailer(segments_, config().id, id, bytes)));
    return run(read_segment_footer(segments_, trailer));
  }
  Result<SegmentScan> scan(SegmentId id) {
    return run(scan_segment(segments_, config().id, id, segments_.content(id).size(),
                            [] { return false; }));
  }
};

TEST_F(FooterTest, AScanFindsRecordsAndFingerprintsAndSeals) {
  open();
  const auto chunk = make_payload(3 * kBlockBytes, 1), odd = make_payload(5000, 2);
  const auto first = append(chunk), page = append(chunk, RecordKind::kPage), third = append(odd);
  ASSERT_TRUE(first && page && third);
  stop();
  const SegmentId id = first->segment();
  const auto scanned = scan(id);
  ASSERT_TRUE(scanned) << scanned.error().message();
  ASSERT_EQ(scanned->records.size(), 3);
  EXPECT_EQ(scanned->records[0].fingerprints, 3);
  EXPECT_EQ(scanned->records[1].fingerprints, 0) << "pages have none";
  EXPECT_EQ(scanned->records[2].first_fingerprint, 3);
  EXPECT_EQ(scanned->records[2].fingerprints, 1);
  Fingerprinter fingerprinter;
  std::vector<Fingerprint> expected;
  fingerprinter.append(chunk, expected);
  fingerprinter.append(odd, expected);
  EXPECT_EQ(scanned->fingerprints, expected);

  ASSERT_TRUE(run(seal_segment(segments_, config().id, id, *scanned)));
  const auto sealed = footer(id);
  ASSERT_TRUE(sealed) << sealed.error().message();
  EXPECT_EQ(sealed->records, scanned->records);
  EXPECT_EQ(sealed->fingerprints, expected);
}

}  // namespace
}  // namespace squall::testing
