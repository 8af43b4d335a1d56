// One simulated NBD session for the fuzz targets: a whole server, one client that sends the given
// bytes, takes whatever comes back until the server has closed or has nothing more to say, and
// vanishes. Afterwards nothing of it may be left.
#pragma once

#include <array>
#include <memory>

#include "base/check.h"
#include "export/nbd/nbd_server.h"
#include "io/run_task.h"
#include "sim/sim_disk.h"
#include "sim/sim_reactor.h"
#include "testing/disk/memory_disk.h"

namespace squall {

inline Task<void> fuzz_receive_all(Reactor& reactor, int handle) {
  std::array<std::byte, 4096> buffer;
  while (co_await io_recv(reactor, handle, buffer) > 0) {
  }
}

inline Task<void> fuzz_send_all(Reactor& reactor, sim::SimNetwork& network, int handle,
                                ConstBytes bytes) {
  while (!bytes.empty()) {
    const iovec iov{const_cast<std::byte*>(bytes.data()), bytes.size()};
    const int sent = co_await io_send(reactor, handle, std::span(&iov, 1));
    if (sent <= 0) co_return;
    bytes = bytes.subspan(static_cast<size_t>(sent));
  }
  network.shutdown_send(handle);
}

inline void run_nbd_session(ConstBytes bytes) {
  sim::SimDisk files(1);
  sim::SimReactor reactor(1, files);
  testing::MemoryDirectory disks;
  auto disk = std::make_shared<testing::MemoryDisk>(reactor, 256 * kKiB);
  disk->set_suspend_chance(0.5);
  disks.add("d", disk);
  disks.add("i", disk, false);
  Admission admission(reactor);
  const Endpoint endpoint{.unix_path = "/nbd.sock"};
  nbd::NbdServer server(reactor, reactor.network(), disks, admission, {{endpoint}, {}});
  CHECK(server.start());
  const int handle = *reactor.network().connect(endpoint);
  bool sent = false;
  spawn(fuzz_send_all(reactor, reactor.network(), handle, bytes), [&] { sent = true; });
  run_task(reactor, fuzz_receive_all(reactor, handle));
  reactor.network().shutdown(handle);
  while (!sent) CHECK(reactor.run_once());
  reactor.network().close(handle);
  run_task(reactor, server.stop());
  CHECK(server.stats().connections_accepted == 1 && server.stats().connections_open == 0);
  CHECK(disk->in_flight() == 0);
}

}  // namespace squall
