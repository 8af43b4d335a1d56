#include "volume/import_disk.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "base/random.h"
#include "io/run_task.h"
#include "sim/sim_reactor.h"
#include "testing/memory_record_store.h"
#include "volume/base_reader.h"

namespace squall {
namespace {

using Content = std::vector<std::byte>;

struct Import {
  explicit Import(uint64_t size) : disk(records, size, {}, true) {}
  template <class T>
  T run(Task<T> task) {
    return run_task(reactor, std::move(task));
  }
  Content image(IndexRoot root) {
    RootPins pins;
    SnapshotDisk snapshot(reactor, records, pins, root, disk.size_bytes());
    Content got(disk.size_bytes(), std::byte{0xee});
    EXPECT_TRUE(run(snapshot.read(0, got)));
    return got;
  }

  sim::SimDisk storage{1};
  sim::SimReactor reactor{1, storage};
  MemoryRecordStore records{reactor, {}};
  ImportDisk disk;
};

TEST(ImportDisk, BlocksInAnyOrderManyAtOnceMakeTheImage) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    const uint64_t size = random.between(1, 9000) * 512;
    Import import(size);
    Content image(size);
    std::vector<std::pair<uint64_t, uint64_t>> pieces;
    for (uint64_t at = 0; at < size;) {
      const uint64_t length = std::min(random.between(1, 60) * kBlockBytes, size - at);
      if (random.chance(0.8)) pieces.emplace_back(at, length);
      at += length;
    }
    std::ranges::shuffle(pieces, random);
    int pending = 0;
    for (const auto& [at, length] : pieces) {
      for (uint64_t i = 0; i < length; ++i)
        if (i / kBlockBytes % 3 != 0)
          image[at + i] = static_cast<std::byte>(1 + (at + i) / kBlockBytes % 255);
      ++pending;
      spawn(import.disk.write(at, ConstBytes(image).subspan(at, length), false),
            [&](const Result<void>& done) {
              EXPECT_TRUE(done);
              --pending;
            });
    }
    run_until(import.reactor, [&] { return pending == 0; });
    Content got(size, std::byte{0xee});
    ASSERT_TRUE(import.run(import.disk.read(0, got)));
    ASSERT_TRUE(got == image) << "the session's own view";
    const auto root = import.run(import.disk.finish());
    ASSERT_TRUE(root) << root.error().message();
    ASSERT_TRUE(import.image(*root) == image);
  }
}

TEST(ImportDisk, WhatItCannotTakeItRefuses) {
  Import import(10 * kBlockBytes + 512);
  const Content data(2 * kBlockBytes, std::byte{1});
  EXPECT_FALSE(import.run(import.disk.write(512, data, false)));
  EXPECT_FALSE(import.run(import.disk.write(0, ConstBytes(data).first(512), false)));
  EXPECT_FALSE(import.run(import.disk.write(10 * kBlockBytes, data, false)));
  ASSERT_TRUE(import.run(import.disk.write(2 * kBlockBytes, data, false)));
  EXPECT_FALSE(import.run(import.disk.write(3 * kBlockBytes, data, false))) << "written before";
  EXPECT_FALSE(import.run(import.disk.zero(3 * kBlockBytes, kBlockBytes, false)));
  EXPECT_TRUE(import.run(import.disk.zero(4 * kBlockBytes, kBlockBytes, false)));
  EXPECT_TRUE(import.run(import.disk.write(10 * kBlockBytes, ConstBytes(data).first(512), false)))
      << "the last block may be cut short";
  const auto root = import.run(import.disk.finish());
  ASSERT_TRUE(root);
  EXPECT_FALSE(import.run(import.disk.write(0, data, false))) << "the session has ended";
}

TEST(ImportDisk, AFailingPoolFailsTheImport) {
  for (uint64_t n = 1; n < 12; ++n) {
    Import import(64 * kBlockBytes);
    import.records.fail_call(n);
    bool good = true;
    for (uint64_t at = 0; at < 64 && good; at += 16) {
      const Content data(16 * kBlockBytes, std::byte{1});
      good = import.run(import.disk.write(at * kBlockBytes, data, false)).has_value();
    }
    const auto root = import.run(import.disk.finish());
    if (import.records.has_failed()) {
      EXPECT_TRUE(!good || !root) << "call " << n;
    } else {
      ASSERT_TRUE(root);
      import.records.fail_call(0);
      EXPECT_TRUE(import.image(*root) == Content(64 * kBlockBytes, std::byte{1}));
    }
  }
}

}  // namespace
}  // namespace squall
