// nbd_memory_server: serves disks in memory over NBD until SIGTERM or SIGINT, then prints its
// statistics. Usage: nbd_memory_server SOCKET DISK... [--tcp PORT]
// with DISK = NAME:BYTES[:ro|:shared|:slow]. SOCKET is a unix path; port 0 takes any, and is
// printed.
#include <csignal>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "export/nbd/nbd_server.h"
#include "io/posix_network.h"
#include "io/run_task.h"
#include "io/uring_reactor.h"
#include "testing/disk/memory_disk.h"

namespace squall {
namespace {

struct Arguments {
  nbd::NbdConfig config;
  std::vector<std::string> disks;
};

Arguments parse(int argc, char** argv) {
  Arguments arguments;
  arguments.config.endpoints.push_back({.unix_path = argv[1]});
  for (int i = 2; i < argc; ++i) {
    if (std::strcmp(argv[i], "--tcp") == 0 && i + 1 < argc) {
      const auto port = static_cast<uint16_t>(std::stoul(argv[++i]));
      arguments.config.endpoints.push_back({.host = "127.0.0.1", .port = port});
    } else {
      arguments.disks.emplace_back(argv[i]);
    }
  }
  return arguments;
}

// NAME:BYTES[:OPTION]
void add_disk(Reactor& reactor, testing::MemoryDirectory& directory, const std::string& text) {
  const size_t name_end = text.find(':');
  const size_t size_end = text.find(':', name_end + 1);
  const std::string option = size_end == text.npos ? "" : text.substr(size_end + 1);
  const uint64_t size_bytes = std::stoull(text.substr(name_end + 1));
  auto disk = std::make_shared<testing::MemoryDisk>(reactor, size_bytes);
  if (option == "slow") disk->set_latency_ns(20'000'000);
  directory.add(text.substr(0, name_end), std::move(disk), option != "ro", option == "shared");
}

int serve(const Arguments& arguments) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // before any thread starts

  auto reactor = UringReactor::create();
  if (!reactor) {
    std::fprintf(stderr, "%s\n", reactor.error().message().c_str());
    return 1;
  }
  PosixNetwork network;
  testing::MemoryDirectory directory;
  for (const std::string& disk : arguments.disks) add_disk(**reactor, directory, disk);
  Admission admission(**reactor);
  nbd::NbdServer server(**reactor, network, directory, admission, arguments.config);
  if (auto started = server.start(); !started) {
    std::fprintf(stderr, "%s\n", started.error().message().c_str());
    return 1;
  }
  for (size_t i = 1; i < arguments.config.endpoints.size(); ++i)
    std::printf("port %u\n", *server.bound_port(i));
  std::printf("ready\n");
  std::fflush(stdout);

  std::thread waiter([&] {
    int signal = 0;
    sigwait(&signals, &signal);
    (*reactor)->post([&] { (*reactor)->stop(); });
  });
  (*reactor)->run();
  waiter.join();
  run_task(**reactor, server.stop());
  const nbd::NbdStats& stats = server.stats();
  std::printf("connections %lu open %lu requests %lu errors %lu read %lu written %lu\n",
              stats.connections_accepted, stats.connections_open, stats.requests,
              stats.request_errors, stats.bytes_read, stats.bytes_written);
  return 0;
}

}  // namespace
}  // namespace squall

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: %s SOCKET NAME:BYTES[:ro|:shared|:slow]... [--tcp PORT]\n",
                 argv[0]);
    return 2;
  }
  return squall::serve(squall::parse(argc, argv));
}
