// What deduplication saves on real disk images, and what it costs: packs raw images one after the
// other into a pool of its own, the way imports and commits do, and says what the pool then holds.
//
//   dedup_bench [--chunk-kib N] [--rate N] [--index-kib N] [--off | --ideal] IMAGE...
//
// --rate: one fingerprint of N is in the sparse index at first. --ideal stores every distinct block
// once, by a table of all fingerprints, and nothing else. One line of tab-separated figures after
// the last image; files lie in TMPDIR (default /tmp). Driven by bench/dedup_bench.py.
#include <fcntl.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <unistd.h>

#include <charconv>
#include <ctime>
#include <filesystem>
#include <set>
#include <string_view>

#include "base/log.h"
#include "engine/file_engine.h"
#include "io/posix_file_system.h"
#include "io/run_task.h"
#include "io/uring_reactor.h"
#include "pool/pool.h"
#include "volume/chunk_packer.h"

namespace squall {
namespace {

constexpr uint64_t kReadBytes = 2 * kMiB;  // and of one write of an import

struct Options {
  uint64_t chunk_blocks = kChunkBlocksMax;
  uint32_t rate = 8;
  uint64_t index_bytes = 64 * kMiB;
  bool off = false;
  bool ideal = false;
  std::vector<std::string> images;
};

double cpu_seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

class RawImage {
 public:
  explicit RawImage(const std::string& path) : handle_(::open(path.c_str(), O_RDONLY)) {
    if (handle_ < 0) {
      fmt::print(stderr, "cannot read {}\n", path);
      std::exit(1);
    }
    blocks_ = static_cast<uint64_t>(::lseek(handle_, 0, SEEK_END)) / kBlockBytes;
  }
  ~RawImage() { ::close(handle_); }
  RawImage(const RawImage&) = delete;
  uint64_t blocks() const { return blocks_; }
  // The first block at or behind `block` that is no hole of the file.
  uint64_t next_data(uint64_t block) const {
    const off_t at = ::lseek(handle_, static_cast<off_t>(block * kBlockBytes), SEEK_DATA);
    return at < 0 ? blocks_ : static_cast<uint64_t>(at) / kBlockBytes;
  }
  void read(uint64_t block, Bytes to) const {
    std::memset(to.data(), 0, to.size());
    CHECK(::pread(handle_, to.data(), to.size(), static_cast<off_t>(block * kBlockBytes)) >= 0);
  }

 private:
  int handle_;
  uint64_t blocks_ = 0;
};

class Bench {
 public:
  explicit Bench(Options options) : options_(std::move(options)) {
    std::string name = std::filesystem::temp_directory_path() / "squall-bench-XXXXXX";
    CHECK(::mkdtemp(name.data()) != nullptr);
    directory_ = name;
    CHECK(init_file_pool(files_, directory_, {}).has_value());
    engine_.emplace(std::move(*open_file_engine(*reactor_, files_, directory_, {})));
    Pool::Config config{.id = engine_->identity.id, .cache_bytes = 16 * kMiB};
    config.dedup_index_bytes = options_.off || options_.ideal ? 0 : options_.index_bytes;
    config.dedup_first_rate = options_.rate;
    pool_ = std::move(*run(Pool::open(*reactor_, *engine_->segments, *engine_->meta, config)));
  }
  ~Bench() {
    run(pool_->stop());
    run(engine_->close());
    std::filesystem::remove_all(directory_);
  }
  template <class T>
  T run(Task<T> task) {
    return run_task(*reactor_, std::move(task));
  }

  void pack(const std::string& path) {
    const RawImage image(path);
    AlignedBuffer data(kReadBytes);
    for (uint64_t block = image.next_data(0); block < image.blocks();) {
      const uint64_t count = std::min(kReadBytes / kBlockBytes, image.blocks() - block);
      const Bytes piece = data.bytes().first(count * kBlockBytes);
      image.read(block, piece);
      for (uint64_t i = 0; i < count; ++i)
        add(block + i, ConstBytes(piece).subspan(i * kBlockBytes, kBlockBytes));
      pack_gathered();
      block = image.next_data(block + count);
    }
  }

  void report() {
    run(pool_->sync());
    const PoolStats pool = *run(pool_->stats());
    const DedupStats dedup = pool.dedup.value_or(DedupStats{});
    const StoreStats& store = pool.stores.front();
    fmt::print("{}\t{}\t{}\t{}\t{}\t{}\t{}\t{:.3f}\t{}\t{}\n", blocks_ * kBlockBytes,
               store.stored_bytes, store.records, dedup.blocks_shared * kBlockBytes,
               dedup.index.entries, dedup.index.bytes, dedup.index.rate, packing_s_,
               dedup.footer_reads, runs_);
  }

 private:
  void add(uint64_t block, ConstBytes content) {
    if (is_zero(content)) return;
    ++blocks_;
    if (options_.ideal && !known_.insert(fingerprinter_(content)).second) return;
    gathered_.emplace_back(block, std::vector<std::byte>(content.begin(), content.end()));
  }
  void pack_gathered() {
    const double before = cpu_seconds();
    run(pack_task());
    packing_s_ += cpu_seconds() - before;
    gathered_.clear();
  }
  Task<void> pack_task() {
    ChunkPacker packer(*pool_, {},
                       {.deduplicate = !options_.off, .chunk_blocks = options_.chunk_blocks});
    for (const auto& [block, content] : gathered_)
      CHECK((co_await packer.add(block, content)).has_value());
    CHECK((co_await packer.finish()).has_value());
    runs_ += packer.runs().size();
  }

  Options options_;
  std::string directory_;
  PosixFileSystem files_;
  std::unique_ptr<UringReactor> reactor_ = std::move(*UringReactor::create());
  std::optional<FileEngine> engine_;
  std::unique_ptr<Pool> pool_;
  Fingerprinter fingerprinter_;
  std::set<Fingerprint> known_;
  std::vector<std::pair<uint64_t, std::vector<std::byte>>> gathered_;
  uint64_t blocks_ = 0;
  uint64_t runs_ = 0;
  double packing_s_ = 0;
};

uint64_t number(std::string_view text) {
  uint64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  CHECK(value > 0);
  return value;
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--off") {
      options.off = true;
    } else if (argument == "--ideal") {
      options.ideal = true;
    } else if (argument.starts_with("--")) {
      CHECK(i + 1 < argc);
      const uint64_t value = number(argv[++i]);
      if (argument == "--chunk-kib") options.chunk_blocks = value * kKiB / kBlockBytes;
      if (argument == "--rate") options.rate = static_cast<uint32_t>(value);
      if (argument == "--index-kib") options.index_bytes = value * kKiB;
    } else {
      options.images.emplace_back(argument);
    }
  }
  return options;
}

}  // namespace
}  // namespace squall

int main(int argc, char** argv) {
  spdlog::set_level(spdlog::level::warn);
  const squall::Options options = squall::parse(argc, argv);
  squall::Bench bench(options);
  for (const std::string& image : options.images) bench.pack(image);
  bench.report();
  return 0;
}
