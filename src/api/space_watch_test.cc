#include "api/space_watch.h"

#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>

#include <sstream>

#include "base/log.h"

namespace squall {
namespace {

// Collects what is logged while it lives.
class LogCapture {
 public:
  LogCapture() : before_(spdlog::default_logger()) {
    auto sink = std::make_shared<spdlog::sinks::ostream_sink_mt>(text_);
    sink->set_pattern("%l %v");
    spdlog::set_default_logger(std::make_shared<spdlog::logger>("capture", sink));
  }
  ~LogCapture() { spdlog::set_default_logger(before_); }
  std::string take() {
    std::string text = text_.str();
    text_.str("");
    return text;
  }

 private:
  std::ostringstream text_;
  std::shared_ptr<spdlog::logger> before_;
};

class SpaceWatchTest : public ::testing::Test {
 protected:
  // Returns the level at so many percent used of 1000 GiB.
  std::string at(uint64_t percent, const std::string& problem = "") {
    const auto statuses = watch_.update({{.name = "store main",
                                          .path = "/pool",
                                          .total_bytes = 1000 * kGiB,
                                          .available_bytes = (100 - percent) * 10 * kGiB,
                                          .needed_bytes = kGiB,
                                          .problem = problem,
                                          .advice = "remove something"}});
    EXPECT_EQ(statuses.size(), 1);
    EXPECT_EQ(statuses[0].used_percent, percent);
    EXPECT_EQ(statuses[0].advice.empty(), statuses[0].level == "ok");
    return statuses[0].level;
  }
  SpaceWatch watch_{{.warn_percent = 80, .critical_percent = 90}};
  LogCapture log_;
};

TEST_F(SpaceWatchTest, LevelsFollowTheThresholdsWithHysteresis) {
  EXPECT_EQ(at(79), "ok");
  EXPECT_EQ(at(80), "warn");
  EXPECT_EQ(at(78), "warn");
  EXPECT_EQ(at(76), "ok");
  EXPECT_EQ(at(79), "ok");
  EXPECT_EQ(at(91), "critical");
  EXPECT_EQ(at(88), "critical");
  EXPECT_EQ(at(86), "warn");
  EXPECT_EQ(at(100), "full");
  EXPECT_EQ(at(88), "critical");
  EXPECT_EQ(at(20), "ok");
  EXPECT_EQ(at(20, "no disk"), "away");
  EXPECT_EQ(at(78), "ok") << "being away says nothing of what was used";
}

TEST_F(SpaceWatchTest, EveryCrossingIsLoggedOnce) {
  at(50);
  EXPECT_EQ(log_.take(), "");
  at(85);
  EXPECT_EQ(log_.take(),
            "warning space: store main (/pool): 85% used, 150G free: remove something\n");
  at(86);
  at(79);
  EXPECT_EQ(log_.take(), "");
  at(95);
  EXPECT_EQ(log_.take(),
            "error space: store main (/pool): 95% used, 50G free, critical: remove something\n");
  at(10);
  EXPECT_EQ(log_.take(), "info space: store main (/pool): 10% used, 900G free: enough again\n");
  at(10, "store main: not mounted");
  EXPECT_EQ(log_.take(), "error space: store main (/pool) is away: store main: not mounted\n");
}

TEST(SpaceWatch, NothingIsDividedByZero) {
  SpaceWatch watch({});
  const auto statuses = watch.update({{.name = "scratch", .path = "/x"}});
  EXPECT_EQ(statuses[0].level, "ok");
  EXPECT_EQ(statuses[0].used_percent, 0);
}

}  // namespace
}  // namespace squall
