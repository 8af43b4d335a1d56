// What the pool's tests share: a pool on the engine in memory, driven by the simulated reactor.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "base/random.h"
#include "io/run_task.h"
#include "pool/pool.h"
#include "testing/memory_engine.h"
#include "testing/post_reactor.h"

namespace squall::testing {

// Never all zero. Compressible ones repeat after 61 bytes.
inline std::vector<std::byte> make_payload(size_t bytes, uint64_t seed, bool compressible = true) {
  Random random(seed);
  std::vector<std::byte> payload(bytes);
  for (size_t i = 0; i < bytes; ++i)
    payload[i] = compressible && i >= 61 ? payload[i - 61] : static_cast<std::byte>(random() | 1);
  return payload;
}

class PoolTest : public ::testing::Test {
 protected:
  ~PoolTest() override { stop(); }

  Pool::Config config(Codec codec = Codec::kLz4) {
    return {.id = *Uuid::parse("00112233-4455-4677-8899-aabbccddeeff"),
            .cache_bytes = cache_bytes_,
            .segment_bytes = Pool::kMinSegmentBytes,
            .codec = codec};
  }
  void open(Codec codec = Codec::kLz4) {
    auto opened = run(Pool::open(reactor_, segments_, catalog_, config(codec)));
    ASSERT_TRUE(opened) << opened.error().message();
    pool_ = std::move(*opened);
  }
  void stop() {
    if (pool_ != nullptr) run(pool_->stop());
    pool_.reset();
  }
  void reopen() {
    stop();
    open();
  }
  template <class T>
  T run(Task<T> task) {
    return run_task(reactor_, std::move(task));
  }
  Result<Address> append(ConstBytes payload, RecordKind kind = RecordKind::kChunk) {
    return run(pool_->append(kind, payload, {}));
  }
  Result<PayloadRef> read(Address address, RecordKind kind = RecordKind::kChunk) {
    return run(pool_->read(kind, address));
  }
  void expect_reads(Address address, const std::vector<std::byte>& payload,
                    RecordKind kind = RecordKind::kChunk) {
    const auto got = read(address, kind);
    ASSERT_TRUE(got) << got.error().message();
    EXPECT_TRUE(std::ranges::equal((*got)->bytes(), payload)) << address.to_string();
  }
  void expect_corrupt(Address address, RecordKind kind = RecordKind::kChunk) {
    const auto got = read(address, kind);
    ASSERT_FALSE(got);
    EXPECT_EQ(got.error().kind(), ErrorKind::kCorrupt);
    EXPECT_EQ(got.error().os_errno(), EIO);
    EXPECT_NE(got.error().message().find(address.to_string()), std::string::npos)
        << got.error().message();
  }

  size_t cache_bytes_ = 0;
  PostReactor reactor_;
  MemorySegmentStore segments_{reactor_, {"main", "other"}};
  MemoryMetaStore catalog_{reactor_};
  std::unique_ptr<Pool> pool_;
};

}  // namespace squall::testing
