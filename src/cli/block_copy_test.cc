#include "cli/block_copy.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <list>

#include "base/check.h"
#include "base/random.h"

namespace squall {
namespace {

// A disk in memory whose transfers end in random order, some polls later.
class SlowDisk : public BlockSource, public BlockSink {
 public:
  SlowDisk(uint64_t size_bytes, uint64_t seed)
      : content(size_bytes), random_(seed), event_(::eventfd(1, EFD_CLOEXEC)) {}
  ~SlowDisk() override { ::close(event_); }

  uint64_t size_bytes() const override { return content.size(); }
  Result<std::vector<DataRun>> data_runs() override { return runs; }
  Result<void> start_read(Transfer& transfer) override {
    CHECK(transfer.offset + transfer.bytes.size() <= content.size());
    waiting_.push_back({&transfer, false});
    most_in_flight = std::max(most_in_flight, waiting_.size());
    ++reads;
    return {};
  }
  Result<void> start_write(Transfer& transfer) override {
    CHECK(transfer.offset + transfer.bytes.size() <= content.size());
    written.push_back({transfer.offset, transfer.bytes.size()});
    waiting_.push_back({&transfer, true});
    return {};
  }
  Result<void> flush() override {
    ++flushes;
    return {};
  }
  std::string name() const override { return "a slow disk"; }
  PollInterest poll_interest() override { return {event_, POLLIN}; }  // always readable
  Result<void> on_poll(short) override {
    if (waiting_.empty() || random_.chance(0.5)) return {};
    auto it = std::next(waiting_.begin(), static_cast<ptrdiff_t>(random_.below(waiting_.size())));
    Transfer& transfer = *it->transfer;
    const auto place = content.begin() + static_cast<ptrdiff_t>(transfer.offset);
    if (it->is_write) {
      std::ranges::copy(transfer.bytes, place);
    } else {
      std::copy_n(place, transfer.bytes.size(), transfer.bytes.begin());
    }
    transfer.error = fail_at && *fail_at == transfer.offset ? EIO : 0;
    transfer.done = true;
    waiting_.erase(it);
    return {};
  }
  void abandon() override {
    waiting_.clear();
    abandoned = true;
  }

  std::vector<std::byte> content;
  std::vector<DataRun> runs;
  std::vector<DataRun> written;
  std::optional<uint64_t> fail_at;
  size_t reads = 0;
  size_t most_in_flight = 0;
  int flushes = 0;
  bool abandoned = false;

 private:
  struct Waiting {
    Transfer* transfer;
    bool is_write;
  };
  Random random_;
  const int event_;
  std::list<Waiting> waiting_;
};

constexpr uint64_t kDiskBytes = 80 * kMiB + 5120;

// Fills some runs with noise, some with zeros that are not known to be holes.
void fill(SlowDisk& disk, uint64_t seed) {
  Random random(seed);
  uint64_t at = 0;
  while (at < disk.size_bytes()) {
    const uint64_t length = std::min(random.between(1, 6 * kMiB), disk.size_bytes() - at);
    if (random.chance(0.6)) {
      disk.runs.push_back({at, length});
      if (random.chance(0.7)) {
        std::generate_n(disk.content.begin() + static_cast<ptrdiff_t>(at), length,
                        [&] { return static_cast<std::byte>(random()); });
      }
    }
    at += length;
  }
}

TEST(BlockCopy, CopiesEverythingOnceInAlignedUnits) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    SlowDisk source(kDiskBytes, seed);
    SlowDisk sink(kDiskBytes, seed + 100);
    fill(source, seed);
    Progress progress("copy", false);
    const auto stats = copy_blocks(source, sink, progress);
    ASSERT_TRUE(stats) << stats.error().message();
    EXPECT_TRUE(source.content == sink.content);
    EXPECT_EQ(sink.flushes, 1);
    EXPECT_EQ(source.most_in_flight, kCopyUnitsInFlight);
    std::ranges::sort(sink.written, {}, &DataRun::offset);
    for (size_t i = 0; i < sink.written.size(); ++i) {
      EXPECT_EQ(sink.written[i].offset % kCopyUnitBytes, 0u);
      if (i > 0) EXPECT_GE(sink.written[i].offset, sink.written[i - 1].offset + kCopyUnitBytes);
    }
    EXPECT_TRUE(compare_blocks(source, sink, progress));
  }
}

TEST(BlockCopy, DoesNotTouchHolesAndZeros) {
  SlowDisk source(kDiskBytes, 1);
  SlowDisk sink(kDiskBytes, 2);
  source.runs = {{3 * kMiB, 1}, {20 * kMiB, 4 * kMiB}};
  source.content[3 * kMiB] = std::byte{1};
  Progress progress("copy", false);
  ASSERT_TRUE(copy_blocks(source, sink, progress));
  EXPECT_EQ(source.reads, 3u);
  ASSERT_EQ(sink.written.size(), 1u);
  EXPECT_EQ(sink.written[0], (DataRun{2 * kMiB, kCopyUnitBytes}));
}

TEST(BlockCopy, PadsASourceThatEndsInsideASector) {
  SlowDisk source(kMiB + 100, 1);
  SlowDisk sink(kMiB + 512, 2);
  source.runs = {{0, kMiB + 100}};
  source.content.back() = std::byte{7};
  Progress progress("copy", false);
  ASSERT_TRUE(copy_blocks(source, sink, progress));
  EXPECT_EQ(sink.content[kMiB + 99], std::byte{7});
  EXPECT_EQ(sink.written.back(), (DataRun{0, kMiB + 512}));
  EXPECT_TRUE(compare_blocks(source, sink, progress));
}

TEST(BlockCopy, AFailureNamesItsPlaceAndEndsBoth) {
  SlowDisk source(kDiskBytes, 1);
  SlowDisk sink(kDiskBytes, 2);
  fill(source, 3);
  source.runs = {{0, kDiskBytes}};
  source.fail_at = 8 * kMiB;
  Progress progress("copy", false);
  const auto stats = copy_blocks(source, sink, progress);
  ASSERT_FALSE(stats);
  EXPECT_NE(stats.error().message().find("reading a slow disk at offset 8388608"),
            std::string::npos);
  EXPECT_TRUE(source.abandoned && sink.abandoned);
}

TEST(BlockCopy, CompareFindsADifferenceInAHole) {
  SlowDisk a(kDiskBytes, 1);
  SlowDisk b(kDiskBytes, 2);
  fill(a, 4);
  b.content = a.content;
  b.runs = {{0, kDiskBytes}};
  Progress progress("compare", false);
  ASSERT_TRUE(compare_blocks(a, b, progress));
  b.content[kDiskBytes - 1] ^= std::byte{1};
  const auto same = compare_blocks(a, b, progress);
  ASSERT_FALSE(same);
  EXPECT_EQ(same.error().message(),
            fmt::format("the contents differ at offset {}", kDiskBytes - 1));
}

TEST(BlockCopy, CompareWantsTheSameSize) {
  SlowDisk a(kMiB, 1);
  SlowDisk b(2 * kMiB, 2);
  Progress progress("compare", false);
  EXPECT_FALSE(compare_blocks(a, b, progress));
}

}  // namespace
}  // namespace squall
