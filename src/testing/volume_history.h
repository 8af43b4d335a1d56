// VolumeHistory: what one volume may contain after a crash: its changes in the order in which they
// were asked for, how many of them were acknowledged and how many promised to be durable. A plain
// value. Requests to one volume must not overlap, so that their order is known.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/bytes.h"

namespace squall::testing {

using Content = std::vector<std::byte>;

class VolumeHistory {
 public:
  struct Change {
    enum class Kind : uint8_t { kData, kZero, kResize, kReplace };
    Kind kind = Kind::kData;
    uint64_t offset = 0;
    uint64_t length = 0;                  // kResize: the new size
    std::shared_ptr<const Content> data;  // kData, and kReplace: all of it

    void apply(Content& to) const;
  };

  VolumeHistory() = default;
  explicit VolumeHistory(Content base) : base_(std::move(base)), now_(base_) {}

  void issue(Change change);
  void acknowledge(size_t count);
  void make_durable(size_t count) { durable_ = std::max(durable_, count); }
  // The changes from `count` on failed without effect. Until another change is acknowledged the
  // log's end may still hold them, for a crash to bring back.
  void drop_from(size_t count);
  // The host died: of what was acknowledged only what was durable still counts.
  void lose_acknowledgements() { acknowledged_ = durable_; }
  // Everything issued is acknowledged and durable: begins anew with the present content.
  void settle();

  size_t issued() const { return changes_.size(); }
  size_t acknowledged() const { return acknowledged_; }
  size_t durable() const { return durable_; }
  const Content& now() const { return now_; }  // with everything issued
  Content at(size_t count) const;

  // How many changes, between `first` and `last`, the volume had when it was equal to `got`.
  std::optional<size_t> find(const Content& got, size_t first, size_t last) const;
  // Whether `got` is what the acknowledged changes and some failed ones leave.
  bool matches_failed(const Content& got) const;
  // Whether `got` is what the acknowledged changes leave, but for the bytes of those under way,
  // each of which may be old or new.
  bool matches_in_flight(const Content& got) const;

 private:
  Content base_;
  Content now_;
  std::vector<Change> changes_;
  std::vector<Change> failed_;  // since the last acknowledgement
  size_t acknowledged_ = 0;
  size_t durable_ = 0;
};

}  // namespace squall::testing
