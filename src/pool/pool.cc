// Reading goes: record cache, a read of the same record that is already under way, batches not yet
// written, the segment. What comes from a segment is verified against its address (checksum seeded
// with pool, segment and sector; length; kind) before anybody sees a byte of it, and read once more
// when it does not verify, since a fault on the way from the medium need not repeat.
#include "pool/pool.h"

#include <algorithm>
#include <bit>
#include <cerrno>

#include "base/buffer.h"
#include "base/check.h"
#include "base/log.h"
#include "pool/segment_reader.h"

namespace squall {

namespace {
class RecordPayload final : public Payload {
 public:
  RecordPayload(RecordKind kind, std::unique_ptr<std::byte[]> data, size_t size)
      : Payload({data.get(), size}), kind_(kind), data_(std::move(data)) {}
  RecordKind kind() const { return kind_; }

  static std::shared_ptr<RecordPayload> copy_of(RecordKind kind, ConstBytes bytes) {
    auto data = std::make_unique_for_overwrite<std::byte[]>(bytes.size());
    std::memcpy(data.get(), bytes.data(), bytes.size());
    return std::make_shared<RecordPayload>(kind, std::move(data), bytes.size());
  }

 private:
  RecordKind kind_;
  std::unique_ptr<std::byte[]> data_;
};

std::unexpected<Error> corrupt(Address address, std::string_view what) {
  return std::unexpected(Error(
      ErrorKind::kCorrupt, fmt::format("pool: record at {}: {}", address.to_string(), what), EIO));
}

// Everything in the cache and in flight was made here, as a RecordPayload.
Result<PayloadRef> expect_kind(RecordKind kind, Address address, PayloadRef payload) {
  const RecordKind actual = static_cast<const RecordPayload&>(*payload).kind();
  if (actual != kind)
    return corrupt(address,
                   fmt::format("is of kind {}, not {}", to_string(actual), to_string(kind)));
  return payload;
}

Result<void> expect_store(const std::vector<StoreInfo>& stores, const std::string& name) {
  if (std::ranges::find(stores, name, &StoreInfo::name) == stores.end())
    return fail(ErrorKind::kNotFound, "pool: there is no store '{}'", name);
  return {};
}

SegmentId first_free_number(const std::vector<SegmentInfo>& found) {
  SegmentId highest = 0;
  for (const SegmentInfo& segment : found) highest = std::max(highest, segment.id);
  return highest + 1;
}
}  // namespace

struct Pool::Flight {
  explicit Flight(Reactor& reactor) : done(reactor) {}
  std::optional<Result<PayloadRef>> result;
  bool forgotten = false;  // the record was freed meanwhile
  WaitQueue done;
};

Result<void> Pool::Config::validate() const {
  if (id.is_nil()) return fail(ErrorKind::kInvalid, "pool: it has no id");
  if (segment_bytes < kMinSegmentBytes || segment_bytes > kMaxSegmentBytes ||
      segment_bytes % kBlockBytes != 0)
    return fail(ErrorKind::kInvalid,
                "pool: segment size {} is not a multiple of {} between {} and {} bytes",
                segment_bytes, kBlockBytes, kMinSegmentBytes, kMaxSegmentBytes);
  if (!std::has_single_bit(dedup_first_rate))
    return fail(ErrorKind::kInvalid, "pool: deduplication's rate {} is not a power of two",
                dedup_first_rate);
  return {};
}

Pool::Pool(Reactor& reactor, SegmentStore& segments, MetaStore& catalog, Config config,
           const std::vector<SegmentInfo>& found)
    : reactor_(reactor),
      segments_(segments),
      config_(std::move(config)),
      pool_seed_(pool_seed(config_.id)),
      codec_(config_.codec),
      cache_(config_.cache_bytes),
      numbers_(reactor, catalog, first_free_number(found)),
      recovery_(reactor, segments, config_.id,
                [this](SegmentId id, SegmentTotals totals, bool sealed) {
                  ended_[id] = {std::move(totals), sealed};
                }) {
  if (config_.dedup_index_bytes == 0) return;
  const SparseIndex::Config index{config_.dedup_index_bytes, config_.dedup_first_rate};
  dedup_ = std::make_unique<Deduplicator>(reactor, static_cast<DedupSource&>(*this), index);
}

Pool::~Pool() {
  CHECK(gate_.is_closed());
}

Task<Result<std::unique_ptr<Pool>>> Pool::open(Reactor& reactor, SegmentStore& segments,
                                               MetaStore& catalog, Config config) {
  CO_TRY(config.validate());
  CO_TRY_ASSIGN(const std::vector<StoreInfo> stores, segments.stores());
  if (stores.empty()) co_return fail(ErrorKind::kInvalid, "pool: it has no store");
  if (config.default_store.empty()) config.default_store = stores.front().name;
  CO_TRY(expect_store(stores, config.default_store));
  CO_TRY_ASSIGN(std::vector<SegmentInfo> found, co_await segments.list());
  std::unique_ptr<Pool> pool(new Pool(reactor, segments, catalog, std::move(config), found));
  spawn(pool->recover(std::move(found)));
  co_return pool;
}

Task<void> Pool::recover(std::vector<SegmentInfo> found) {
  const Gate::Pass pass = gate_.enter();
  std::vector<SegmentId> segments;
  for (const SegmentInfo& segment : found) segments.push_back(segment.id);
  co_await recovery_.run(std::move(found));
  if (dedup_ != nullptr) co_await index_footers(std::move(segments));
}

Result<AppendStream*> Pool::stream_for(const std::string& store) {
  if (const auto stream = streams_.find(store); stream != streams_.end()) return &stream->second;
  TRY_ASSIGN(const std::vector<StoreInfo> stores, segments_.stores());
  TRY(expect_store(stores, store));
  AppendStream::Options options{
      .pool = config_.id,
      .store = store,
      .segment_bytes = config_.segment_bytes,
      .on_loss =
          [this, store](SegmentId id, const Error& error) {
            ++losses_;
            last_loss_ = error;
            Losses& own = losses_by_store_[store];
            ++own.count;
            own.last = error;
            if (dedup_ != nullptr) dedup_->forget(id);
          },
      .on_chunk =
          [this](SegmentId id, uint64_t record, std::span<const Fingerprint> fingerprints) {
            if (dedup_ != nullptr) dedup_->add(id, record, fingerprints);
          },
      .on_end = [this](SegmentId id, SegmentTotals totals,
                       bool sealed) { ended_[id] = {std::move(totals), sealed}; }};
  const auto [stream, made] = streams_.try_emplace(store, reactor_, segments_, numbers_, options);
  return &stream->second;
}

Task<Result<Address>> Pool::append(RecordKind kind, ConstBytes payload, const Placement& placement,
                                   std::span<const Fingerprint> fingerprints) {
  const Gate::Pass pass = gate_.enter();
  if (!pass) co_return fail(ErrorKind::kCancelled, "pool: it is being closed");
  CHECK(!payload.empty() && payload.size() <= kMaxPayloadBytes && !is_zero(payload));
  CO_TRY_ASSIGN(AppendStream * stream, stream_for(store_of(placement)));
  // A page is read again by the next look-up; chunks wait until somebody asks for them.
  PayloadRef page;
  if (kind == RecordKind::kPage) page = RecordPayload::copy_of(kind, payload);
  const RecordCodec::Encoded encoded = codec_.encode(payload);
  CO_TRY_ASSIGN(const Address address, co_await stream->append({kind, encoded.codec, encoded.stored,
                                                                payload.size(), fingerprints}));
  appended_bytes_ += address.stored_bytes();
  if (page != nullptr) keep(address, page);
  co_return address;
}

AppendMark Pool::mark(const Placement& placement) const {
  const std::string& store = store_of(placement);
  const auto losses = losses_by_store_.find(store);
  return {losses == losses_by_store_.end() ? 0 : losses->second.count, store};
}

// A store that is full or failing holds up only those who appended to it.
Task<Result<void>> Pool::sync(AppendMark since) {
  const Gate::Pass pass = gate_.enter();
  if (!pass) co_return fail(ErrorKind::kCancelled, "pool: it is being closed");
  std::vector<AppendStream*> streams;
  for (auto& [store, stream] : streams_)
    if (!since.store || store == *since.store) streams.push_back(&stream);
  for (AppendStream* stream : streams) stream->request_sync();
  Result<void> result;
  for (AppendStream* stream : streams) {
    auto synced = co_await stream->sync();
    if (!synced && result) result = std::move(synced);
  }
  if (!result) co_return result;
  if (!since.store) {
    if (losses_ != since.losses) co_return std::unexpected(*last_loss_);
  } else if (const auto losses = losses_by_store_.find(*since.store);
             losses != losses_by_store_.end() && losses->second.count != since.losses) {
    co_return std::unexpected(*losses->second.last);
  }
  co_return result;
}

Task<Result<PayloadRef>> Pool::read(RecordKind kind, Address address) {
  const Gate::Pass pass = gate_.enter();
  if (!pass) co_return fail(ErrorKind::kCancelled, "pool: it is being closed");
  if (PayloadRef payload = cache_.find(address))
    co_return expect_kind(kind, address, std::move(payload));
  CO_TRY_ASSIGN(PayloadRef payload, co_await fetch(address));
  co_return expect_kind(kind, address, std::move(payload));
}

Task<Result<PayloadRef>> Pool::fetch(Address address) {
  if (const auto other = flights_.find(address); other != flights_.end()) {
    const std::shared_ptr<Flight> flight = other->second;
    co_await flight->done.wait();
    co_return *flight->result;
  }
  if (address.is_hole() || address.sectors() == 0 || address.sectors() > kMaxRecordSectors ||
      address.offset_bytes() < kSegmentHeaderBytes)
    co_return corrupt(address, "there can be no record at such an address");
  if (const ConstBytes stored = find_unwritten(address); !stored.empty()) {
    auto payload = decode(address, stored);
    if (payload) keep(address, *payload);
    co_return payload;
  }
  const auto flight = std::make_shared<Flight>(reactor_);
  flights_.emplace(address, flight);
  flight->result = co_await read_segment(address);
  flights_.erase(address);
  if (*flight->result && !flight->forgotten) keep(address, **flight->result);
  flight->done.wake_all();
  co_return *flight->result;
}

Task<Result<PayloadRef>> Pool::read_segment(Address address) {
  ++records_read_;
  auto payload = co_await read_verified(address);
  if (payload) co_return payload;
  if (payload.error().kind() == ErrorKind::kCorrupt) ++corrupt_reads_;
  LOG_ERROR("{}", payload.error().message());
  co_return payload;
}

Task<Result<PayloadRef>> Pool::read_verified(Address address) {
  AlignedBuffer stored(address.stored_bytes());
  std::optional<Error> error;
  for (int attempt = 0; attempt < 2; ++attempt) {
    auto bytes = co_await segments_.read(address.segment(), stored.bytes(), address.offset_bytes());
    if (!bytes) {
      error = bytes.error().kind() == ErrorKind::kNotFound
                  ? corrupt(address, "its segment does not exist").error()
                  : bytes.error().wrap(fmt::format("pool: record at {}", address.to_string()));
      continue;
    }
    auto payload = decode(address, ConstBytes(stored.bytes()).first(*bytes));
    if (payload) co_return payload;
    error = std::move(payload).error();
  }
  co_return std::unexpected(*std::move(error));
}

Result<PayloadRef> Pool::decode(Address address, ConstBytes stored) {
  if (stored.size() != address.stored_bytes())
    return corrupt(address, fmt::format("the segment ends after {} bytes of it", stored.size()));
  const auto record =
      decode_record(stored, record_seed(pool_seed_, address.segment(), address.sector()));
  if (!record) return corrupt(address, record.error().message());
  const RecordHeader& header = record->header;
  if (header.sectors() != address.sectors())
    return corrupt(address, fmt::format("it is {} sectors long", header.sectors()));
  auto data = std::make_unique_for_overwrite<std::byte[]>(header.raw_bytes);
  const auto decoded = codec_.decode(header.codec, record->payload, {data.get(), header.raw_bytes});
  if (!decoded) return corrupt(address, decoded.error().message());
  return std::make_shared<RecordPayload>(header.kind, std::move(data), header.raw_bytes);
}

void Pool::keep(Address address, const PayloadRef& payload) {
  cache_.insert(address, payload, payload->bytes().size() + sizeof(RecordPayload));
}

ConstBytes Pool::find_unwritten(Address address) const {
  for (const auto& [store, stream] : streams_)
    if (const ConstBytes stored = stream.find_unwritten(address); !stored.empty()) return stored;
  return {};
}

void Pool::retire_segments(uint64_t used_bytes_min) {
  for (auto& [store, stream] : streams_) stream.retire(used_bytes_min);
}

Task<void> Pool::wait_sealing() {
  for (auto& [store, stream] : streams_) co_await stream.wait_sealing();
}

std::vector<SegmentId> Pool::sealed_segments() const {
  std::vector<SegmentId> ids;
  for (const auto& [id, state] : ended_)
    if (state.sealed) ids.push_back(id);
  return ids;
}

bool Pool::has_segment(SegmentId id) const {
  if (ended_.contains(id)) return true;
  bool found = false;
  for (const auto& [store, stream] : streams_)
    stream.for_each_open([&](SegmentId open, const SegmentTotals&) { found |= open == id; });
  return found;
}

Task<Result<SegmentFooter>> Pool::load_footer(SegmentId id, uint64_t segment_bytes) {
  CO_TRY_ASSIGN(const SegmentTrailer trailer,
                co_await read_segment_trailer(segments_, config_.id, id, segment_bytes));
  co_return co_await read_segment_footer(segments_, trailer);
}

void Pool::forget(Address address) {
  cache_.erase(address);
  if (const auto flight = flights_.find(address); flight != flights_.end())
    flight->second->forgotten = true;
}

void Pool::set_segment_totals(SegmentId id, std::optional<SegmentTotals> totals) {
  if (totals) {
    ended_.at(id).totals = *std::move(totals);
    return;
  }
  ended_.erase(id);
  if (dedup_ != nullptr) dedup_->forget(id);
}

Task<Result<PoolStats>> Pool::stats() {
  const Gate::Pass pass = gate_.enter();
  if (!pass) co_return fail(ErrorKind::kCancelled, "pool: it is being closed");
  CO_TRY_ASSIGN(const std::vector<SegmentInfo> found, co_await segments_.list());
  CO_TRY_ASSIGN(const std::vector<StoreInfo> known, segments_.stores());
  std::map<std::string, StoreStats> stores;
  for (const StoreInfo& store : known) stores[store.name];
  std::map<SegmentId, SegmentTotals> open;
  for (const auto& [store, stream] : streams_)
    stream.for_each_open(
        [&](SegmentId id, const SegmentTotals& totals) { open.insert_or_assign(id, totals); });
  for (const SegmentInfo& segment : found) {
    StoreStats& store = stores[segment.store];
    ++store.segments;
    store.allocated_bytes += segment.allocated_bytes;
    const auto ended = ended_.find(segment.id);
    const bool sealed = ended != ended_.end() && ended->second.sealed;
    if (!sealed) ++store.unsealed_segments;
    const SegmentTotals& totals = ended != ended_.end() ? ended->second.totals : open[segment.id];
    store.records += totals.records;
    store.raw_bytes += totals.raw_bytes;
    store.stored_bytes += totals.stored_bytes;
  }
  PoolStats stats{.cache = cache_.stats(),
                  .records_read = records_read_,
                  .corrupt_reads = corrupt_reads_,
                  .losses = losses_};
  if (dedup_ != nullptr) stats.dedup = dedup_->stats();
  for (auto& [name, store] : stores) {
    store.store = name;
    stats.stores.push_back(std::move(store));
  }
  co_return stats;
}

Task<void> Pool::stop() {
  recovery_.cancel();
  co_await gate_.close();
  for (auto& [store, stream] : streams_) co_await stream.stop();
}

}  // namespace squall
