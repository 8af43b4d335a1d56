// Feeds requests to the control API's routes: an input is a line with method and target, then the
// body. Whatever comes, the answer is a known status, and an error is described in JSON.
#include <cstdint>

#include "api/test_rest_host.h"
#include "api/wire.h"
#include "base/check.h"
#include "testing/memory_volume_manager.h"

namespace {
using namespace squall;

// Runs what is posted at once.
struct InlineReactor : Reactor {
  void submit(Operation&) override { CHECK(false); }
  void cancel(Operation&) override { CHECK(false); }
  void arm(Timer&, uint64_t) override { CHECK(false); }
  void disarm(Timer&) override { CHECK(false); }
  void post(std::move_only_function<void()> work) override { work(); }
  uint64_t now_ns() const override { return 0; }
  int64_t wall_clock_s() const override { return 0; }
  void run() override {}
  bool run_once() override { return false; }
  void stop() override {}
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::string_view line = text.substr(0, text.find('\n'));
  const std::string_view method = line.substr(0, line.find(' '));
  const std::string_view target = line.substr(std::min(line.size(), method.size() + 1));
  const std::string_view body = text.substr(std::min(text.size(), line.size() + 1));
  // The fake makes what it is asked to; the daemon's manager has limits of its own.
  const auto request = wire::decode<CreateVolume>(body, wire::UnknownFields::kIgnore);
  if (request && request->count > 100) return 0;

  InlineReactor reactor;
  testing::MemoryVolumeManager manager(reactor);
  IdleRestHost host;
  const auto session = make_rest_session({reactor, manager, host});
  const HttpResponse response =
      session->handle({std::string(method), std::string(target), std::string(body)});
  CHECK(response.status >= 200 && response.status <= 599);
  if (response.status >= 400) {
    CHECK(wire::decode<ErrorBody>(response.body, wire::UnknownFields::kReject));
  }
  return 0;
}
