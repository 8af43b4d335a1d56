#include "api/config.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace squall {
namespace {

const Paths kPaths{"/srv/squall", "/srv/squall/run"};

std::string error_of(std::string_view text) {
  const auto config = parse_config(text, "squall.toml", kPaths);
  return config ? "" : config.error().message();
}

TEST(Config, EmptyMeansDefaults) {
  const auto config = parse_config("", "squall.toml", kPaths);
  ASSERT_TRUE(config);
  EXPECT_EQ(config->pool.directory, "/srv/squall/pool");
  EXPECT_EQ(config->journal_directory, "/srv/squall/journal");
  EXPECT_EQ(config->scratch_directory, "/srv/squall/scratch");
  EXPECT_TRUE(config->nbd_listen.empty());
}

TEST(Config, ReadsEverySetting) {
  const auto config = parse_config(R"(
pool = "file:/mnt/pool"
log_level = "debug"
[journal]
directory = "wal"
size = "1G"
[cache]
size = "64M"
[deduplication]
index = "16M"
[scratch]
memory = "0"
directory = "/mnt/scratch"
[nbd]
listen = ["127.0.0.1:10809", "[::1]:0"]
dead_peer_s = 5
[space]
warn = 70
critical = 95
)",
                                   "squall.toml", kPaths);
  ASSERT_TRUE(config) << config.error().message();
  EXPECT_EQ(config->pool.directory, "/mnt/pool");
  EXPECT_EQ(config->log_level, "debug");
  EXPECT_EQ(config->journal_directory, "/srv/squall/wal");
  EXPECT_EQ(config->journal_bytes, kGiB);
  EXPECT_EQ(config->cache_bytes, 64 * kMiB);
  EXPECT_EQ(config->dedup_index_bytes, 16 * kMiB);
  EXPECT_EQ(config->scratch_memory_bytes, 0u);
  EXPECT_EQ(config->scratch_directory, "/mnt/scratch");
  ASSERT_EQ(config->nbd_listen.size(), 2u);
  EXPECT_EQ(config->nbd_listen[0].port, 10809);
  EXPECT_EQ(config->nbd_listen[1].host, "::1");
  EXPECT_EQ(config->nbd_dead_peer_s, 5u);
  EXPECT_EQ(config->space.warn_percent, 70u);
  EXPECT_EQ(config->space.critical_percent, 95u);
}

TEST(Config, ErrorsNameFileLineAndRemedy) {
  EXPECT_EQ(error_of("pool = 1"), "squall.toml:1: pool: must be a string in quotes");
  EXPECT_EQ(error_of("\nlog_level = \"loud\""),
            "squall.toml:2: log_level: 'loud' is none of debug, info, warn, error");
  EXPECT_EQ(error_of("[cache]\nsze = \"1G\""),
            "squall.toml:2: cache.sze: no such setting; there are: size");
  EXPECT_EQ(error_of("[cache]\nsize = \"1K\""),
            "squall.toml:2: cache.size: 1K is too small; at least 16M");
  EXPECT_NE(error_of("[journal]\nsize = \"much\"").find("squall.toml:2: journal.size: 'much'"),
            std::string::npos);
  EXPECT_NE(error_of("[nbd]\nlisten = [\"host\"]").find("write HOST:PORT"), std::string::npos);
  EXPECT_NE(error_of("[nbd]\nlisten = [\"h:70000\"]").find("write HOST:PORT"), std::string::npos);
  EXPECT_NE(error_of("[nbd]\nlisten = \"h:1\"").find("must be a list"), std::string::npos);
  EXPECT_EQ(error_of("[space]\nwarn = 101"),
            "squall.toml:2: space.warn: must be a whole number from 1 to 100");
  EXPECT_EQ(error_of("[space]\nwarn = \"80%\""),
            "squall.toml:2: space.warn: must be a whole number from 1 to 100");
  EXPECT_EQ(error_of("[space]\nwarn = 95"),
            "squall.toml:1: space.critical: 90 is below space.warn, 95");
  EXPECT_NE(error_of("[nbd]\ndead_peer_s = 0").find("from 2 to 86400"), std::string::npos);
  EXPECT_NE(error_of("nbd = 3").find("write it as [nbd]"), std::string::npos);
  EXPECT_NE(error_of("pool = \"rados:vms\"").find("write file:DIR"), std::string::npos);
  EXPECT_NE(error_of("pool = ").find("squall.toml:1: not valid TOML"), std::string::npos);
  EXPECT_NE(error_of("[~x]").find("squall.toml:1: not valid TOML"), std::string::npos);
  EXPECT_NE(error_of("pol = \"file:/x\"").find("no such setting"), std::string::npos);
}

TEST(Config, WhatIsWrittenReadsBack) {
  Config config = Config::defaults(kPaths);
  config.pool.directory = "/mnt/odd \"name\" \\ \n here";
  config.journal_bytes = 1000 * kMiB;
  config.nbd_listen.push_back({.host = "127.0.0.1", .port = 10809});
  const auto read = parse_config(format_config(config), "squall.toml", kPaths);
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_EQ(read->pool.directory, config.pool.directory);
  EXPECT_EQ(read->journal_bytes, config.journal_bytes);
  ASSERT_EQ(read->nbd_listen.size(), 1u);
  EXPECT_EQ(read->nbd_listen[0].to_string(), "127.0.0.1:10809");
}

TEST(Config, MissingFileSaysWhatToDo) {
  const auto config = load_config("/nonexistent/squall.toml", kPaths);
  ASSERT_FALSE(config);
  EXPECT_EQ(config.error().kind(), ErrorKind::kNotFound);
  EXPECT_NE(config.error().message().find("run 'squall init' first"), std::string::npos);
}

TEST(Config, ADirectoryIsNoEmptyConfiguration) {
  const auto config = load_config("/tmp", kPaths);
  ASSERT_FALSE(config);
  EXPECT_NE(config.error().message().find("is a directory"), std::string::npos);
}

TEST(Paths, FollowTheEnvironment) {
  ::setenv("SQUALL_HOME", "/tmp/home/", 1);
  EXPECT_EQ(Paths::from_environment().control_socket(), "/tmp/home/run/control.sock");
  ::unsetenv("SQUALL_HOME");
  EXPECT_EQ(Paths::from_environment().config_file(), "/var/lib/squall/squall.toml");
  EXPECT_EQ(Paths::from_environment().nbd_socket(), "/run/squall/nbd.sock");
}

}  // namespace
}  // namespace squall
