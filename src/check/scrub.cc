#include "check/scrub.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "base/log.h"

namespace squall {

namespace {
constexpr const char* kScrubKey = "scrub";
constexpr size_t kLinesMax = 20;
constexpr int64_t kDayS = 86'400;
// Between two looks whether a pass is due, and after one that failed.
constexpr uint64_t kIdleNs = 60'000'000'000;
}  // namespace

Scrub::Scrub(CheckTarget target, ScrubConfig config)
    : target_(std::move(target)),
      config_(config),
      pacer_(target_.reactor, config_.rate_bytes_per_s, [this] { return stopping_; }),
      checker_(target_.reactor, target_.executor, target_.segments, target_.pool, pacer_) {
  status_.enabled = config_.rate_bytes_per_s > 0;
  timer_.context = this;
  timer_.on_expire = [](Timer& timer) { static_cast<Scrub*>(timer.context)->wake(); };
}

Scrub::~Scrub() {
  CHECK(gate_.inside() == 0);
}

void Scrub::start() {
  if (status_.enabled) spawn(run());
}

ScrubStatus Scrub::status() const {
  ScrubStatus status = status_;
  status.began_s = position_.began_s;
  status.ended_s = position_.ended_s;
  status.read_bytes = pacer_.spent_bytes();
  return status;
}

Task<void> Scrub::run() {
  const Gate::Pass pass = gate_.enter();
  // Start-up has better things to do with the disk.
  co_await sleep(kIdleNs);
  while (!stopping_) {
    auto done = co_await load();
    if (done && is_due()) done = co_await run_pass();
    status_.running = false;
    if (!done && !stopping_) LOG_WARN("scrub: {}", done.error().message());
    co_await sleep(kIdleNs);
  }
}

bool Scrub::is_due() const {
  const int64_t interval_s = static_cast<int64_t>(config_.interval_days) * kDayS;
  return position_.next > 0 ||
         target_.reactor.wall_clock_s() >= position_.began_s + std::max<int64_t>(interval_s, 1);
}

Task<Result<void>> Scrub::load() {
  CO_TRY_ASSIGN(const auto value, co_await target_.catalog.get(kPoolPartition, kScrubKey));
  unsigned long long next = 0;
  long long began = 0, ended = 0;
  // What cannot be read begins a new pass.
  if (value && std::sscanf(value->c_str(), "%llu %lld %lld", &next, &began, &ended) == 3)
    position_ = {next, began, ended};
  co_return Result<void>();
}

Task<Result<void>> Scrub::save() {
  MetaTransaction transaction;
  transaction.partition = kPoolPartition;
  transaction.puts.push_back(
      {kScrubKey, fmt::format("{} {} {}", position_.next, position_.began_s, position_.ended_s)});
  co_return co_await target_.catalog.commit(std::move(transaction));
}

Task<Result<void>> Scrub::run_pass() {
  if (position_.next == 0) {
    position_.next = 1;
    position_.began_s = target_.reactor.wall_clock_s();
  }
  status_.running = true;
  CO_TRY_ASSIGN(const auto segments, co_await target_.segments.list());
  uint64_t done_bytes = 0, all_bytes = 1;
  for (const SegmentInfo& segment : segments) all_bytes += segment.allocated_bytes;
  for (const SegmentInfo& segment : segments) {
    if (segment.id >= position_.next) {
      CO_TRY(co_await check_segment(segment));
      position_.next = segment.id + 1;
      CO_TRY(co_await save());
    }
    done_bytes += segment.allocated_bytes;
    status_.percent = 100 * done_bytes / all_bytes;
  }
  status_.percent = 100;
  position_.next = 0;
  position_.ended_s = target_.reactor.wall_clock_s();
  LOG_INFO("scrub: {} segments verified; {} faults since start", segments.size(), status_.faults);
  co_return co_await save();
}

Task<Result<void>> Scrub::check_segment(SegmentInfo segment) {
  CO_TRY_ASSIGN(const SegmentReport report, co_await checker_.check(segment, {}));
  if (report.damages.empty()) co_return Result<void>();
  // Garbage collection may have removed it since it was listed.
  CO_TRY_ASSIGN(const auto now, co_await target_.segments.list());
  if (std::ranges::find(now, segment.id, &SegmentInfo::id) == now.end()) co_return Result<void>();
  // Looked up in the volumes without the rate of the scrub: there is something to be told.
  Pacer pacer(target_.reactor, 0, [this] { return stopping_; });
  SegmentChecker checker(target_.reactor, target_.executor, target_.segments, target_.pool, pacer);
  const SegmentStores stores{{segment.id, segment.store}};
  Damage damage;
  std::vector<Fault> faults = damage.note(segment, report, stores);
  CO_TRY_ASSIGN(const auto infos, target_.segments.stores());
  std::set<std::string> names;
  for (const StoreInfo& store : infos) names.insert(store.name);
  CO_TRY_ASSIGN(auto confirmed,
                co_await damage.confirm(target_.catalog, checker, std::move(names), stores));
  faults.insert(faults.end(), confirmed.begin(), confirmed.end());
  for (const Fault& fault : faults) this->report(fault);
  co_return Result<void>();
}

void Scrub::report(const Fault& fault) {
  ++status_.faults;
  std::string line = fault.to_line();
  LOG_ERROR("scrub: {}", line);
  const bool is_known = std::ranges::find(status_.lines, line) != status_.lines.end();
  if (!is_known && status_.lines.size() < kLinesMax) status_.lines.push_back(std::move(line));
}

Task<void> Scrub::sleep(uint64_t duration_ns) {
  struct Awaiter {
    Scrub& scrub;
    uint64_t duration_ns;
    bool await_ready() const noexcept { return scrub.stopping_; }
    void await_suspend(std::coroutine_handle<> sleeper) {
      scrub.sleeper_ = sleeper;
      scrub.target_.reactor.arm(scrub.timer_, scrub.target_.reactor.now_ns() + duration_ns);
    }
    void await_resume() const noexcept {}
  };
  co_await Awaiter{*this, duration_ns};
}

void Scrub::wake() {
  if (sleeper_) std::exchange(sleeper_, {}).resume();
}

Task<void> Scrub::stop() {
  stopping_ = true;
  auto closed = gate_.close();
  if (timer_.armed) target_.reactor.disarm(timer_);
  wake();
  co_await closed;
}

}  // namespace squall
