// Set-up, requests and what they are known to have done. Each request enters the oracle before it
// is made and is acknowledged there when it returns, so that a crash at any moment in between finds
// the right expectations.
#include "testing/crash_world.h"

#include <algorithm>

namespace squall::testing {

namespace {
constexpr uint64_t kMinuteNs = 60'000'000'000;
constexpr uint64_t kHourNs = 60 * kMinuteNs;
using Change = VolumeHistory::Change;
}  // namespace

SimHostOptions CrashWorld::small_host() {
  SimHostOptions options;
  options.journal.file_bytes = 128 * kKiB;
  options.journal.max_files = 6;
  options.commit_bytes = 48 * kKiB;
  options.quota_bytes = 128 * kKiB;
  options.segment_bytes = 256 * kKiB;
  options.fast_budget_bytes = 64 * kKiB;
  options.collector.compact_percent = 105;
  options.collector.compact_slack_bytes = 16 * kKiB;
  return options;
}

CrashWorld::CrashWorld(uint64_t seed, SimHostOptions options)
    : seed_(seed), random_(seed), options_(std::move(options)), disk_(seed) {}

CrashWorld::~CrashWorld() {
  disk_.set_observer({});
  close_all();
}

void CrashWorld::report(const std::string& problem) {
  if (problem_.empty()) problem_ = problem;
}

bool CrashWorld::failed(const std::string& what, const Error& error) {
  ++failures_;
  if (!failures_expected_) report(what + " failed: " + error.message());
  return false;
}

void CrashWorld::start() {
  auto host = SimHost::start(random_(), disk_, options_);
  if (!host) return (void)failed("start", host.error());
  host_ = std::move(*host);
}

void CrashWorld::stop() {
  close_all();
  host_.reset();
}

void CrashWorld::crash(Crash how, const sim::LossPolicy& policy) {
  if (how == Crash::kKill)
    disk_.kill_process();
  else
    disk_.cut_power();
  stop();
  disk_.restart(policy);
  if (how == Crash::kKill) return;
  options_.boot_id = "boot-" + std::to_string(++boots_);
  forget_acknowledged();
}

void CrashWorld::forget_acknowledged() {
  for (auto& [name, volume] : volumes_) {
    volume.history.lose_acknowledgements();
    volume.unknown |= volume.promises_nothing();
  }
}

void CrashWorld::run(Task<void> task) {
  bool done = false;
  spawn(std::move(task), [&] { done = true; });
  const uint64_t begun = host_->reactor().now_ns();
  const uint64_t limit = begun + kHourNs;
  while (!done) {
    if (relief_ && host_->reactor().now_ns() > begun + kMinuteNs) std::exchange(relief_, {})();
    // Its frame cannot be freed while it waits: nothing but an end is left.
    if (host_->reactor().now_ns() > limit)
      std::fprintf(stderr, "stuck for an hour: %s\n", id_.c_str());
    CHECK(host_->reactor().now_ns() <= limit);
    CHECK(host_->reactor().run_once());
  }
}

void CrashWorld::run_beside_traffic(Task<void> task, int requests) {
  const std::vector<std::string> names = [&] {
    std::vector<std::string> found;
    for (const auto& [name, volume] : volumes_)
      if (name.starts_with("n-")) found.push_back(name);
    return found;
  }();
  size_t left = names.size();
  for (const std::string& name : names) spawn(traffic(name, requests), [&] { --left; });
  run([](Reactor& reactor, Task<void> inner, const size_t& others) -> Task<void> {
    co_await std::move(inner);
    while (others > 0) co_await sleep_ns(reactor, 1'000'000);
  }(host_->reactor(), std::move(task), left));
}

Task<void> CrashWorld::traffic(std::string name, int requests) {
  for (int i = 0; i < requests; ++i) {
    co_await sleep_ns(host_->reactor(), random_.between(1'000, 400'000));
    if (!usable(name)) co_return;
    const uint64_t offset = random_.below(size_of(name) - 512) / 256 * 256;
    const uint64_t length =
        std::min<uint64_t>(random_.between(1, 24) * 256, size_of(name) - offset);
    co_await write(name, offset, length, random_.chance(0.1));
    if (random_.chance(0.25)) co_await flush(name);
  }
}

Task<void> CrashWorld::sleep_ms(uint64_t ms) {
  co_await sleep_ns(host_->reactor(), ms * 1'000'000);
}

Content CrashWorld::fresh(uint64_t length) {
  Content data(length);
  Random bytes(mix(seed_, ++last_stamp_));
  const uint64_t stamp = bytes() | 1;
  for (size_t i = 0; i < length; ++i)
    data[i] = static_cast<std::byte>(i % 16 < 8 ? stamp >> (i % 8 * 8) | 1 : bytes());
  return data;
}

// ---- requests to a disk ----

Task<OpenDisk> CrashWorld::open(std::string name) {
  OpenDisk& held = open_[name];
  if (held.disk == nullptr) {
    if (auto opened = co_await host_->volumes().open_disk(name)) open_[name] = std::move(*opened);
  }
  co_return open_[name];
}

Task<bool> CrashWorld::write(std::string name, uint64_t offset, uint64_t length, bool fua) {
  Change change{.kind = Change::Kind::kData, .offset = offset, .length = length};
  change.data = std::make_shared<const Content>(fresh(length));
  co_return co_await this->change(name, std::move(change), false, fua);
}

Task<bool> CrashWorld::copy(std::string from, std::string name, uint64_t offset, uint64_t length) {
  if (!has(from)) co_return false;
  const Content& now = volumes_.at(from).history.now();
  const auto begin = now.begin() + static_cast<ptrdiff_t>(offset);
  Change change{.kind = Change::Kind::kData, .offset = offset, .length = length};
  change.data = std::make_shared<const Content>(begin, begin + static_cast<ptrdiff_t>(length));
  co_return co_await this->change(name, std::move(change), false, false);
}

Task<bool> CrashWorld::zero(std::string name, uint64_t offset, uint64_t length, bool fua) {
  const Change change{.kind = Change::Kind::kZero, .offset = offset, .length = length, .data = {}};
  co_return co_await this->change(name, change, false, fua);
}

Task<bool> CrashWorld::trim(std::string name, uint64_t offset, uint64_t length) {
  const Change change{.kind = Change::Kind::kZero, .offset = offset, .length = length, .data = {}};
  co_return co_await this->change(name, change, true, false);
}

Task<bool> CrashWorld::change(std::string name, Change change, bool trim, bool fua) {
  if (!usable(name)) co_return false;
  VolumeState& volume = volumes_.at(name);
  const OpenDisk disk = co_await open(name);
  if (disk.writer == nullptr) co_return failed("open " + name, Error(ErrorKind::kIo, "no writer"));
  const uint64_t offset = change.offset;
  const uint64_t length = change.length;
  if (change.kind == Change::Kind::kData) {
    // A long write is several records of the log.
    const uint64_t record =
        volume.options.stateless ? length : host_->volumes().journal().max_payload_bytes();
    for (uint64_t at = 0; at < length; at += record) {
      Change piece{.kind = Change::Kind::kData, .offset = offset + at, .length = 0};
      piece.length = std::min(record, length - at);
      const auto from = change.data->begin() + static_cast<ptrdiff_t>(at);
      piece.data =
          std::make_shared<const Content>(from, from + static_cast<ptrdiff_t>(piece.length));
      volume.history.issue(std::move(piece));
    }
    const size_t upto = volume.history.issued();
    auto done = co_await disk.writer->write(offset, *change.data, fua);
    co_return co_await finish_change(name, std::move(done), upto, fua);
  }
  if (trim) {  // edges within a block keep their content
    change.offset = round_up(offset, 4096);
    uint64_t end = round_down(offset + length, 4096);
    if (offset + length == volume.history.now().size()) end = offset + length;
    change.offset = std::min(change.offset, volume.history.now().size());
    change.length = end > change.offset ? end - change.offset : 0;
  }
  volume.history.issue(std::move(change));
  const size_t upto = volume.history.issued();
  Result<void> done;
  if (trim)
    done = co_await disk.writer->trim(offset, length, fua);
  else
    done = co_await disk.writer->zero(offset, length, fua);
  co_return co_await finish_change(name, std::move(done), upto, fua);
}

Task<bool> CrashWorld::finish_change(std::string name, Result<void> done, size_t upto,
                                     bool durable) {
  VolumeState& volume = volumes_.at(name);
  if (!done) {
    failed("write to " + name, done.error());
    co_await resolve(name);
    co_return false;
  }
  volume.history.acknowledge(upto);
  if (durable || volume.writes_are_durable()) volume.history.make_durable(upto);
  co_return true;
}

// What a failed request has done is what the volume shows now; from here on that is a promise.
Task<void> CrashWorld::resolve(std::string name) {
  const OpenDisk disk = co_await open(name);
  VolumeHistory& history = volumes_.at(name).history;
  Content got(history.now().size());
  Result<void> done = fail(ErrorKind::kIo, "not open");
  if (disk.disk != nullptr) done = co_await disk.disk->read(0, got);
  if (!done) {
    volumes_.at(name).in_doubt = true;
    co_return;
  }
  if (volumes_.at(name).unknown) {
    history = VolumeHistory(std::move(got));
    volumes_.at(name).unknown = false;
    co_return;
  }
  if (volumes_.at(name).options.stateless && history.matches_in_flight(got)) {
    // Some of its blocks were written: no state between old and new describes that.
    history.drop_from(history.acknowledged());
    const auto now = std::make_shared<const Content>(std::move(got));
    history.issue({.kind = Change::Kind::kReplace, .length = 0, .data = now});
    history.acknowledge(history.issued());
    co_return;
  }
  const auto found = history.find(got, history.acknowledged(), history.issued());
  if (!found) {
    report("after a failed request " + name + " is neither as before nor as after it");
    volumes_.at(name).in_doubt = true;
    co_return;
  }
  history.drop_from(*found);
  history.acknowledge(*found);
}

Task<bool> CrashWorld::flush(std::string name) {
  if (!usable(name)) co_return false;
  VolumeState& volume = volumes_.at(name);
  const OpenDisk disk = co_await open(name);
  if (disk.writer == nullptr) co_return failed("open " + name, Error(ErrorKind::kIo, "no writer"));
  const size_t before = volume.history.acknowledged();
  if (auto done = co_await disk.writer->flush(); !done)
    co_return failed("flush of " + name, done.error());
  volume.history.make_durable(before);
  co_return true;
}

Task<bool> CrashWorld::commit(std::string name) {
  if (!usable(name)) co_return false;
  VolumeState& volume = volumes_.at(name);
  const size_t before = volume.history.acknowledged();
  if (auto done = co_await host_->volumes().commit_volume(name); !done)
    co_return failed("commit of " + name, done.error());
  volume.history.make_durable(before);
  co_return true;
}

Task<void> CrashWorld::probe() {
  std::vector<std::string> names;
  for (const auto& [name, volume] : volumes_)
    if (volume.presence == Presence::kPresent && !volume.in_doubt) names.push_back(name);
  for (const std::string& name : names) co_await resolve(name);
}

Task<void> CrashWorld::carry_on() {
  std::vector<std::string> names;
  for (const auto& [name, volume] : volumes_) names.push_back(name);
  for (const std::string& name : names) {
    if (!usable(name) || size_of(name) < 8192) continue;
    co_await write(name, random_.below(size_of(name) - 6000), 6000);
    co_await flush(name);
    if (!is_stateless(name)) co_await commit(name);
  }
}

Task<bool> CrashWorld::collect_garbage() {
  if (auto done = co_await host_->collector().collect(); !done)
    co_return failed("garbage collection", done.error());
  co_return true;
}

}  // namespace squall::testing
