#include "pool/marks.h"

#include <gtest/gtest.h>

#include "pool/epochs.h"
#include "pool/pool_test_util.h"

namespace squall {
namespace {

constexpr SegmentId kSegment = 7;

// Records of given sectors, one behind the other from the segment's first place on.
class Footer {
 public:
  Footer() { footer_.trailer.segment = kSegment; }
  Address chunk(uint16_t sectors, uint32_t blocks) {
    return add(sectors, RecordKind::kChunk, blocks * 4096);
  }
  Address page(uint16_t sectors) { return add(sectors, RecordKind::kPage, 5000); }
  void gap(uint32_t sectors) { next_ += sectors; }
  SegmentFooter finish() {
    footer_.trailer.footer_offset = round_up(next_ * kSectorBytes, 4096);
    footer_.trailer.footer_bytes = 4096;
    return footer_;
  }

 private:
  Address add(uint16_t sectors, RecordKind kind, uint32_t raw_bytes) {
    footer_.records.push_back(
        {.sector = next_, .sectors = sectors, .kind = kind, .raw_bytes = raw_bytes});
    const Address address = Address::make(kSegment, next_, sectors);
    next_ += sectors;
    return address;
  }
  SegmentFooter footer_;
  uint32_t next_ = kSegmentHeaderBytes / kSectorBytes;
};

Marks make_marks(Footer& footer) {
  Marks marks([](SegmentId id) { return id == kSegment + 1; });
  marks.add_segment(footer.finish());
  return marks;
}

TEST(Marks, CountBlocksAndPagesOnce) {
  Footer footer;
  const Address a = footer.chunk(33, 4);
  const Address page = footer.page(9);
  const Address b = footer.chunk(128, 16);
  Marks marks = make_marks(footer);
  EXPECT_TRUE(marks.mark_blocks(a, 1, 2));
  EXPECT_TRUE(marks.mark_blocks(a, 2, 1));
  EXPECT_TRUE(*marks.mark_page(page));
  EXPECT_FALSE(*marks.mark_page(page));
  EXPECT_TRUE(marks.is_live(a));
  EXPECT_TRUE(marks.is_live(page));
  EXPECT_FALSE(marks.is_live(b));
  const SegmentMarks& segment = marks.segments().at(kSegment);
  EXPECT_EQ(segment.live(0), 0b0110);
  EXPECT_EQ(segment.live_bytes(0), 33u * 512 / 2);
  EXPECT_EQ(segment.totals().records, 2u);
  EXPECT_EQ(segment.totals().stored_bytes, (33u + 9) * 512);
  marks.mark_whole(b);
  EXPECT_TRUE(marks.is_live(b));
  EXPECT_EQ(segment.live(2), 0xffff);
}

TEST(Marks, ReferencesToWhatIsNotThereAreDamage) {
  Footer footer;
  const Address chunk = footer.chunk(33, 4);
  const Address page = footer.page(9);
  Marks marks = make_marks(footer);
  EXPECT_FALSE(marks.mark_page(chunk));
  EXPECT_FALSE(marks.mark_blocks(page, 0, 1));
  EXPECT_FALSE(marks.mark_blocks(chunk, 3, 2)) << "beyond the chunk's blocks";
  EXPECT_FALSE(marks.mark_blocks(Address::make(kSegment, chunk.sector(), 32), 0, 1));
  EXPECT_FALSE(marks.mark_blocks(Address::make(kSegment, chunk.sector() + 1, 33), 0, 1));
  EXPECT_FALSE(marks.mark_blocks(Address::make(99, 8, 33), 0, 1)) << "no such segment";
  // A segment that is not part of the set is not looked into.
  EXPECT_TRUE(marks.mark_blocks(Address::make(kSegment + 1, 8, 33), 0, 1));
  EXPECT_TRUE(*marks.mark_page(Address::make(kSegment + 1, 8, 9)));
  EXPECT_FALSE(*marks.mark_page(Address::make(kSegment + 1, 8, 9)));
  EXPECT_TRUE(marks.is_live(Address::make(kSegment + 1, 8, 9)));
  EXPECT_EQ(marks.segments().at(kSegment).totals().records, 0u);
}

TEST(SegmentMarks, DeadRangesJoinNeighboursAndGapsAndKeepWholeBlocksOfTheLiving) {
  Footer footer;
  footer.chunk(8, 1);                     // from 4096: dead, and so is what follows
  footer.chunk(13, 1);                    // to 14848
  const Address a = footer.chunk(16, 2);  // to 23040
  footer.chunk(12, 1);                    // to 29184: dead, one aligned block within
  const Address b = footer.chunk(1, 1);   // to 29696
  footer.chunk(7, 1);                     // to 33280: dead, no aligned block within
  const Address c = footer.chunk(1, 1);   // to 33792
  footer.gap(8);
  footer.chunk(40, 5);  // dead to the footer
  Marks marks = make_marks(footer);
  for (const Address live : {a, b, c}) marks.mark_whole(live);
  const SegmentMarks& segment = marks.segments().at(kSegment);
  const std::vector<ByteRange> expected{
      {4096, 12288}, {24576, 28672}, {36864, segment.footer_offset()}};
  EXPECT_EQ(segment.dead_ranges(), expected);
}

TEST(SegmentMarks, NothingDeadNothingToPunch) {
  Footer footer;
  const Address a = footer.chunk(30, 4);
  footer.gap(50);
  const Address b = footer.chunk(30, 4);
  Marks marks = make_marks(footer);
  marks.mark_whole(a);
  marks.mark_whole(b);
  EXPECT_TRUE(marks.segments().at(kSegment).dead_ranges().empty());
}

TEST(Epochs, ABarrierWaitsForPassesTakenBeforeItOnly) {
  PostReactor reactor;
  Epochs epochs;
  const bool never = false;
  std::optional<Epochs::Pass> before = epochs.enter();
  bool passed = false;
  spawn([](Epochs& epochs, Reactor& reactor, const bool& never, bool& passed) -> Task<void> {
    co_await epochs.barrier(reactor, never);
    passed = true;
  }(epochs, reactor, never, passed));
  const Epochs::Pass after = epochs.enter();
  while (reactor.run_once()) {
  }
  EXPECT_FALSE(passed);
  before.reset();
  while (reactor.run_once()) {
  }
  EXPECT_TRUE(passed);
}

TEST(Epochs, AnAbandonedBarrierDoesNotLetTheNextOnePassTooEarly) {
  PostReactor reactor;
  Epochs epochs;
  bool abandoned = false;
  int passed = 0;
  auto wait = [](Epochs& epochs, Reactor& reactor, const bool& abandoned,
                 int& passed) -> Task<void> {
    co_await epochs.barrier(reactor, abandoned);
    ++passed;
  };
  std::optional<Epochs::Pass> first = epochs.enter();
  spawn(wait(epochs, reactor, abandoned, passed));
  abandoned = true;
  epochs.wake();
  while (reactor.run_once()) {
  }
  EXPECT_EQ(passed, 1);
  abandoned = false;
  std::optional<Epochs::Pass> second = epochs.enter();
  spawn(wait(epochs, reactor, abandoned, passed));
  second.reset();
  while (reactor.run_once()) {
  }
  EXPECT_EQ(passed, 1) << "the first pass is still out";
  first.reset();
  while (reactor.run_once()) {
  }
  EXPECT_EQ(passed, 2);
}

}  // namespace
}  // namespace squall
