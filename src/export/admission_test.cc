#include "export/admission.h"

#include <gtest/gtest.h>

#include <optional>

#include "export/budget.h"
#include "io/run_task.h"
#include "io/uring_reactor.h"

namespace squall {
namespace {

PeerIdentity process(int64_t pid) {
  return {.is_unix = true, .pid = pid};
}
PeerIdentity host(std::string address) {
  return {.address = std::move(address)};
}

// A connection that leaves when the test says so.
struct FakePeer final : AdmittedPeer {
  bool is_hung_up() override { return hung_up; }
  void shut_down() override { ++shut_downs; }
  bool hung_up = false;
  int shut_downs = 0;
  std::optional<Admission::Ticket> ticket;
};

class AdmissionTest : public ::testing::Test {
 protected:
  static constexpr Admission::Access kVolume{.writable = true};
  static constexpr Admission::Access kShared{.writable = true, .shared = true};
  static constexpr Admission::Access kImage{.writable = false};

  void SetUp() override {
    auto created = UringReactor::create();
    ASSERT_TRUE(created) << created.error().message();
    reactor_ = std::move(*created);
    admission_.emplace(*reactor_);
  }
  // Starts an admission; it is done when `peer.ticket` is there (or `failures` has grown).
  void start(FakePeer& peer, PeerIdentity identity, Admission::Access access) {
    spawn(admission_->admit("vm", std::move(identity), access, peer),
          [this, &peer](Result<Admission::Ticket> ticket) {
            if (ticket) {
              peer.ticket = std::move(*ticket);
            } else {
              ++failures_;
            }
          });
  }
  bool admit(FakePeer& peer, PeerIdentity identity, Admission::Access access) {
    start(peer, std::move(identity), access);
    settle();
    return peer.ticket.has_value();
  }
  bool writes(const FakePeer& peer) const { return peer.ticket && peer.ticket->may_write(); }
  // Runs what is queued on the reactor, and what that queues.
  void settle() {
    for (int i = 0; i < 10; ++i) run_task(*reactor_, yield());
  }
  Task<void> yield() { co_await yield_to(*reactor_); }

  std::unique_ptr<UringReactor> reactor_;
  std::optional<Admission> admission_;
  int failures_ = 0;
  FakePeer a_, b_, c_;
};

TEST_F(AdmissionTest, OneWritingProcessOthersReadOnly) {
  ASSERT_TRUE(admit(a_, process(1), kVolume));
  ASSERT_TRUE(admit(b_, process(2), kVolume));
  ASSERT_TRUE(admit(c_, process(1), kVolume));
  EXPECT_TRUE(writes(a_));
  EXPECT_FALSE(writes(b_));
  EXPECT_TRUE(writes(c_)) << "one process may have several connections";
  EXPECT_FALSE(admission_->would_write("vm", process(2), kVolume));
  EXPECT_EQ(admission_->clients("vm").size(), 3U);
  a_.ticket.reset();
  EXPECT_FALSE(admission_->would_write("vm", process(2), kVolume));
  c_.ticket.reset();
  EXPECT_TRUE(admission_->would_write("vm", process(2), kVolume));
  EXPECT_FALSE(writes(b_)) << "what a client was told at first stays true";
}

TEST_F(AdmissionTest, ProcessesTheKernelCannotNameAreStrangers) {
  ASSERT_TRUE(admit(a_, process(0), kVolume));
  ASSERT_TRUE(admit(b_, process(0), kVolume));
  EXPECT_TRUE(writes(a_));
  EXPECT_FALSE(writes(b_));
}

TEST_F(AdmissionTest, SharedAndReadOnlyDisksHaveNoSlot) {
  ASSERT_TRUE(admit(a_, process(1), kShared));
  ASSERT_TRUE(admit(b_, host("10.0.0.1"), kShared));
  ASSERT_TRUE(admit(c_, host("10.0.0.1"), kShared));
  EXPECT_TRUE(writes(a_) && writes(b_) && writes(c_));
  EXPECT_EQ(b_.shut_downs, 0);
  a_.ticket.reset(), b_.ticket.reset(), c_.ticket.reset();
  ASSERT_TRUE(admit(a_, process(1), kImage));
  ASSERT_TRUE(admit(b_, host("10.0.0.1"), kImage));
  ASSERT_TRUE(admit(c_, host("10.0.0.1"), kImage));
  EXPECT_FALSE(writes(a_) || writes(b_) || writes(c_));
  EXPECT_EQ(b_.shut_downs, 0);
}

TEST_F(AdmissionTest, HungUpConnectionsLeaveBeforeAnybodyIsAnswered) {
  ASSERT_TRUE(admit(a_, process(1), kVolume));
  a_.hung_up = true;
  EXPECT_TRUE(admission_->would_write("vm", process(2), kVolume));
  EXPECT_FALSE(admit(b_, process(2), kVolume)) << "the dead one's requests are still in flight";
  EXPECT_FALSE(admit(c_, process(3), kVolume)) << "in turn";
  EXPECT_EQ(a_.shut_downs, 1);
  a_.ticket.reset();
  settle();
  EXPECT_TRUE(writes(b_));
  ASSERT_TRUE(c_.ticket);
  EXPECT_FALSE(writes(c_));
}

TEST_F(AdmissionTest, OnTcpTheSameClientReplacesItsOwnWriter) {
  ASSERT_TRUE(admit(a_, host("10.0.0.1"), kVolume));
  EXPECT_TRUE(writes(a_));
  ASSERT_TRUE(admit(b_, host("10.0.0.2"), kVolume));
  EXPECT_FALSE(writes(b_));
  EXPECT_EQ(a_.shut_downs, 0);
  EXPECT_FALSE(admit(c_, host("10.0.0.1"), kVolume));
  EXPECT_EQ(a_.shut_downs, 1);
  EXPECT_EQ(b_.shut_downs, 0);
  a_.ticket.reset();
  settle();
  EXPECT_TRUE(writes(c_));
}

TEST_F(AdmissionTest, EvictionWaitsForMembersAndTurnsNewcomersAway) {
  ASSERT_TRUE(admit(a_, process(1), kVolume));
  a_.hung_up = true;
  start(b_, process(2), kVolume);
  settle();
  bool evicted = false;
  spawn(admission_->evict("vm"), [&] { evicted = true; });
  settle();
  EXPECT_FALSE(evicted);
  EXPECT_EQ(failures_, 1);
  a_.ticket.reset();
  settle();
  EXPECT_TRUE(evicted);
  EXPECT_FALSE(b_.ticket);
  ASSERT_TRUE(admit(c_, process(3), kVolume)) << "the name may be used again";
  EXPECT_TRUE(writes(c_));
}

TEST_F(AdmissionTest, BudgetIsFairWhateverTheSizes) {
  Budget budget(*reactor_, 10);
  auto first = budget.try_acquire(6);
  ASSERT_TRUE(first);
  std::vector<int> order;
  std::vector<Budget::Lease> leases;
  const auto demand = [](Budget& from, uint64_t units, int id, std::vector<int>& order,
                         std::vector<Budget::Lease>& leases) -> Task<void> {
    auto lease = co_await from.acquire(units);
    order.push_back(id);
    leases.push_back(std::move(lease));
  };
  spawn(demand(budget, 8, 1, order, leases));
  spawn(demand(budget, 1, 2, order, leases));
  spawn(demand(budget, 100, 3, order, leases));  // more than there is
  settle();
  EXPECT_TRUE(order.empty()) << "a small demand does not overtake a large one";
  EXPECT_FALSE(budget.try_acquire(1));
  first = {};
  settle();
  EXPECT_EQ(order, (std::vector{1, 2}));
  leases.clear();
  settle();
  EXPECT_EQ(order, (std::vector{1, 2, 3})) << "granted when nothing else is held";
  leases.clear();
  EXPECT_EQ(budget.used(), 0U);
}

}  // namespace
}  // namespace squall
