// A daemon that does nothing: what tests of the routes put behind them.
#pragma once

#include "api/rest.h"

namespace squall {

struct IdleRestHost : RestHost {
  Task<Result<StatusInfo>> status() override { co_return StatusInfo{}; }
  CollectorStatus gc_status() override { return {}; }
  uint64_t start_gc() override { return 1; }
  void cancel_gc() override {}
  Result<uint64_t> start_check(CheckRequest) override { return 1; }
  Result<CheckStatus> check_status(uint64_t) override { return CheckStatus{.done = true}; }
  void cancel_check(uint64_t) override {}
  Task<void> disconnect_clients(std::string) override { co_return; }
};

}  // namespace squall
