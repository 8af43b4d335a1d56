#include "testing/memory_record_store.h"

#include <utility>

namespace squall {
namespace {

class MemoryPayload : public Payload {
 public:
  explicit MemoryPayload(ConstBytes bytes) : Payload({}), storage_(bytes.begin(), bytes.end()) {
    bytes_ = storage_;
  }

 private:
  std::vector<std::byte> storage_;
};

}  // namespace

Address MemoryRecordStore::assign(size_t payload_bytes) {
  const uint64_t sectors =
      round_up(kRecordHeaderBytes + payload_bytes, kSectorBytes) / kSectorBytes;
  if (next_sector_ + sectors > kMaxSegmentBytes / kSectorBytes) {
    ++next_segment_;
    next_sector_ = 1;
  }
  const Address address = Address::make(next_segment_, next_sector_, sectors);
  next_sector_ += sectors;
  return address;
}

bool MemoryRecordStore::must_fail() {
  if (calls_until_failure_ == 0 || --calls_until_failure_ > 0) return false;
  has_failed_ = true;
  return true;
}

Task<Result<Address>> MemoryRecordStore::append(RecordKind kind, ConstBytes payload,
                                                const Placement&, std::span<const Fingerprint>) {
  CHECK(payload.size() <= 64 * kKiB && !is_zero(payload));
  ++counts_.appends;
  const bool fails = must_fail();
  Address address;
  if (fails) {
    lose_undurable();
  } else {
    address = assign(payload.size());
    payload_bytes_ += payload.size();
    records_.emplace(address, Record{kind, std::make_shared<MemoryPayload>(payload)});
    undurable_.push_back(address);
  }
  if (random_.chance(options_.suspend_chance)) co_await yield_to(reactor_);
  if (fails) co_return fail_errno(EIO, "memory store: append told to fail");
  co_return address;
}

Task<Result<void>> MemoryRecordStore::sync(AppendMark since) {
  ++counts_.syncs;
  if (must_fail()) lose_undurable();
  undurable_.clear();
  const bool has_lost = losses_ > since.losses;
  if (random_.chance(options_.suspend_chance)) co_await yield_to(reactor_);
  if (has_lost) co_return fail_errno(EIO, "memory store: records were lost");
  co_return Result<void>();
}

void MemoryRecordStore::lose_undurable() {
  for (Address address : undurable_) records_.erase(address);
  undurable_.clear();
  ++losses_;
}

Task<Result<PayloadRef>> MemoryRecordStore::read(RecordKind kind, Address address) {
  ++counts_.reads;
  const bool fails = must_fail();
  if (random_.chance(options_.suspend_chance)) co_await yield_to(reactor_);
  if (fails)
    co_return fail_errno(EIO, "memory store: read of {} told to fail", address.to_string());
  CO_TRY_ASSIGN(const Record record, find(kind, address));
  co_return record.payload;
}

PayloadRef MemoryRecordStore::read_cached(Address address) {
  const auto it = records_.find(address);
  if (it == records_.end() || !random_.chance(options_.cached_chance)) return nullptr;
  ++counts_.cached_reads;
  return it->second.payload;
}

Result<MemoryRecordStore::Record> MemoryRecordStore::find(RecordKind kind, Address address) const {
  const auto it = records_.find(address);
  if (it == records_.end())
    return fail(ErrorKind::kCorrupt, "memory store: no record at {}", address.to_string());
  if (it->second.kind != kind)
    return fail(ErrorKind::kCorrupt, "memory store: another kind of record at {}",
                address.to_string());
  return it->second;
}

void MemoryRecordStore::overwrite(Address address, ConstBytes payload) {
  const auto it = records_.find(address);
  CHECK(it != records_.end());
  it->second.payload = std::make_shared<MemoryPayload>(payload);
}

ConstBytes MemoryRecordStore::payload(Address address) const {
  const auto it = records_.find(address);
  CHECK(it != records_.end());
  return it->second.payload->bytes();
}

}  // namespace squall
