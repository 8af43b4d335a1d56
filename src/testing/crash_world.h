// CrashWorld: a simulated host with several disks and, beside it, what each of them may contain
// after a crash at this very moment. Requests go through its coroutines, which keep that knowledge;
// verify() compares it with what another host finds on the crashed disk.
//
// What is promised: after a kill every acknowledged write is there, in every mode; after a power
// cut each volume is a prefix of its writes that includes everything flushed (unsafe and stateless:
// it can be read). Snapshots and images never change. A verb has happened or not: until it is
// acknowledged either may be found, with all that belongs to it.
//
// One thread. Requests to one volume must follow one another.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/random.h"
#include "testing/sim_host.h"
#include "testing/volume_history.h"

namespace squall::testing {

enum class Crash : uint8_t { kPowerCut, kKill };

class CrashWorld {
 public:
  explicit CrashWorld(uint64_t seed, SimHostOptions options = small_host());
  ~CrashWorld();
  CrashWorld(const CrashWorld&) = delete;
  CrashWorld& operator=(const CrashWorld&) = delete;

  // Small files and limits, so that a few requests roll, commit and recycle.
  static SimHostOptions small_host();

  sim::SimDisk& disk() { return disk_; }
  SimHost& host() { return *host_; }
  bool is_running() const { return host_ != nullptr; }
  const SimHostOptions& options() const { return options_; }
  Random& random() { return random_; }
  uint64_t seed() const { return seed_; }

  void start();  // is_running() says whether it worked
  void stop();   // an orderly end of the daemon
  void crash(Crash how, const sim::LossPolicy& policy = sim::LossPolicy::keep_all());
  // Drives the host until `task` has ended. `relief`, when set, is called once when that takes more
  // than a minute of virtual time; an hour is a problem.
  void run(Task<void> task);
  // The same, while the other volumes are written to, each `requests` times.
  void run_beside_traffic(Task<void> task, int requests);

  // Requests. False: it failed, which is a problem unless failures are expected.
  Task<bool> create(CreateVolume request);
  Task<bool> remove(std::string name);
  Task<bool> write(std::string name, uint64_t offset, uint64_t length, bool fua = false);
  // What another volume has at the same place: the pool may store it once.
  Task<bool> copy(std::string from, std::string name, uint64_t offset, uint64_t length);
  Task<bool> zero(std::string name, uint64_t offset, uint64_t length, bool fua = false);
  Task<bool> trim(std::string name, uint64_t offset, uint64_t length);
  Task<bool> flush(std::string name);
  Task<bool> commit(std::string name);
  Task<bool> snapshot(std::string name, std::string snapshot);
  Task<bool> remove_snapshot(std::string name, std::string snapshot);
  Task<bool> rollback(std::string name, std::string snapshot);
  Task<bool> resize(std::string name, uint64_t size_bytes);
  Task<bool> create_image(std::string name, std::string from);
  Task<bool> remove_image(std::string name);
  Task<bool> import(std::string name, Content content, bool abort = false);
  Task<bool> collect_garbage();
  Task<void> sleep_ms(uint64_t ms);
  // Lets go of the client's handle.
  void close(const std::string& name) { open_.erase(name); }
  void close_all() { open_.clear(); }

  // Data that no other write has, half of it compressible.
  Content fresh(uint64_t length);
  uint64_t size_of(const std::string& name) const { return volumes_.at(name).history.now().size(); }
  bool has(const std::string& name) const { return volumes_.contains(name); }
  // There and not in doubt.
  bool usable(const std::string& name) const {
    const auto found = volumes_.find(name);
    return found != volumes_.end() && !found->second.in_doubt;
  }

  // Faults are about: requests may fail. Whatever fails leaves old or new content.
  void expect_failures(bool expected) { failures_expected_ = expected; }
  uint64_t failures() const { return failures_; }
  // Reads every volume, so that each failed request's outcome is known where it can be.
  Task<void> probe();
  // One write, flush and commit of every volume that can be read.
  Task<void> carry_on();
  // What to call this world when it gets stuck.
  void set_id(std::string id) { id_ = std::move(id); }
  void set_relief(std::function<void()> relief) { relief_ = std::move(relief); }
  // Data may be lost for good: a volume that cannot be read then keeps its promise.
  void allow_loss(bool allowed) { loss_allowed_ = allowed; }
  // The kernel has dropped what was not durable: no more than that is promised from now on.
  void forget_acknowledged();

  // What went wrong so far, for people; empty: nothing.
  const std::string& problem() const { return problem_; }
  void report(const std::string& problem);

  // Contents by disk name, as verify() found them.
  using Found = std::map<std::string, Content>;
  // Says how what `host` shows, after a crash of that kind now, breaks a promise; empty: not at
  // all.
  std::string verify(SimHost& host, Crash crash, Found* found = nullptr) const;
  // The live host's own disks.
  std::string verify_live() { return verify(*host_, Crash::kKill); }
  bool is_stateless(const std::string& name) const {
    return volumes_.contains(name) && volumes_.at(name).options.stateless;
  }

 private:
  enum class Presence : uint8_t { kPresent, kMaybe };
  // A snapshot or an image.
  struct Fixed {
    Presence presence = Presence::kMaybe;
    std::shared_ptr<const Content> content;  // null: `source` after between `first` and `last`
    std::string source;
    size_t first = 0;
    std::optional<size_t> last;  // unset: of all issued
  };
  struct VolumeState {
    CreateVolume options;
    Presence presence = Presence::kMaybe;
    uint64_t verb = 0;  // what the same verb makes is there together or not at all
    VolumeHistory history;
    std::map<std::string, Fixed> snapshots;
    bool in_doubt = false;  // a failed request's outcome is not known
    bool unknown = false;   // nothing was promised and the power was cut

    bool promises_nothing() const {
      return options.stateless || options.cache == CacheMode::kUnsafe;
    }
    bool writes_are_durable() const {
      return !promises_nothing() &&
             (options.cache == CacheMode::kWritethrough || options.cache == CacheMode::kDirectsync);
    }
  };
  class Inspection;

  Task<OpenDisk> open(std::string name);
  Task<bool> change(std::string name, VolumeHistory::Change change, bool trim, bool fua);
  Task<bool> finish_change(std::string name, Result<void> done, size_t upto, bool durable);
  Task<void> resolve(std::string name);
  Task<std::shared_ptr<const Content>> pin(std::string disk, Fixed fixed);
  Task<void> traffic(std::string name, int requests);
  bool failed(const std::string& what, const Error& error);
  std::shared_ptr<const Content> content_of(const std::string& origin) const;

  uint64_t seed_;
  Random random_;
  SimHostOptions options_;
  sim::SimDisk disk_;
  std::unique_ptr<SimHost> host_;
  std::map<std::string, VolumeState> volumes_;
  std::map<std::string, Fixed> images_;
  std::map<std::string, OpenDisk> open_;
  uint64_t last_verb_ = 0;
  uint64_t last_stamp_ = 0;
  uint64_t boots_ = 1;
  bool failures_expected_ = false;
  uint64_t failures_ = 0;
  bool loss_allowed_ = false;
  std::function<void()> relief_;
  std::string id_;
  std::string problem_;
};

}  // namespace squall::testing
