#include "testing/sim_host.h"

namespace squall::testing {

Result<std::unique_ptr<SimHost>> SimHost::start(uint64_t seed, sim::SimDisk& disk,
                                                SimHostOptions options) {
  std::unique_ptr<SimHost> host(new SimHost(seed, disk));
  TRY(host->open(options));
  return host;
}

Result<void> SimHost::open(const SimHostOptions& options) {
  FileSystem& files = reactor_.files();
  if (!files.exists("/pool/squall-pool") || files.exists("/pool/squall-init"))
    TRY(init_file_pool(files, "/pool", {.stores = options.stores}));
  FileEngineOptions engine_options;
  engine_options.catalog_reserve_bytes = 256 * kKiB;  // simulated disks are small
  engine_options.store_reserve_bytes = 0;
  engine_options.make_executor = [](Reactor& reactor, const char*) {
    return std::make_unique<InlineExecutor>(reactor);
  };
  TRY_ASSIGN(FileEngine engine, open_file_engine(reactor_, files, "/pool", engine_options));
  engine_ = std::make_unique<FileEngine>(std::move(engine));
  Pool::Config pool_config;
  pool_config.id = engine_->identity.id;
  pool_config.cache_bytes = options.cache_bytes;
  pool_config.segment_bytes = options.segment_bytes;
  pool_config.dedup_index_bytes = options.dedup_index_bytes;
  pool_config.dedup_first_rate = 1;
  TRY_ASSIGN(pool_, run(Pool::open(reactor_, *engine_->segments, *engine_->meta, pool_config)));
  TRY_ASSIGN(volumes_, join(options));
  collector_ = std::make_unique<Collector>(reactor_, *pool_, *engine_->segments, *engine_->meta,
                                           *volumes_, options.collector);
  collector_->start();
  return {};
}

Result<std::unique_ptr<HostVolumes>> SimHost::join(const SimHostOptions& options) {
  HostVolumesConfig config;
  config.journal = options.journal;
  if (config.journal.id_if_new.is_nil()) config.journal.id_if_new.bytes[0] = std::byte{1};
  config.scratch = {options.fast_scratch, options.overflow_scratch, options.fast_budget_bytes,
                    options.boot_id};
  config.host_name = "sim";
  config.commit_bytes = options.commit_bytes;
  config.quota_bytes = options.quota_bytes;
  config.stall_ms = options.stall_ms;
  config.accept_journal_loss = options.accept_journal_loss;
  config.reserve_bytes = 64 * kKiB;
  return run(HostVolumes::open(reactor_, reactor_.files(), *pool_, *engine_->meta,
                               *engine_->segments, *engine_->logs, config));
}

Result<CheckReport> SimHost::check() {
  run(pool_->wait_recovered());
  return run(check_pool({.reactor = reactor_,
                         .executor = *engine_->executor,
                         .segments = *engine_->segments,
                         .catalog = *engine_->meta,
                         .logs = *engine_->logs,
                         .pool = engine_->identity.id}));
}

SimHost::~SimHost() {
  if (collector_ != nullptr) run(collector_->stop());
  if (volumes_ != nullptr) run(volumes_->stop());
  if (pool_ != nullptr) run(pool_->stop());
  if (engine_ != nullptr) run(engine_->close());
  collector_.reset();
  volumes_.reset();
  pool_.reset();
  engine_.reset();
}

}  // namespace squall::testing
