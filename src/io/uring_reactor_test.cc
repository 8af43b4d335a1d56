#include "io/uring_reactor.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "io/run_task.h"
#include "io/test_reactor.h"

namespace squall {
namespace {

constexpr uint64_t kMillisecond_ns = 1'000'000;

// A file that exists only as a handle.
class ScratchFile {
 public:
  explicit ScratchFile(ConstBytes content = {}) {
    std::string path = testing::TempDir() + "squall_reactor_XXXXXX";
    handle_ = ::mkostemp(path.data(), O_CLOEXEC);
    CHECK(handle_ >= 0);
    ::unlink(path.c_str());
    CHECK(::pwrite(handle_, content.data(), content.size(), 0) ==
          static_cast<ssize_t>(content.size()));
  }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  ~ScratchFile() { ::close(handle_); }
  int handle() const { return handle_; }

 private:
  int handle_;
};

AlignedBuffer pattern(size_t size) {
  AlignedBuffer buffer(size);
  for (size_t i = 0; i < size; ++i) buffer.data()[i] = static_cast<std::byte>(i * 31 + i / 4096);
  return buffer;
}

bool same(ConstBytes a, ConstBytes b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

// An Operation with its buffer, for tests that need the operation itself.
struct OwnedOperation {
  Operation op;
  std::array<std::byte, 64> buffer{};
  iovec iov{buffer.data(), buffer.size()};
  int completions = 0;

  OwnedOperation() = default;
  OwnedOperation(Operation::Code code, int handle) { prepare(code, handle); }
  void prepare(Operation::Code code, int handle) {
    op.code = code;
    op.handle = handle;
    op.iov = &iov;
    op.iov_count = 1;
    op.context = this;
    op.on_complete = [](Operation& self) {
      ++static_cast<OwnedOperation*>(self.context)->completions;
    };
  }
};

void turn_without_blocking(Reactor& reactor) {
  reactor.post([] {});
  reactor.run_once();
}

// --- Posting and stopping ------------------------------------------------------------------------

TEST(UringReactor, PostedWorkRunsInOrderAndNotInsidePost) {
  auto reactor = make_test_reactor();
  std::vector<int> order;
  for (int i = 0; i < 100; ++i) reactor->post([&order, i] { order.push_back(i); });
  reactor->post([&] { reactor->post([&] { order.push_back(-1); }); });
  EXPECT_TRUE(order.empty());
  reactor->stop();
  reactor->run();
  ASSERT_EQ(order.size(), 100U) << "work posted by work comes in a later turn, after the stop";
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
  reactor->run_once();
  EXPECT_EQ(order.back(), -1);
}

TEST(UringReactor, EachThreadsPostsKeepTheirOrder) {
  constexpr int kThreads = 4;
  constexpr int kPosts = 5000;
  auto reactor = make_test_reactor();
  std::array<int, kThreads> next{};
  int received = 0;
  bool in_order = true;
  std::vector<std::thread> posters;
  posters.reserve(kThreads);
  for (size_t t = 0; t < kThreads; ++t)
    posters.emplace_back([&, t] {
      for (int i = 0; i < kPosts; ++i) {
        reactor->post([&, t, i] {
          in_order = in_order && next[t]++ == i;
          if (++received == kThreads * kPosts) reactor->stop();
        });
        if (i % 64 == 0) std::this_thread::yield();  // lets the reactor fall asleep at times
      }
    });
  reactor->run();
  for (auto& poster : posters) poster.join();
  EXPECT_TRUE(in_order);
  EXPECT_EQ(received, kThreads * kPosts);
}

TEST(UringReactor, APostWakesASleepingReactor) {
  auto reactor = make_test_reactor();
  std::atomic<int> ran = 0;
  std::thread loop([&] { reactor->run(); });
  for (int i = 1; i <= 200; ++i) {
    reactor->post([&] { ++ran; });
    while (ran.load() < i) std::this_thread::yield();
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  reactor->stop();
  loop.join();
  EXPECT_EQ(ran.load(), 200);
}

TEST(UringReactor, TwoReactorsPassACoroutineBetweenTheirThreads) {
  auto here = make_test_reactor();
  auto there = make_test_reactor();
  std::thread loop([&] { there->run(); });
  const int hops = run_task(*here, [](Reactor& a, Reactor& b) -> Task<int> {
    int count = 0;
    for (; count < 500; ++count) {
      co_await yield_to(b);
      co_await yield_to(a);
    }
    co_return count;
  }(*here, *there));
  EXPECT_EQ(hops, 500);
  there->stop();
  loop.join();
}

TEST(UringReactor, StopFromAnyThreadEndsRunAndRunCanGoOn) {
  auto reactor = make_test_reactor();
  for (int round = 0; round < 20; ++round) {
    std::thread stopper([&] { reactor->stop(); });
    reactor->run();
    stopper.join();
  }
}

TEST(UringReactor, MayBePreparedOnAnotherThreadThanItRunsOn) {
  auto reactor = make_test_reactor();
  ScratchFile file(as_bytes("hello"));
  OwnedOperation read(Operation::Code::kRead, file.handle());
  reactor->submit(read.op);
  std::thread loop([&] { reactor->run(); });
  reactor->post([&] { reactor->stop(); });
  loop.join();
  EXPECT_EQ(read.completions, 1);
  EXPECT_EQ(read.op.result, 5);
}

// --- Timers --------------------------------------------------------------------------------------

struct LoggedTimer {
  Timer timer;
  std::vector<int>* log = nullptr;
  int id = 0;
  void prepare(std::vector<int>& to, int number) {
    log = &to;
    id = number;
    timer.context = this;
    timer.on_expire = [](Timer& t) {
      auto* self = static_cast<LoggedTimer*>(t.context);
      self->log->push_back(self->id);
    };
  }
};

TEST(UringReactor, TimersFireByDeadlineThenByArming) {
  auto reactor = make_test_reactor();
  std::vector<int> log;
  std::array<LoggedTimer, 6> timers;
  const uint64_t start = reactor->now_ns();
  const std::array<uint64_t, 6> delays_ms = {9, 3, 6, 3, 3, 0};
  for (size_t i = 0; i < timers.size(); ++i) {
    timers[i].prepare(log, static_cast<int>(i));
    reactor->arm(timers[i].timer, start + delays_ms[i] * kMillisecond_ns);
  }
  reactor->disarm(timers[3].timer);
  reactor->disarm(timers[3].timer);
  while (log.size() < 5) reactor->run_once();
  EXPECT_EQ(log, (std::vector<int>{5, 1, 4, 2, 0}));
  EXPECT_GE(reactor->now_ns(), start + 9 * kMillisecond_ns);
  EXPECT_FALSE(timers[0].timer.armed);
}

TEST(UringReactor, ATimerMayDisarmAnotherThatIsDue) {
  auto reactor = make_test_reactor();
  std::vector<int> log;
  struct Pair {
    Reactor* reactor;
    LoggedTimer victim;
    Timer first;
  } pair{reactor.get(), {}, {}};
  pair.victim.prepare(log, 1);
  pair.first.context = &pair;
  pair.first.on_expire = [](Timer& t) {
    auto* self = static_cast<Pair*>(t.context);
    self->reactor->disarm(self->victim.timer);
  };
  reactor->arm(pair.first, 1);
  reactor->arm(pair.victim.timer, 2);
  turn_without_blocking(*reactor);
  turn_without_blocking(*reactor);
  EXPECT_TRUE(log.empty());
}

TEST(UringReactor, SleepTakesItsTime) {
  auto reactor = make_test_reactor();
  const uint64_t start = reactor->now_ns();
  run_task(*reactor, [](Reactor& r) -> Task<void> {
    co_await sleep_ns(r, 2 * kMillisecond_ns);
    co_await sleep_ns(r, 2 * kMillisecond_ns);
  }(*reactor));
  EXPECT_GE(reactor->now_ns() - start, 4 * kMillisecond_ns);
}

// --- Fairness ------------------------------------------------------------------------------------

Task<void> read_forever(Reactor& reactor, int handle, const bool& stop, uint64_t& count) {
  std::array<std::byte, 64> buffer;
  while (!stop) {
    EXPECT_EQ(co_await io_read(reactor, handle, buffer, 0), 64);
    ++count;
  }
}
Task<void> yield_forever(Reactor& reactor, const bool& stop, uint64_t& count) {
  while (!stop) {
    co_await yield_to(reactor);
    ++count;
  }
}
Task<void> sleep_forever(Reactor& reactor, const bool& stop, uint64_t& count) {
  while (!stop) {
    co_await sleep_ns(reactor, 0);
    ++count;
  }
}

TEST(UringReactor, CompletionsTimersAndPostedWorkDoNotStarveEachOther) {
  auto reactor = make_test_reactor();
  ScratchFile file(pattern(4096).bytes());
  bool stop = false;
  uint64_t reads = 0, yields = 0, sleeps = 0;
  for (int i = 0; i < 8; ++i) {
    spawn(read_forever(*reactor, file.handle(), stop, reads));
    spawn(yield_forever(*reactor, stop, yields));
    spawn(sleep_forever(*reactor, stop, sleeps));
  }
  std::vector<int> log;
  LoggedTimer late;  // its deadline is always later than those of the sleepers that rearm
  late.prepare(log, 1);
  reactor->arm(late.timer, reactor->now_ns() + kMillisecond_ns);
  for (int turn = 0; turn < 1'000'000 && (log.empty() || reads < 1000); ++turn) reactor->run_once();
  EXPECT_FALSE(log.empty());
  EXPECT_GE(reads, 1000U);
  EXPECT_GE(yields, 1000U);
  EXPECT_GE(sleeps, 1000U);
  stop = true;
  for (int turn = 0; turn < 10 || reactor->in_flight() > 0; ++turn) turn_without_blocking(*reactor);
}

// --- Files ---------------------------------------------------------------------------------------

TEST(UringReactor, WritesAndReadsMoreVectorsThanTheKernelTakesAtOnce) {
  auto reactor = make_test_reactor();
  ScratchFile file;
  auto data = pattern(3000 * 10);
  AlignedBuffer back(data.size() + 100);
  std::vector<iovec> from, to;
  for (size_t i = 0; i < 3000; ++i) {
    from.push_back({data.data() + i * 10, 10});
    to.push_back({back.data() + i * 10, 10});
  }
  to.push_back({back.data() + data.size(), 100});
  const int written =
      run_task(*reactor, [](Reactor& r, int h, std::span<const iovec> iov) -> Task<int> {
        co_return co_await io_writev(r, h, iov, 5);
      }(*reactor, file.handle(), from));
  EXPECT_EQ(written, 30'000);
  const int read =
      run_task(*reactor, [](Reactor& r, int h, std::span<const iovec> iov) -> Task<int> {
        co_return co_await io_readv(r, h, iov, 5);
      }(*reactor, file.handle(), to));
  EXPECT_EQ(read, 30'000) << "short at the end of the file";
  EXPECT_TRUE(same(back.bytes().first(data.size()), data.bytes()));
}

Task<int> read_at(Reactor& reactor, int handle, Bytes to, uint64_t offset) {
  co_return co_await io_read(reactor, handle, to, offset);
}
Task<int> write_at(Reactor& reactor, int handle, ConstBytes from, uint64_t offset) {
  co_return co_await io_write(reactor, handle, from, offset);
}

// A pipe gives and takes what it has room for: the plainest source of short transfers.
TEST(UringReactor, ShortTransfersAreContinued) {
  auto reactor = make_test_reactor();
  int pipe[2];
  ASSERT_EQ(::pipe2(pipe, O_CLOEXEC), 0);
  const auto data = pattern(300'000);
  AlignedBuffer received(data.size() + 1000);
  std::thread feeder([&] {
    for (size_t done = 0; done < data.size();) {
      const size_t piece = std::min<size_t>(data.size() - done, 7'001);
      const ssize_t count = ::write(pipe[1], data.data() + done, piece);
      CHECK(count > 0);
      done += static_cast<size_t>(count);
    }
    ::close(pipe[1]);
  });
  EXPECT_EQ(run_task(*reactor, read_at(*reactor, pipe[0], received.bytes(), 0)), 300'000);
  feeder.join();
  ::close(pipe[0]);
  EXPECT_TRUE(same(received.bytes().first(data.size()), data.bytes()));
}

TEST(UringReactor, ReadsAreShortOnlyAtTheEndDirectIoIncluded) {
  auto reactor = make_test_reactor();
  const auto data = pattern(5000);
  ScratchFile file(data.bytes());
  AlignedBuffer back(8192);
  for (const int extra : {0, O_DIRECT}) {
    // A file system without direct I/O (tmpfs, on older kernels) stays buffered: the same promise.
    (void)::fcntl(file.handle(), F_SETFL, ::fcntl(file.handle(), F_GETFL) | extra);
    EXPECT_EQ(run_task(*reactor, read_at(*reactor, file.handle(), back.bytes(), 0)), 5000);
    EXPECT_TRUE(same(back.bytes().first(5000), data.bytes()));
    EXPECT_EQ(run_task(*reactor, read_at(*reactor, file.handle(), back.bytes(), 8192)), 0);
    EXPECT_EQ(run_task(*reactor, read_at(*reactor, file.handle(), back.bytes().first(0), 0)), 0);
  }
}

TEST(UringReactor, DirectWritesAndSync) {
  auto reactor = make_test_reactor();
  ScratchFile file;
  (void)::fcntl(file.handle(), F_SETFL, ::fcntl(file.handle(), F_GETFL) | O_DIRECT);
  const auto data = pattern(1 << 20);
  EXPECT_EQ(run_task(*reactor, write_at(*reactor, file.handle(), data.bytes(), 4096)), 1 << 20);
  EXPECT_EQ(run_task(*reactor,
                     [](Reactor& r, int h) -> Task<int> { co_return co_await io_sync(r, h); }(
                                               *reactor, file.handle())),
            0);
  AlignedBuffer back(data.size());
  EXPECT_EQ(run_task(*reactor, read_at(*reactor, file.handle(), back.bytes(), 4096)), 1 << 20);
  EXPECT_TRUE(same(back.bytes(), data.bytes()));
}

TEST(UringReactor, ErrorsAreNegativeErrnos) {
  auto reactor = make_test_reactor();
  std::array<std::byte, 8> buffer{};
  EXPECT_EQ(run_task(*reactor, read_at(*reactor, -1, buffer, 0)), -EBADF);
  EXPECT_EQ(run_task(*reactor, write_at(*reactor, -1, buffer, 0)), -EBADF);
  int pipe[2];
  ASSERT_EQ(::pipe2(pipe, O_CLOEXEC), 0);
  EXPECT_EQ(run_task(*reactor, write_at(*reactor, pipe[0], buffer, 0)), -EBADF) << "read-only";
  ::close(pipe[0]);
  ::close(pipe[1]);
}

// --- Many at once --------------------------------------------------------------------------------

// Submits far more than either queue of the ring holds without a turn in between.
TEST(UringReactor, TwentyThousandOperationsInOneTurnAllComplete) {
  auto reactor = make_test_reactor();
  ScratchFile file(pattern(1 << 20).bytes());
  constexpr size_t kCount = 20'000;
  std::vector<OwnedOperation> reads(kCount);
  for (size_t i = 0; i < kCount; ++i) {
    reads[i].prepare(Operation::Code::kRead, file.handle());
    reads[i].op.offset = (i * 64) % (1 << 20);
    reactor->submit(reads[i].op);
  }
  EXPECT_EQ(reactor->in_flight(), kCount);
  while (reactor->in_flight() > 0) reactor->run_once();
  const auto expected = pattern(1 << 20);
  size_t right = 0;
  for (const OwnedOperation& read : reads)
    right += read.completions == 1 && read.op.result == 64 &&
             same(read.buffer, expected.bytes().subspan(read.op.offset, 64));
  EXPECT_EQ(right, kCount);
}

Task<void> write_then_read(Reactor& reactor, int handle, uint64_t slot, int& finished) {
  std::array<std::byte, 512> from;
  std::array<std::byte, 512> to{};
  from.fill(static_cast<std::byte>(slot * 13));
  for (int round = 0; round < 5; ++round) {
    EXPECT_EQ(co_await io_write(reactor, handle, from, slot * 512), 512);
    EXPECT_EQ(co_await io_read(reactor, handle, to, slot * 512), 512);
    EXPECT_TRUE(same(from, to));
  }
  ++finished;
}

TEST(UringReactor, ThousandsOfCoroutinesWriteAndRead) {
  auto reactor = make_test_reactor();
  ScratchFile file;
  int finished = 0;
  constexpr int kCount = 3000;
  for (int i = 0; i < kCount; ++i)
    spawn(write_then_read(*reactor, file.handle(), static_cast<uint64_t>(i), finished));
  run_until(*reactor, [&] { return finished == kCount; });
}

// A timer signal without SA_RESTART every 100 us interrupts the reactor wherever it is.
TEST(UringReactor, SignalsDisturbNothing) {
  struct sigaction action{}, before{};
  action.sa_handler = [](int) {};
  ASSERT_EQ(::sigaction(SIGALRM, &action, &before), 0);
  const itimerval often{.it_interval = {0, 100}, .it_value = {0, 100}};
  ASSERT_EQ(::setitimer(ITIMER_REAL, &often, nullptr), 0);
  auto reactor = make_test_reactor();
  ScratchFile file;
  int finished = 0;
  for (uint64_t slot = 0; slot < 100; ++slot)
    spawn(write_then_read(*reactor, file.handle(), slot, finished));
  const uint64_t start = reactor->now_ns();
  run_task(*reactor,
           [](Reactor& r) -> Task<void> { co_await sleep_ns(r, 20 * kMillisecond_ns); }(*reactor));
  EXPECT_GE(reactor->now_ns() - start, 20 * kMillisecond_ns);
  run_until(*reactor, [&] { return finished == 100; });
  const itimerval never{};
  ASSERT_EQ(::setitimer(ITIMER_REAL, &never, nullptr), 0);
  ASSERT_EQ(::sigaction(SIGALRM, &before, nullptr), 0);
}

// --- Cancellation --------------------------------------------------------------------------------

class UringReactorPair : public testing::Test {
 protected:
  UringReactorPair() { CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends_) == 0); }
  ~UringReactorPair() override {
    ::close(ends_[0]);
    ::close(ends_[1]);
  }
  std::unique_ptr<UringReactor> reactor_ = make_test_reactor();
  int ends_[2];
};

TEST_F(UringReactorPair, CancelEndsAPendingReceive) {
  OwnedOperation receive(Operation::Code::kRecv, ends_[0]);
  reactor_->submit(receive.op);
  turn_without_blocking(*reactor_);
  EXPECT_EQ(receive.completions, 0);
  reactor_->cancel(receive.op);
  reactor_->cancel(receive.op);
  while (receive.completions == 0) reactor_->run_once();
  EXPECT_EQ(receive.op.result, -ECANCELED);
  reactor_->cancel(receive.op);  // has completed: nothing happens, nor to its next use
  reactor_->submit(receive.op);
  ASSERT_EQ(::send(ends_[1], "x", 1, 0), 1);
  while (receive.completions == 1) reactor_->run_once();
  EXPECT_EQ(receive.op.result, 1);
}

TEST_F(UringReactorPair, CancelInTheTurnOfItsSubmission) {
  OwnedOperation receive(Operation::Code::kRecv, ends_[0]);
  reactor_->submit(receive.op);
  reactor_->cancel(receive.op);
  EXPECT_EQ(receive.completions, 0) << "never inside submit() or cancel()";
  while (receive.completions == 0) reactor_->run_once();
  EXPECT_EQ(receive.op.result, -ECANCELED);
}

TEST_F(UringReactorPair, ManyPendingReceivesAreCancelledAtOnce) {
  std::vector<OwnedOperation> receives(5000);
  for (auto& receive : receives) {
    receive.prepare(Operation::Code::kRecv, ends_[0]);
    reactor_->submit(receive.op);
  }
  turn_without_blocking(*reactor_);
  for (auto& receive : receives) reactor_->cancel(receive.op);
  while (reactor_->in_flight() > 0) reactor_->run_once();
  for (const auto& receive : receives) EXPECT_EQ(receive.op.result, -ECANCELED);
}

TEST_F(UringReactorPair, CancelEndsAReadThatHadBegun) {
  int pipe[2];
  ASSERT_EQ(::pipe2(pipe, O_CLOEXEC), 0);
  ASSERT_EQ(::write(pipe[1], "begin", 5), 5);
  OwnedOperation read(Operation::Code::kRead, pipe[0]);
  reactor_->submit(read.op);
  turn_without_blocking(*reactor_);
  turn_without_blocking(*reactor_);
  EXPECT_EQ(read.completions, 0);
  reactor_->cancel(read.op);
  while (read.completions == 0) reactor_->run_once();
  EXPECT_EQ(read.op.result, -ECANCELED);
  ::close(pipe[0]);
  ::close(pipe[1]);
}

// --- Sockets -------------------------------------------------------------------------------------

int listen_on_loopback(sockaddr_in& address) {
  const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  CHECK(::bind(listener, reinterpret_cast<sockaddr*>(&address), length) == 0);
  CHECK(::listen(listener, 128) == 0);
  CHECK(::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length) == 0);
  return listener;
}

TEST(UringReactor, CancelEndsAPendingAccept) {
  auto reactor = make_test_reactor();
  sockaddr_in address;
  const int listener = listen_on_loopback(address);
  OwnedOperation accept(Operation::Code::kAccept, listener);
  reactor->submit(accept.op);
  turn_without_blocking(*reactor);
  reactor->cancel(accept.op);
  while (accept.completions == 0) reactor->run_once();
  EXPECT_EQ(accept.op.result, -ECANCELED);
  ::close(listener);
}

Task<void> echo_one_connection(Reactor& reactor, int listener, int& finished) {
  const int connection = co_await io_accept(reactor, listener);
  EXPECT_GE(connection, 0);
  std::array<std::byte, 1000> buffer;
  while (true) {
    const int count = co_await io_recv(reactor, connection, buffer);
    EXPECT_GE(count, 0);
    if (count <= 0) break;
    for (size_t done = 0; done < static_cast<size_t>(count);) {
      // Two pieces, so that the vectored form is used too.
      const size_t half = (static_cast<size_t>(count) - done) / 2;
      const iovec pieces[] = {
          {buffer.data() + done, half},
          {buffer.data() + done + half, static_cast<size_t>(count) - done - half}};
      const int sent = co_await io_send(reactor, connection, pieces);
      EXPECT_GT(sent, 0);
      if (sent <= 0) break;
      done += static_cast<size_t>(sent);
    }
  }
  ::close(connection);
  ++finished;
}

Task<void> talk_to_echo(Reactor& reactor, sockaddr_in address, int id, int& finished) {
  const int handle = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  EXPECT_EQ(co_await io_connect(reactor, handle, reinterpret_cast<const sockaddr*>(&address),
                                sizeof address),
            0);
  for (int round = 0; round < 10; ++round) {
    std::array<std::byte, 700> out;
    std::array<std::byte, 700> in{};
    out.fill(static_cast<std::byte>(id * 10 + round));
    const iovec piece{out.data(), out.size()};
    EXPECT_EQ(co_await io_send(reactor, handle, std::span(&piece, 1)), 700);
    for (size_t done = 0; done < in.size();) {
      const iovec rest[] = {{in.data() + done, 1}, {in.data() + done + 1, in.size() - done - 1}};
      const int count = co_await io_recvv(reactor, handle, rest);
      EXPECT_GT(count, 0);
      if (count <= 0) break;
      done += static_cast<size_t>(count);
    }
    EXPECT_TRUE(same(in, out));
  }
  ::close(handle);
  ++finished;
}

TEST(UringReactor, SocketsEcho) {
  auto reactor = make_test_reactor();
  sockaddr_in address;
  const int listener = listen_on_loopback(address);
  int finished = 0;
  constexpr int kConnections = 50;
  for (int id = 0; id < kConnections; ++id) {
    spawn(echo_one_connection(*reactor, listener, finished));
    spawn(talk_to_echo(*reactor, address, id, finished));
  }
  run_until(*reactor, [&] { return finished == 2 * kConnections; });
  ::close(listener);
}

TEST(UringReactor, SendToAClosedPeerIsAnErrorNotASignal) {
  auto reactor = make_test_reactor();
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  ::close(ends[1]);
  std::array<std::byte, 8> data{};
  const std::array<iovec, 2> pieces = {iovec{data.data(), 4}, iovec{data.data() + 4, 4}};
  for (const size_t count : {1, 2}) {
    const int result =
        run_task(*reactor, [](Reactor& r, int h, std::span<const iovec> iov) -> Task<int> {
          co_return co_await io_send(r, h, iov);
        }(*reactor, ends[0], std::span(pieces).first(count)));
    EXPECT_EQ(result, -EPIPE);
  }
  ::close(ends[0]);
}

// --- Where io_uring is not to be had -------------------------------------------------------------

// Makes io_uring_setup fail with `os_errno` in this process from here on, as containers do.
void forbid_io_uring(unsigned os_errno) {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | os_errno),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{.len = std::size(program), .filter = program};
  CHECK(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
  CHECK(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0);
}

void create_where_forbidden(unsigned os_errno, ErrorKind expected) {
  forbid_io_uring(os_errno);
  const auto reactor = UringReactor::create();
  CHECK(!reactor && reactor.error().kind() == expected);
  std::fprintf(stderr, "%s\n", reactor.error().message().c_str());
  std::_Exit(0);
}

TEST(UringReactorDeathTest, CreationSaysWhyThereIsNoIoUring) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(create_where_forbidden(EPERM, ErrorKind::kPermission), testing::ExitedWithCode(0),
              "kernel.io_uring_disabled");
  EXPECT_EXIT(create_where_forbidden(ENOSYS, ErrorKind::kUnsupported), testing::ExitedWithCode(0),
              "Linux 5.11");
}

}  // namespace
}  // namespace squall
