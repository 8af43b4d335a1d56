#include "sim/sim_reactor.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace squall::sim {

namespace {
constexpr int64_t kWallClockStart_s = 1'767'225'600;  // 2026-01-01 00:00 UTC
}  // namespace

SimReactor::SimReactor(uint64_t seed, SimDisk& disk, SimTiming timing)
    : loop_(seed), disk_operations_(loop_, files_, timing), network_(loop_, files_.last_handle) {
  mount(disk);
}

SimReactor::~SimReactor() = default;

SimFileSystem& SimReactor::mount(SimDisk& disk) {
  disk_operations_.watch(disk.core());
  file_systems_.push_back(std::make_unique<SimFileSystem>(disk, files_, loop_.trace()));
  return *file_systems_.back();
}

void SimReactor::submit(Operation& op) {
  loop_.begin(op);
  switch (op.code) {
    case Operation::Code::kRead:
    case Operation::Code::kWrite:
    case Operation::Code::kSync:
    case Operation::Code::kPunch:
      disk_operations_.submit(op);
      break;
    case Operation::Code::kAccept:
    case Operation::Code::kConnect:
    case Operation::Code::kRecv:
    case Operation::Code::kSend:
      network_.submit(op);
      break;
  }
}

void SimReactor::cancel(Operation& op) {
  op.cancelled = true;
  if (!disk_operations_.cancel(op)) network_.cancel(op);
}

void SimReactor::arm(Timer& timer, uint64_t deadline_ns) {
  CHECK(!timer.armed);
  timer.deadline_ns = deadline_ns;
  timer.armed = true;
  const uint64_t id = loop_.next_id();
  timer.reactor_private = reinterpret_cast<void*>(static_cast<uintptr_t>(id));
  const uint64_t now = loop_.now_ns();
  timers_.emplace(id, loop_.schedule(deadline_ns > now ? deadline_ns - now : 0, [this, &timer, id] {
    timers_.erase(id);
    timer.armed = false;
    timer.reactor_private = nullptr;
    loop_.trace().add({loop_.now_ns(), id});
    timer.on_expire(timer);
  }));
}

void SimReactor::disarm(Timer& timer) {
  if (!timer.armed) return;
  const auto found = timers_.find(reinterpret_cast<uintptr_t>(timer.reactor_private));
  CHECK(found != timers_.end());
  loop_.remove(found->second);
  timers_.erase(found);
  timer.armed = false;
  timer.reactor_private = nullptr;
}

void SimReactor::post(std::move_only_function<void()> work) {
  CHECK(on_own_thread());
  posted_.push_back(std::move(work));
}

int64_t SimReactor::wall_clock_s() const {
  return kWallClockStart_s + static_cast<int64_t>(loop_.now_ns() / 1'000'000'000);
}

void SimReactor::run() {
  while (!stopped_ && run_once()) {
  }
  stopped_ = false;
}

bool SimReactor::run_once() {
  CHECK(on_own_thread());
  if (posted_.empty()) return loop_.run_next();
  auto batch = std::exchange(posted_, {});
  loop_.trace().add({loop_.now_ns(), batch.size()});
  for (auto& work : batch) work();
  return true;
}

}  // namespace squall::sim
