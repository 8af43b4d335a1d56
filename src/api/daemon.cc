// Threads: the reactor's owns all that Data holds; control threads (HttpServer) post to it; this
// file's caller, the main thread, starts both, waits for a signal and stops them in reverse order.
#include "api/daemon.h"

#include <linux/magic.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <optional>
#include <thread>

#include "api/http_server.h"
#include "api/on_reactor.h"
#include "api/rest.h"
#include "api/space_watch.h"
#include "base/log.h"
#include "engine/file_engine.h"
#include "export/admission.h"
#include "export/nbd/nbd_server.h"
#include "format/segment.h"
#include "io/posix_file_system.h"
#include "io/posix_network.h"
#include "io/uring_reactor.h"
#include "pool/collector.h"
#include "pool/pool.h"
#include "volume/host_volumes.h"

namespace squall {

namespace {

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) return "localhost";
  return name.data();
}

std::string read_line(const char* path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

uint64_t resident_bytes() {
  std::ifstream in("/proc/self/statm");
  uint64_t size = 0;
  uint64_t resident = 0;
  in >> size >> resident;
  return resident * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

bool is_tmpfs(const std::string& directory) {
  struct statfs info{};
  return ::statfs(directory.c_str(), &info) == 0 && info.f_type == TMPFS_MAGIC;
}

// A volume may have several connections and files; the soft limit is for programs using select().
void raise_file_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) {
    LOG_WARN("daemon: cannot raise the limit of open files: {}", std::strerror(errno));
  }
}

// Connections take at most half of the files that may be open: volumes, journal and pool must be
// able to go on when clients crowd in.
uint64_t connections_max(uint64_t wanted) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return wanted;
  return std::min<uint64_t>(wanted, limit.rlim_cur / 2);
}

// systemd's readiness protocol: one datagram to the socket it named.
void notify_service_manager(std::string_view state) {
  const char* path = std::getenv("NOTIFY_SOCKET");
  sockaddr_un address{};
  if (path == nullptr || std::strlen(path) >= sizeof address.sun_path) return;
  address.sun_family = AF_UNIX;
  const size_t length = std::strlen(path);
  std::memcpy(address.sun_path, path, length);
  if (address.sun_path[0] == '@') address.sun_path[0] = '\0';  // the abstract namespace
  const int fd = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  const auto address_length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length);
  if (::sendto(fd, state.data(), state.size(), MSG_NOSIGNAL,
               reinterpret_cast<const sockaddr*>(&address), address_length) < 0) {
    LOG_WARN("daemon: cannot notify the service manager: {}", std::strerror(errno));
  }
  ::close(fd);
}

// Everything that belongs to the reactor's thread.
class Data : public RestHost {
 public:
  Data(Reactor& reactor, PosixFileSystem& files, PosixNetwork& network, const Config& config,
       const Paths& paths, const DaemonOptions& options)
      : reactor_(reactor),
        files_(files),
        network_(network),
        config_(config),
        paths_(paths),
        options_(options),
        admission_(reactor),
        space_watch_(config.space) {
    space_timer_.context = this;
    space_timer_.on_expire = [](Timer& timer) { static_cast<Data*>(timer.context)->watch_space(); };
  }

  // Brings up the layers from the bottom; after an error, close() takes down those that are up.
  Task<Result<void>> open() {
    CO_TRY(open_engine());
    CO_TRY_ASSIGN(pool_,
                  co_await Pool::open(reactor_, *engine_->segments, *engine_->meta, pool_config()));
    CO_TRY_ASSIGN(volumes_,
                  co_await HostVolumes::open(reactor_, files_, *pool_, *engine_->meta,
                                             *engine_->segments, *engine_->logs, volumes_config()));
    nbd::NbdConfig nbd_config;
    nbd_config.endpoints.push_back({.unix_path = paths_.nbd_socket()});
    for (const Endpoint& endpoint : config_.nbd_listen) nbd_config.endpoints.push_back(endpoint);
    nbd_config.dead_peer_s = config_.nbd_dead_peer_s;
    nbd_config.limits.connections_max = connections_max(nbd_config.limits.connections_max);
    nbd_ = std::make_unique<nbd::NbdServer>(reactor_, network_, *volumes_, admission_,
                                            std::move(nbd_config));
    if (Result<void> started = nbd_->start(); !started) {
      nbd_.reset();
      co_return started;
    }
    collector_ = std::make_unique<Collector>(reactor_, *pool_, *engine_->segments, *engine_->meta,
                                             *volumes_, config_.gc);
    collector_->start();
    check_executor_ = make_thread_executor(reactor_, "squall-check");
    checks_ = std::make_unique<CheckJob>(check_target());
    started_s_ = reactor_.wall_clock_s();
    scrub_ = std::make_unique<Scrub>(check_target(), config_.scrub);
    scrub_->start();
    watch_space();
    co_return Result<void>{};
  }

  // Takes no further connection and ends those there are.
  Task<void> close_exports() {
    if (nbd_ == nullptr) co_return;
    if (volumes_ != nullptr) volumes_->refuse_writes();
    co_await nbd_->stop();
    nbd_.reset();
  }
  Task<void> close() {
    if (space_timer_.armed) reactor_.disarm(space_timer_);
    co_await close_exports();
    if (scrub_ != nullptr) co_await scrub_->stop();
    scrub_.reset();
    if (checks_ != nullptr) co_await checks_->stop();
    checks_.reset();
    if (collector_ != nullptr) co_await collector_->stop();
    collector_.reset();
    if (volumes_ != nullptr) co_await volumes_->stop();
    volumes_.reset();
    if (pool_ != nullptr) co_await pool_->stop();
    pool_.reset();
    if (engine_) co_await engine_->close();
    engine_.reset();
  }

  VolumeManager& volumes() { return *volumes_; }

  Task<Result<StatusInfo>> status() override;
  CollectorStatus gc_status() override { return collector_->status(); }
  uint64_t start_gc() override { return collector_->request(); }
  void cancel_gc() override { collector_->cancel(); }
  Result<uint64_t> start_check(CheckRequest request) override {
    return checks_->start(request.rate_bytes_per_s);
  }
  Result<CheckStatus> check_status(uint64_t id) override { return checks_->status(id); }
  void cancel_check(uint64_t id) override { checks_->cancel(id); }
  Task<void> disconnect_clients(std::string disk) override {
    return nbd_->disconnect_export(std::move(disk));
  }

 private:
  Result<void> open_engine() {
    auto engine = open_file_engine(reactor_, files_, config_.pool.directory);
    if (!engine && engine.error().kind() == ErrorKind::kNotFound) {
      return std::unexpected(engine.error().wrap("the pool is not there; run 'squall init'"));
    }
    if (!engine) return std::unexpected(engine.error());
    engine_.emplace(std::move(*engine));
    return {};
  }

  Pool::Config pool_config() const {
    return {.id = engine_->identity.id,
            .cache_bytes = config_.cache_bytes,
            .codec = static_cast<Codec>(engine_->identity.default_codec),
            .dedup_index_bytes = config_.dedup_index_bytes};
  }

  CheckTarget check_target() {
    return {.reactor = reactor_,
            .executor = *check_executor_,
            .segments = *engine_->segments,
            .catalog = *engine_->meta,
            .logs = *engine_->logs,
            .pool = engine_->identity.id,
            .files = &files_,
            .journal_directory = config_.journal_directory};
  }

  HostVolumesConfig volumes_config() const {
    HostVolumesConfig config;
    config.journal.directory = config_.journal_directory;
    // A small journal has small files, so that it has enough of them to go round, and volumes that
    // commit early, so that one of them does not fill it.
    constexpr uint64_t kFilesMin = 16;
    config.journal.file_bytes =
        std::min(config.journal.file_bytes, round_down(config_.journal_bytes / kFilesMin, kMiB));
    config.journal.max_files = config_.journal_bytes / config.journal.file_bytes;
    config.commit_bytes = std::min(config.commit_bytes, config_.journal_bytes / 8);
    config.quota_bytes = std::min(config.quota_bytes, config_.journal_bytes / 4);
    config.journal.id_if_new = Uuid::generate();
    config.accept_journal_loss = options_.accept_journal_loss;
    config.scratch.fast_directory = is_tmpfs(paths_.run_dir) ? paths_.run_dir + "/scratch" : "";
    config.scratch.overflow_directory = config_.scratch_directory;
    config.scratch.fast_budget_bytes = config_.scratch_memory_bytes;
    config.scratch.boot_id = read_line("/proc/sys/kernel/random/boot_id");
    config.host_name = host_name();
    return config;
  }

  NodeInfo node() const;
  std::vector<SpaceMeasure> measure_space();
  void watch_space();

  Reactor& reactor_;
  PosixFileSystem& files_;
  PosixNetwork& network_;
  const Config& config_;
  const Paths& paths_;
  const DaemonOptions options_;
  int64_t started_s_ = 0;
  std::optional<FileEngine> engine_;
  std::unique_ptr<Pool> pool_;
  std::unique_ptr<HostVolumes> volumes_;
  std::unique_ptr<Collector> collector_;
  std::unique_ptr<Executor> check_executor_;
  std::unique_ptr<CheckJob> checks_;
  std::unique_ptr<Scrub> scrub_;
  Admission admission_;
  std::unique_ptr<nbd::NbdServer> nbd_;
  SpaceWatch space_watch_;
  Timer space_timer_;
};

NodeInfo Data::node() const {
  NodeInfo node;
  node.name = host_name();
  node.state = "up";
  node.version = kVersion;
  node.pid = ::getpid();
  node.started_s = started_s_;
  node.home = paths_.home;
  node.control_socket = paths_.control_socket();
  node.nbd_socket = paths_.nbd_socket();
  for (size_t i = 0; i < config_.nbd_listen.size(); ++i) {
    Endpoint endpoint = config_.nbd_listen[i];
    if (const auto port = nbd_->bound_port(i + 1)) endpoint.port = *port;
    node.nbd_listen.push_back(endpoint.to_string());
  }
  return node;
}

SpaceMeasure measure(FileSystem& files, std::string name, const std::string& path) {
  SpaceMeasure found{.name = std::move(name), .path = path, .needed_bytes = 1};
  if (const auto space = files.space(path)) {
    found.total_bytes = space->total_bytes;
    found.available_bytes = space->available_bytes;
  } else {
    found.problem = space.error().message();
  }
  return found;
}

uint64_t allocated_in(FileSystem& files, const std::string& directory) {
  uint64_t bytes = 0;
  for (const std::string& name : files.list(directory).value_or(std::vector<std::string>{}))
    if (const auto info = files.stat(directory + "/" + name)) bytes += info->allocated_bytes;
  return bytes;
}

// The stores first, in the engine's order.
std::vector<SpaceMeasure> Data::measure_space() {
  std::vector<SpaceMeasure> measures;
  for (const StoreInfo& store : engine_->segments->stores().value_or(std::vector<StoreInfo>{})) {
    measures.push_back({.name = "store " + store.name,
                        .path = store.path,
                        .total_bytes = store.total_bytes,
                        .available_bytes = store.available_bytes,
                        .needed_bytes = HostVolumesConfig{}.reserve_bytes,
                        .problem = store.problem,
                        .advice = "remove volumes, snapshots or images, then run 'squall gc', or "
                                  "add a store with 'squall init --store'"});
  }
  SpaceMeasure journal = measure(files_, "journal", config_.journal_directory);
  // Its files are made once and used again and again: a disk that is full of them is no problem.
  const uint64_t present = allocated_in(files_, config_.journal_directory);
  journal.suffices = present + journal.available_bytes >= config_.journal_bytes;
  journal.advice =
      "the journal may not grow to its size, so bursts of writes wait sooner: free "
      "space there, or set a smaller journal.size";
  measures.push_back(std::move(journal));
  SpaceMeasure scratch = measure(files_, "scratch", config_.scratch_directory);
  scratch.advice = "stop stateless volumes that are no longer needed, or free space there";
  measures.push_back(std::move(scratch));
  return measures;
}

void Data::watch_space() {
  constexpr uint64_t kIntervalNs = 2'000'000'000;
  space_watch_.update(measure_space());
  reactor_.arm(space_timer_, reactor_.now_ns() + kIntervalNs);
}

void fill_dedup_status(const DedupStats& dedup, StatusInfo& status) {
  status.dedup_blocks_seen = dedup.blocks_seen;
  status.dedup_blocks_shared = dedup.blocks_shared;
  status.dedup_bytes_saved = dedup.blocks_shared * kBlockBytes;
  status.dedup_misses = dedup.runs_unreadable + dedup.runs_different + dedup.runs_refused;
  status.dedup_index_entries = dedup.index.entries;
  status.dedup_index_bytes = dedup.index.bytes;
  status.dedup_index_rate = dedup.index.rate;
  status.dedup_index_complete = dedup.index_complete;
}

Task<Result<StatusInfo>> Data::status() {
  StatusInfo status;
  status.node = node();
  status.pool = config_.pool.to_string();
  status.pool_id = engine_->identity.id.to_string();
  constexpr std::string_view kStore = "store ";
  for (SpaceStatus& space : space_watch_.update(measure_space())) {
    const bool is_store = space.name.starts_with(kStore);
    if (is_store) space.name.erase(0, kStore.size());
    (is_store ? status.stores : status.host_disks).push_back(std::move(space));
  }
  // With a store away there is no such list, and all the more need of a status.
  const auto segments = (co_await engine_->segments->list()).value_or(std::vector<SegmentInfo>{});
  status.pool_segments = segments.size();
  for (const SegmentInfo& segment : segments) {
    status.pool_bytes += segment.size_bytes;
    status.pool_allocated_bytes += segment.allocated_bytes;
  }
  CO_TRY_ASSIGN(const VolumeTotals totals, co_await volumes_->totals());
  status.images = totals.images;
  status.volumes = totals.volumes;
  status.open_volumes = totals.open_volumes;
  status.lost_volumes = totals.lost_volumes;
  status.damaged_journal_reads = totals.damaged_journal_reads;
  status.dirty_bytes = totals.dirty_bytes;
  status.bytes_read = totals.bytes_read;
  status.bytes_written = totals.bytes_written;
  status.damaged = volumes_->damaged();
  status.scrub = scrub_->status();
  status.gc = gc_status();
  status.memory_bytes = resident_bytes();
  const PoolStats pool = (co_await pool_->stats()).value_or(PoolStats{});
  status.cache_bytes = pool.cache.bytes;
  status.cache_hits = pool.cache.hits;
  status.cache_misses = pool.records_read;  // a look-up that misses may ask the cache twice
  status.cache_evictions = pool.cache.evictions;
  if (pool.dedup) fill_dedup_status(*pool.dedup, status);
  co_return status;
}

// The REST server on RUNDIR/control.sock.
Result<std::unique_ptr<HttpServer>> start_control(PosixNetwork& network, const Paths& paths,
                                                  const RestTarget& target) {
  TRY_ASSIGN(const int handle, network.listen({.unix_path = paths.control_socket()}));
  return HttpServer::start(handle, {}, [target] { return make_rest_session(target); });
}

void wait_for_signal(const sigset_t& signals) {
  int signal = 0;
  while (::sigwait(&signals, &signal) != 0) {
  }
  LOG_INFO("daemon: stopping on signal {}", signal);
}

Result<void> serve(Reactor& reactor, Data& data, PosixNetwork& network, const Paths& paths,
                   const sigset_t& signals) {
  TRY(on_reactor(reactor, [&data] { return data.open(); }));
  TRY_ASSIGN(const auto control, start_control(network, paths, {reactor, data.volumes(), data}));
  fmt::print("squalld: ready, control {}, nbd {}\n", paths.control_socket(), paths.nbd_socket());
  std::fflush(stdout);
  notify_service_manager("READY=1");
  wait_for_signal(signals);
  notify_service_manager("STOPPING=1");
  control->stop();
  ::unlink(paths.control_socket().c_str());
  return {};
}

// Logs go to stderr; stdout has the ready line.
void set_up_logging(const std::string& level) {
  spdlog::set_default_logger(spdlog::stderr_logger_mt("squalld"));
  spdlog::set_level(spdlog::level::from_str(level));
}

}  // namespace

Result<void> run_daemon(const Config& config, const Paths& paths, const DaemonOptions& options) {
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGTERM);
  ::sigaddset(&signals, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // threads started from here inherit it
  ::signal(SIGPIPE, SIG_IGN);
  set_up_logging(config.log_level);
  raise_file_limit();

  PosixFileSystem files;
  PosixNetwork network;
  TRY(files.make_directory(paths.run_dir));
  TRY_ASSIGN(const auto reactor, UringReactor::create());
  std::thread reactor_thread([&reactor] { reactor->run(); });
  Result<void> served;
  {
    Data data(*reactor, files, network, config, paths, options);
    served = serve(*reactor, data, network, paths, signals);
    on_reactor(*reactor, [&data] { return data.close(); });
  }
  reactor->stop();
  reactor_thread.join();
  return served;
}

Result<void> init_host(const Config& config, const InitOptions& options) {
  PosixFileSystem files;
  FilePoolOptions pool;
  for (const auto& [name, directory] : options.stores) pool.stores.push_back({name, directory});
  if (!options.compression.empty()) {
    TRY_ASSIGN(const Codec codec, parse_codec(options.compression));
    pool.default_codec = codec;
  }
  pool.created_s = std::time(nullptr);
  TRY(init_file_pool(files, config.pool.directory, pool));
  TRY(files.make_directory(config.journal_directory));
  return files.make_directory(config.scratch_directory);
}

}  // namespace squall
