#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cstring>
#include <fstream>
#include <thread>

#include "base/check.h"
#include "fleet/process.h"
#include "fleet/qemu_arguments.h"
#include "fleet/qmp.h"

namespace squall {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::Not;

VmDefinition lab_vm() {
  VmDefinition vm{
      .name = "lab-1", .directory = "/h/fleets/lab/vm-1", .volume = "lab-1", .fleet = {}};
  vm.fleet.name = "lab";
  return vm;
}

const QemuPlaces kPlaces{.nbd_socket = "/h/run/nbd,1.sock",
                         .qmp_socket = "/h/run/vm/1.qmp",
                         .console_socket = "/h/run/vm/1.console",
                         .console_log = "/h/fleets/a,b/console.log",
                         .pid_file = "/h/pid"};

std::string value_after(const std::vector<std::string>& argv, const std::string& option) {
  const auto found = std::ranges::find(argv, option);
  return found == argv.end() ? "" : *(found + 1);
}

TEST(QemuArguments, DiskIsTheVolumesExport) {
  const auto argv = qemu_arguments(lab_vm(), kPlaces, Accelerator::kTcg);
  const auto disk = boost::json::parse(value_after(argv, "-blockdev")).as_object();
  EXPECT_EQ(disk.at("driver"), "nbd");
  EXPECT_EQ(disk.at("export"), "lab-1");
  EXPECT_EQ(disk.at("server").at("path"), "/h/run/nbd,1.sock");
  EXPECT_EQ(disk.at("discard"), "unmap");
  EXPECT_GT(disk.at("reconnect-delay").as_int64(), 60);
  EXPECT_THAT(argv, Contains(HasSubstr("logfile=/h/fleets/a,,b/console.log")));
}

TEST(QemuArguments, GuestSeesTheWriteCacheThatTheCacheModeHas) {
  for (const auto& [mode, cache] :
       {std::pair(CacheMode::kWriteback, "on"), std::pair(CacheMode::kNone, "on"),
        std::pair(CacheMode::kUnsafe, "on"), std::pair(CacheMode::kWritethrough, "off"),
        std::pair(CacheMode::kDirectsync, "off")}) {
    VmDefinition vm = lab_vm();
    vm.fleet.cache = mode;
    const auto argv = qemu_arguments(vm, kPlaces, Accelerator::kKvm);
    EXPECT_EQ(boost::json::parse(value_after(argv, "-device")).at("write-cache"), cache);
  }
}

TEST(QemuArguments, KernelOrBootLoader) {
  VmDefinition vm = lab_vm();
  EXPECT_THAT(qemu_arguments(vm, kPlaces, Accelerator::kKvm), Not(Contains("-kernel")));
  EXPECT_EQ(value_after(qemu_arguments(vm, kPlaces, Accelerator::kKvm), "-accel"), "kvm");
  vm.fleet.kernel = "/vmlinuz";
  vm.fleet.initrd = "/initrd";
  vm.fleet.append = "root=/dev/vda console=ttyS0";
  const auto argv = qemu_arguments(vm, kPlaces, Accelerator::kTcg);
  EXPECT_EQ(value_after(argv, "-kernel"), "/vmlinuz");
  EXPECT_EQ(value_after(argv, "-initrd"), "/initrd");
  EXPECT_EQ(value_after(argv, "-append"), "root=/dev/vda console=ttyS0");
  EXPECT_EQ(value_after(argv, "-accel"), "tcg,thread=multi");
}

TEST(QemuArguments, ProbeBootsOneSector) {
  const std::string sector = probe_boot_sector();
  ASSERT_EQ(sector.size(), 512u);
  EXPECT_EQ(sector.substr(510), "\x55\xaa");
  EXPECT_THAT(probe_arguments(Accelerator::kKvm, "/d"), Contains("kvm"));
}

TEST(Qmp, LinesOfTheProtocol) {
  std::string error;
  EXPECT_EQ(*parse_qmp_line(R"({"QMP": {"version": {}, "capabilities": []}})", &error),
            QmpLine::kGreeting);
  EXPECT_EQ(*parse_qmp_line(R"({"return": {}})", &error), QmpLine::kReturn);
  EXPECT_EQ(*parse_qmp_line(R"({"event": "STOP", "timestamp": {}})", &error), QmpLine::kEvent);
  EXPECT_EQ(*parse_qmp_line(R"({"error": {"class": "x", "desc": "no"}})", &error), QmpLine::kError);
  EXPECT_EQ(error, "no");
  EXPECT_EQ(*parse_qmp_line(R"({"error": 3})", &error), QmpLine::kError);
  for (const char* bad : {"", "x", "[]", "{}", "{\"return\"", "3"})
    EXPECT_EQ(parse_qmp_line(bad, &error).error().kind(), ErrorKind::kCorrupt) << bad;
}

// A server that says `script` to the first that connects.
class QmpServer {
 public:
  explicit QmpServer(std::string script)
      : path_(testing::TempDir() + "qmp." + std::to_string(::getpid())) {
    ::unlink(path_.c_str());
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path_.c_str(), sizeof address.sun_path - 1);
    listener_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(::bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    CHECK(::listen(listener_, 1) == 0);
    thread_ = std::thread([this, script = std::move(script)] {
      const int fd = ::accept(listener_, nullptr, nullptr);
      (void)!::send(fd, script.data(), script.size(), MSG_NOSIGNAL);
      char byte;
      while (::recv(fd, &byte, 1, 0) == 1) heard_.push_back(byte);
      ::close(fd);
    });
  }
  ~QmpServer() {
    thread_.join();
    ::close(listener_);
    ::unlink(path_.c_str());
  }
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
  int listener_;
  std::string heard_;
  std::thread thread_;
};

TEST(Qmp, ExecutesACommand) {
  QmpServer server("{\"QMP\":{}}\r\n{\"return\":{}}\r\n{\"event\":\"X\"}\r\n{\"return\":{}}\r\n");
  EXPECT_TRUE(qmp_execute(server.path(), "quit", 5'000));
}

TEST(Qmp, BearsWithAnyServer) {
  for (const std::string& script :
       {std::string("{\"QMP\":{}}\n{\"error\":{\"desc\":\"no\"}}\n"), std::string("nonsense\n"),
        std::string("{\"return\":{}}\n"), std::string(200'000, 'a'), std::string()}) {
    QmpServer server(script);
    EXPECT_FALSE(qmp_execute(server.path(), "quit", 200));
  }
  EXPECT_FALSE(qmp_execute("/nonexistent", "quit", 200));
  EXPECT_FALSE(qmp_execute(std::string(200, 'x'), "quit", 200));
}

TEST(PidFile, BelongsToWhoHoldsItsLock) {
  const std::string path = testing::TempDir() + "pid." + std::to_string(::getpid());
  EXPECT_FALSE(pid_file_holder(path));
  std::ofstream(path) << ::getpid() << "\n";
  EXPECT_FALSE(pid_file_holder(path)) << "left by a process that has ended";
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const int fd = ::open(path.c_str(), O_RDWR | O_TRUNC);
    struct flock lock{};
    lock.l_type = F_WRLCK;
    lock.l_whence = SEEK_SET;
    const std::string pid = std::to_string(::getpid()) + "\n";
    const bool held = ::fcntl(fd, F_OFD_SETLK, &lock) == 0 &&
                      ::write(fd, pid.data(), pid.size()) == static_cast<ssize_t>(pid.size());
    (void)!::write(ready[1], held ? "y" : "n", 1);
    for (;;) ::pause();
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  EXPECT_EQ(byte, 'y');
  EXPECT_EQ(pid_file_holder(path), child);
  signal_pid_file_holder(path, SIGKILL);
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_FALSE(pid_file_holder(path));
  ::close(ready[0]);
  ::close(ready[1]);
  ::unlink(path.c_str());
}

TEST(RunProgram, TellsHowItEnded) {
  const std::string log = testing::TempDir() + "run." + std::to_string(::getpid());
  EXPECT_EQ(run_program_to_log({"sh", "-c", "echo words; exit 3"}, log, 10'000, "x")->exit_status,
            3);
  EXPECT_EQ(*read_small_file(log, 100), "words\n");
  EXPECT_EQ(read_small_file(log, 3).error().kind(), ErrorKind::kCorrupt);
  EXPECT_TRUE(run_program_to_log({"sleep", "100"}, log, 50, "x")->timed_out);
  EXPECT_EQ(run_program_to_log({"no-such-program-here"}, log, 50, "x").error().kind(),
            ErrorKind::kNotFound);
  ::unlink(log.c_str());
}

}  // namespace
}  // namespace squall
