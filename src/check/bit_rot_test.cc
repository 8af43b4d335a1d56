// Bit rot anywhere: one byte of one file of the pool's directory changes while the host is down. A
// check names it, or it carries nothing; and no read ever gives wrong data.
//
//   SQUALL_SEEDS=N tries N bytes (default 150); SQUALL_SEED=K replays one.
#include <cstdlib>

#include "check/check_test_support.h"

namespace squall {
namespace {

using testing::CheckTest;

class BitRot : public CheckTest {
 protected:
  // Every file below `directory` with its size.
  static void list_files(FileSystem& files, const std::string& directory,
                         std::vector<std::pair<std::string, uint64_t>>& found) {
    const auto names = files.list(directory);
    for (const std::string& name : *names) {
      const std::string path = directory + "/" + name;
      const auto info = files.stat(path);
      if (info->is_directory)
        list_files(files, path, found);
      else if (info->size > 0)
        found.emplace_back(path, info->size);
    }
  }

  void rot(uint64_t seed, const std::vector<std::pair<std::string, uint64_t>>& paths) {
    Random random(seed);
    const auto& [path, size] = paths[random.below(paths.size())];
    const uint64_t offset = random.below(size);
    const auto mask = static_cast<uint8_t>(random.between(1, 255));
    SCOPED_TRACE(fmt::format("SQUALL_SEED={}: {} offset {} of {}, bits {:#x}", seed, path, offset,
                             size, mask));
    disk_ = sound_.clone();
    flip(path, offset, mask);
    const auto report = run_stopped(disk_, false);
    const bool is_named = !report || !report->faults.empty();
    auto host = testing::SimHost::start(seed, disk_);
    if (!host) {
      EXPECT_TRUE(is_named) << "the host does not start, and no check says why: "
                            << host.error().message();
      return;
    }
    host_ = std::move(*host);
    const std::set<std::string> unreadable = read_all();
    if (!is_named) EXPECT_TRUE(unreadable.empty()) << *unreadable.begin() << " cannot be read";
    if (!is_named) EXPECT_THAT(check(), ::testing::IsEmpty());
    stop();
  }

  sim::SimDisk sound_{1};
};

TEST_F(BitRot, IsNamedOrHarmless) {
  fill();
  create("p", kMiB, "", Durability::kPool);
  write("p", 0, 20'000, 5);
  flush("p");
  write("p", 30'000, 20'000, 6);
  commit("p");
  stop();
  sound_ = disk_.clone();
  std::vector<std::pair<std::string, uint64_t>> paths;
  with_files(disk_, [&](FileSystem& files) {
    list_files(files, "/pool", paths);
    return 0;
  });
  const char* one = std::getenv("SQUALL_SEED");
  const char* count = std::getenv("SQUALL_SEEDS");
  const uint64_t first = one != nullptr ? std::strtoull(one, nullptr, 10) : 1;
  const uint64_t seeds = one != nullptr     ? 1
                         : count != nullptr ? std::strtoull(count, nullptr, 10)
                                            : 150;
  for (uint64_t seed = first; seed < first + seeds && !HasFailure(); ++seed) rot(seed, paths);
}

}  // namespace
}  // namespace squall
