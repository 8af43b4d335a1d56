// A writer that remembers what it was promised, for tests that take the power away under it.
#pragma once

#include <set>
#include <vector>

#include "pool/pool_test_util.h"

namespace squall::testing {

// What a writer that appends and syncs was promised before the power went out.
struct Promises {
  struct Record {
    Address address;
    uint64_t seed = 0;
    size_t bytes = 0;
    RecordKind kind = RecordKind::kChunk;
    bool durable = false;
  };
  std::vector<Record> records;
  std::set<SegmentId> segments;  // of every address that was ever given out

  // What was synced reads back, and no record ever reads as something else.
  void check(Reactor& reactor, Pool& pool) const {
    for (const Record& record : records) {
      const auto got = run_task(reactor, pool.read(record.kind, record.address));
      const auto payload = make_payload(record.bytes, record.seed, record.seed % 2 == 1);
      if (got) ASSERT_TRUE(std::ranges::equal((*got)->bytes(), payload));
      if (record.durable) ASSERT_TRUE(got) << got.error().message();
      if (!got) ASSERT_EQ(got.error().kind(), ErrorKind::kCorrupt);
    }
  }
};

inline Task<void> write_until_power_is_out(Pool& pool, Random& random, Promises& promises,
                                           int steps) {
  const AppendMark mark = pool.mark();
  for (int step = 0; step < steps; ++step) {
    const bool compressible = random.chance(0.5);
    const size_t bytes = random.chance(0.5) ? random.between(1, 5000) : random.between(1, 65536);
    const uint64_t seed = random() * 2 + (compressible ? 1 : 0);
    const RecordKind kind = random.chance(0.3) ? RecordKind::kPage : RecordKind::kChunk;
    const auto payload = make_payload(bytes, seed, seed % 2 == 1);
    const auto address = co_await pool.append(kind, payload, {});
    if (address) promises.records.push_back({*address, seed, bytes, kind, false});
    if (!random.chance(0.25)) continue;
    const size_t appended = promises.records.size();
    const auto synced = co_await pool.sync(mark);
    if (!synced) co_return;
    for (size_t i = 0; i < appended; ++i) promises.records[i].durable = true;
  }
}

}  // namespace squall::testing
