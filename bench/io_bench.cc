// What the reactor adds to the kernel's own cost: cached 4 KiB reads at a given depth, and posts.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <thread>

#include "base/buffer.h"
#include "base/check.h"
#include "base/random.h"
#include "io/run_task.h"
#include "io/uring_reactor.h"

namespace squall {
namespace {

constexpr uint64_t kFileBytes = 16 * kMiB;
constexpr uint64_t kBlockBytes = 4 * kKiB;

std::unique_ptr<UringReactor> make_reactor(benchmark::State& state) {
  auto reactor = UringReactor::create();
  if (reactor) return std::move(*reactor);
  state.SkipWithError(reactor.error().message().c_str());
  return nullptr;
}

// An unnamed file whose pages are all in the page cache.
class CachedFile {
 public:
  CachedFile() {
    const char* directory = std::getenv("TMPDIR");
    std::string path = std::string(directory != nullptr ? directory : "/tmp") + "/io_bench_XXXXXX";
    handle_ = ::mkostemp(path.data(), O_CLOEXEC);
    CHECK(handle_ >= 0);
    ::unlink(path.c_str());
    const AlignedBuffer block(kMiB);
    for (uint64_t at = 0; at < kFileBytes; at += kMiB)
      CHECK(::pwrite(handle_, block.data(), kMiB, static_cast<off_t>(at)) ==
            static_cast<ssize_t>(kMiB));
  }
  CachedFile(const CachedFile&) = delete;
  CachedFile& operator=(const CachedFile&) = delete;
  ~CachedFile() { ::close(handle_); }
  int handle() const { return handle_; }

 private:
  int handle_;
};

uint64_t random_block(Random& random) {
  return random.below(kFileBytes / kBlockBytes) * kBlockBytes;
}

Task<void> read_blocks(Reactor& reactor, int handle, uint64_t seed, int count) {
  AlignedBuffer buffer(kBlockBytes);
  Random random(seed);
  for (int i = 0; i < count; ++i)
    CHECK(co_await io_read(reactor, handle, buffer.bytes(), random_block(random)) ==
          static_cast<int>(kBlockBytes));
}

// `depth` coroutines read one after another, all at once.
void cached_read(benchmark::State& state) {
  auto reactor = make_reactor(state);
  if (reactor == nullptr) return;
  const CachedFile file;
  const auto depth = static_cast<int>(state.range(0));
  constexpr int kReadsEach = 1000;
  for (auto _ : state) {
    int finished = 0;
    for (int i = 0; i < depth; ++i)
      spawn(read_blocks(*reactor, file.handle(), static_cast<uint64_t>(i), kReadsEach),
            [&finished] { ++finished; });
    while (finished < depth) reactor->run_once();
  }
  state.SetItemsProcessed(state.iterations() * depth * kReadsEach);
}
BENCHMARK(cached_read)->ArgName("depth")->Arg(1)->Arg(32)->Unit(benchmark::kMillisecond);

// The floor: the same reads by a plain system call.
void cached_pread(benchmark::State& state) {
  const CachedFile file;
  AlignedBuffer buffer(kBlockBytes);
  Random random(0);
  for (auto _ : state)
    CHECK(::pread(file.handle(), buffer.data(), kBlockBytes,
                  static_cast<off_t>(random_block(random))) == static_cast<ssize_t>(kBlockBytes));
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(cached_pread);

// A coroutine that gives way to the loop and comes back.
void yield_same_thread(benchmark::State& state) {
  auto reactor = make_reactor(state);
  if (reactor == nullptr) return;
  constexpr int kYields = 1000;
  for (auto _ : state)
    run_task(*reactor, [](Reactor& r) -> Task<void> {
      for (int i = 0; i < kYields; ++i) co_await yield_to(r);
    }(*reactor));
  state.SetItemsProcessed(state.iterations() * kYields);
}
BENCHMARK(yield_same_thread)->Unit(benchmark::kMillisecond);

// To a sleeping reactor on another thread and back: how control threads ask the data plane.
void post_round_trip(benchmark::State& state) {
  auto here = make_reactor(state);
  auto there = make_reactor(state);
  if (here == nullptr || there == nullptr) return;
  std::thread loop([&] { there->run(); });
  for (auto _ : state)
    run_task(*here, [](Reactor& a, Reactor& b) -> Task<void> {
      co_await yield_to(b);
      co_await yield_to(a);
    }(*here, *there));
  there->stop();
  loop.join();
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(post_round_trip)->Unit(benchmark::kMicrosecond)->UseRealTime();

}  // namespace
}  // namespace squall
