#include "engine/file_engine.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <fstream>

#include "engine/engine_test_support.h"

namespace squall {
namespace {

using testing::HasSubstr;

class FileEngineTest : public testing::Test {
 protected:
  Result<PoolIdentity> init(FilePoolOptions options = {}) {
    options.lock_wait_ms = 0;
    return init_file_pool(files_, pool_, options);
  }
  Result<FileEngine> open() {
    return open_file_engine(*reactor_, files_, pool_, {.lock_wait_ms = 0});
  }
  void close(FileEngine engine) { run_task(*reactor_, engine.close()); }
  std::string path(const std::string& name) const { return directory_.path() + "/" + name; }

  TemporaryDirectory directory_;
  const std::string pool_ = directory_.path() + "/deep/pool";
  PosixFileSystem files_;
  std::unique_ptr<UringReactor> reactor_ = make_reactor();
};

TEST_F(FileEngineTest, MakesAPoolThatOpens) {
  EXPECT_EQ(open().error().kind(), ErrorKind::kNotFound);
  EXPECT_THAT(open().error().message(), HasSubstr("squall init"));
  EXPECT_FALSE(files_.exists(pool_));  // a failed open leaves nothing behind
  const auto identity = value_of(init({.default_codec = Codec::kZstd, .created_s = 1234567890}));
  EXPECT_EQ(identity.default_codec, Codec::kZstd);
  EXPECT_EQ(identity.created_s, 1234567890);
  {
    auto engine = value_of(open());
    EXPECT_EQ(engine.identity, identity);
    value_of(run_task(*reactor_, engine.meta->commit({"v/a", {}, {{"head", "x"}}})));
    value_of(run_task(*reactor_, engine.segments->create(1, "default")));
    value_of(run_task(*reactor_, engine.logs->append(1, 1, as_bytes("log"))));
    close(std::move(engine));
  }
  auto engine = value_of(open());
  EXPECT_EQ(value_of(run_task(*reactor_, engine.meta->get("v/a", "head"))), "x");
  EXPECT_EQ(value_of(run_task(*reactor_, engine.segments->list())).size(), 1u);
  EXPECT_EQ(value_of(run_task(*reactor_, engine.logs->list())).size(), 1u);
  close(std::move(engine));
}

TEST_F(FileEngineTest, JoiningIsIdempotentAndDifferingOptionsAreRefused) {
  const auto identity = value_of(init({.default_codec = Codec::kLz4}));
  EXPECT_EQ(value_of(init({.default_codec = Codec::kLz4})), identity);
  EXPECT_EQ(value_of(init()), identity);
  auto refused = init({.default_codec = Codec::kZstd});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind(), ErrorKind::kExists);
  auto engine = value_of(open());
  EXPECT_EQ(value_of(init()), identity);  // also while a daemon runs
  close(std::move(engine));
}

TEST_F(FileEngineTest, AddsStoresLater) {
  value_of(init());
  value_of(init({.stores = {{"ssd", path("ssd")}, {"hdd", path("hdd")}}}));
  value_of(init({.stores = {{"hdd", path("hdd")}}}));
  EXPECT_EQ(init({.stores = {{"ssd", path("other")}}}).error().kind(), ErrorKind::kExists);
  EXPECT_EQ(init({.stores = {{"more", path("ssd")}}}).error().kind(), ErrorKind::kExists);
  for (const StoreDirectory& wrong :
       {StoreDirectory{"default", path("x")}, {"a/b", path("x")}, {"x", "relative"}, {"x", pool_}})
    EXPECT_EQ(init({.stores = {wrong}}).error().kind(), ErrorKind::kInvalid) << wrong.name;
  {
    auto engine = value_of(open());
    ASSERT_EQ(value_of(engine.segments->stores()).size(), 3u);
    value_of(run_task(*reactor_, engine.segments->create(1, "ssd")));
    close(std::move(engine));
  }
  // Its disk is mounted elsewhere now.
  std::filesystem::rename(path("ssd"), path("moved"));
  {
    auto engine = value_of(open());
    EXPECT_FALSE(value_of(engine.segments->stores())[2].available);
    close(std::move(engine));
  }
  value_of(init({.stores = {{"ssd", path("moved")}}}));
  auto engine = value_of(open());
  EXPECT_EQ(value_of(run_task(*reactor_, engine.segments->list())).size(), 1u);
  close(std::move(engine));
}

TEST_F(FileEngineTest, TheSecondOpenerLearnsWhoHoldsThePool) {
  value_of(init());
  auto engine = value_of(open());
  for (const auto& error : {open().error(), init({.stores = {{"s", path("s")}}}).error()}) {
    EXPECT_EQ(error.kind(), ErrorKind::kBusy);
    EXPECT_THAT(error.message(), HasSubstr(fmt::format("pid {} on host", ::getpid())));
    EXPECT_THAT(error.message(), HasSubstr("stop it"));
  }
  close(std::move(engine));
  close(value_of(open()));
}

TEST_F(FileEngineTest, RefusesAForeignDirectory) {
  std::filesystem::create_directories(pool_);
  std::ofstream(pool_ + "/letter.txt") << "dear";
  auto refused = init();
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message(), HasSubstr("letter.txt"));
  EXPECT_EQ(value_of(files_.list(pool_)).size(), 1u);
  std::filesystem::remove(pool_ + "/letter.txt");
  value_of(init());
}

TEST_F(FileEngineTest, CompletesAnInterruptedInit) {
  value_of(init());
  // What a crash before the last step leaves.
  std::filesystem::remove(pool_ + "/squall-pool");
  EXPECT_EQ(init().error().kind(), ErrorKind::kExists);  // not without the mark: it may be data
  std::ofstream(pool_ + "/squall-init") << "unfinished";
  EXPECT_EQ(open().error().kind(), ErrorKind::kNotFound);
  value_of(init());
  EXPECT_FALSE(files_.exists(pool_ + "/squall-init"));
  close(value_of(open()));
}

TEST_F(FileEngineTest, NeverReplacesAMissingOrForeignCatalog) {
  value_of(init());
  std::filesystem::rename(pool_ + "/catalog.db", path("catalog.db"));
  auto missing = open();
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().kind(), ErrorKind::kCorrupt);
  EXPECT_THAT(missing.error().message(), HasSubstr("catalog.db"));
  EXPECT_FALSE(files_.exists(pool_ + "/catalog.db"));

  value_of(init_file_pool(files_, path("other"), {}));
  std::filesystem::copy_file(path("other/catalog.db"), pool_ + "/catalog.db");
  EXPECT_EQ(open().error().kind(), ErrorKind::kCorrupt);
}

TEST_F(FileEngineTest, NamesADamagedIdentity) {
  value_of(init());
  std::ofstream(pool_ + "/squall-pool") << std::string(200, 'x');
  auto damaged = open();
  ASSERT_FALSE(damaged);
  EXPECT_EQ(damaged.error().kind(), ErrorKind::kCorrupt);
  EXPECT_THAT(damaged.error().message(), HasSubstr(pool_ + "/squall-pool"));
}

}  // namespace
}  // namespace squall
