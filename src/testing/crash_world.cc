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

std::string disk_name(const std::string& volume, const std::string& snapshot) {
  return volume + "@" + snapshot;
}
}  // namespace

SimHostOptions CrashWorld::small_host() {
  SimHostOptions options;
  options.journal.file_bytes = 128 * kKiB;
  options.journal.max_files = 6;
  options.commit_bytes = 48 * kKiB;
  options.quota_bytes = 128 * kKiB;
  options.segment_bytes = 256 * kKiB;
  options.fast_budget_bytes = 64 * kKiB;
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

// ---- verbs ----

// Content of IMAGE or VOLUME@SNAPSHOT.
std::shared_ptr<const Content> CrashWorld::content_of(const std::string& origin) const {
  const size_t at = origin.find('@');
  if (at == std::string::npos) {
    const auto image = images_.find(origin);
    return image == images_.end() ? nullptr : image->second.content;
  }
  const auto volume = volumes_.find(origin.substr(0, at));
  if (volume == volumes_.end()) return nullptr;
  const auto snapshot = volume->second.snapshots.find(origin.substr(at + 1));
  return snapshot == volume->second.snapshots.end() ? nullptr : snapshot->second.content;
}

Task<bool> CrashWorld::create(CreateVolume request) {
  const uint64_t verb = ++last_verb_;
  Content content;
  if (!request.from.empty()) {
    const auto origin = content_of(request.from);
    if (origin == nullptr) co_return false;
    content = *origin;
  }
  if (request.size_bytes != 0) content.resize(request.size_bytes);
  std::vector<std::string> names;
  for (uint64_t i = 1; i <= request.count; ++i) {
    names.push_back(request.count == 1 ? request.name : request.name + "-" + std::to_string(i));
    VolumeState volume;
    volume.options = request;
    volume.verb = verb;
    volume.history = VolumeHistory(content);
    volumes_.insert_or_assign(names.back(), std::move(volume));
  }
  auto done = co_await host_->volumes().create_volumes(request);
  if (!done) {
    for (const std::string& name : names) volumes_.at(name).in_doubt = true;
    co_return failed("creation of " + request.name, done.error());
  }
  for (const std::string& name : names) volumes_.at(name).presence = Presence::kPresent;
  co_return true;
}

Task<bool> CrashWorld::remove(std::string name) {
  if (!usable(name)) co_return false;
  close(name);
  VolumeState& volume = volumes_.at(name);
  volume.presence = Presence::kMaybe;
  volume.verb = ++last_verb_;
  if (auto done = co_await host_->volumes().remove_volume(name, false); !done) {
    volume.in_doubt = true;
    co_return failed("removal of " + name, done.error());
  }
  volumes_.erase(name);
  co_return true;
}

// Reads what a verb that is done has fixed, and holds it to that from now on.
Task<std::shared_ptr<const Content>> CrashWorld::pin(std::string disk, Fixed fixed) {
  auto opened = co_await host_->volumes().open_disk(disk);
  if (!opened) {
    failed("open " + disk, opened.error());
    co_return nullptr;
  }
  auto content = std::make_shared<Content>(opened->disk->size_bytes());
  if (auto done = co_await opened->disk->read(0, *content); !done) {
    failed("read " + disk, done.error());
    co_return nullptr;
  }
  const VolumeHistory& history = volumes_.at(fixed.source).history;
  if (!history.find(*content, fixed.first, fixed.last.value_or(history.issued())))
    report(disk + " is no state of " + fixed.source + " between the verb's call and its end");
  co_return content;
}

Task<bool> CrashWorld::snapshot(std::string name, std::string snapshot) {
  if (!usable(name)) co_return false;
  VolumeState& volume = volumes_.at(name);
  const size_t first = volume.history.acknowledged();
  Fixed& fixed = volume.snapshots[snapshot];
  fixed.source = name;
  fixed.first = first;
  if (auto done = co_await host_->volumes().create_snapshot(name, snapshot); !done)
    co_return failed("snapshot of " + name, done.error());
  fixed.presence = Presence::kPresent;
  fixed.last = volume.history.issued();
  volume.history.make_durable(first);
  fixed.content = co_await pin(disk_name(name, snapshot), fixed);
  co_return fixed.content != nullptr;
}

Task<bool> CrashWorld::remove_snapshot(std::string name, std::string snapshot) {
  VolumeState& volume = volumes_.at(name);
  volume.snapshots.at(snapshot).presence = Presence::kMaybe;
  if (auto done = co_await host_->volumes().remove_snapshot(name, snapshot); !done)
    co_return failed("removal of " + disk_name(name, snapshot), done.error());
  volume.snapshots.erase(snapshot);
  co_return true;
}

Task<bool> CrashWorld::rollback(std::string name, std::string snapshot) {
  if (!usable(name)) co_return false;
  close(name);
  VolumeState& volume = volumes_.at(name);
  const auto content = volume.snapshots.at(snapshot).content;
  if (content == nullptr) co_return false;
  volume.history.issue({.kind = Change::Kind::kReplace, .length = 0, .data = content});
  const size_t upto = volume.history.issued();
  if (auto done = co_await host_->volumes().rollback_volume(name, snapshot); !done) {
    volume.in_doubt = true;
    co_return failed("rollback of " + name, done.error());
  }
  volume.history.acknowledge(upto);
  volume.history.make_durable(upto);
  co_return true;
}

Task<bool> CrashWorld::resize(std::string name, uint64_t size_bytes) {
  if (!usable(name)) co_return false;
  close(name);
  VolumeState& volume = volumes_.at(name);
  volume.history.issue({.kind = Change::Kind::kResize, .length = size_bytes, .data = {}});
  const size_t upto = volume.history.issued();
  if (auto done = co_await host_->volumes().resize_volume(name, size_bytes); !done) {
    volume.in_doubt = true;
    co_return failed("resize of " + name, done.error());
  }
  volume.history.acknowledge(upto);
  volume.history.make_durable(upto);
  co_return true;
}

Task<bool> CrashWorld::create_image(std::string name, std::string from) {
  Fixed& image = images_[name];
  const bool of_volume = from.find('@') == std::string::npos;
  image.source = from;
  if (of_volume)
    image.first = volumes_.at(from).history.acknowledged();
  else
    image.content = content_of(from);
  if (auto done = co_await host_->volumes().create_image(name, from); !done)
    co_return failed("image from " + from, done.error());
  image.presence = Presence::kPresent;
  if (!of_volume) co_return true;
  image.last = volumes_.at(from).history.issued();
  image.content = co_await pin(name, image);
  co_return image.content != nullptr;
}

Task<bool> CrashWorld::remove_image(std::string name) {
  images_.at(name).presence = Presence::kMaybe;
  if (auto done = co_await host_->volumes().remove_image(name); !done)
    co_return failed("removal of image " + name, done.error());
  images_.erase(name);
  co_return true;
}

// Writes what is not zero, backwards, so that no order of blocks is taken for granted.
Task<bool> CrashWorld::import(std::string name, Content content, bool abort) {
  VolumeManager& volumes = host_->volumes();
  ImportRequest request{.name = name, .size_bytes = content.size(), .source = "test", .store = {}};
  auto session = co_await volumes.begin_import(std::move(request));
  if (!session) co_return failed("import of " + name, session.error());
  auto disk = co_await volumes.open_disk(session->disk);
  if (!disk) co_return failed("import of " + name, disk.error());
  constexpr uint64_t kStep = 16 * kKiB;
  for (uint64_t at = round_up(content.size(), kStep); at > 0; at -= kStep) {
    const uint64_t begin = at - kStep;
    const ConstBytes part =
        ConstBytes(content).subspan(begin, std::min(kStep, content.size() - begin));
    if (is_zero(part)) continue;
    if (auto done = co_await disk->writer->write(begin, part, false); !done) {
      (void)co_await volumes.abort_import(session->id);
      co_return failed("import of " + name, done.error());
    }
  }
  if (abort) {
    if (auto done = co_await volumes.abort_import(session->id); !done)
      co_return failed("abort of import " + name, done.error());
    co_return true;
  }
  Fixed image;
  image.content = std::make_shared<const Content>(std::move(content));
  images_[name] = image;
  if (auto done = co_await volumes.finish_import(session->id); !done)
    co_return failed("import of " + name, done.error());
  images_.at(name).presence = Presence::kPresent;
  co_return true;
}

}  // namespace squall::testing
