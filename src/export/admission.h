// Admission: one writing client per exported disk, whatever protocol it speaks (design decision
// 13).
//
// A client is a process on a unix socket and an address on TCP. The first that comes may write;
// while it does, any other gets the export read-only, unless the disk is shared. The writer may
// hold several connections on unix and one on TCP. Before a newcomer is answered:
//  - every connection of that export found hung up has been shut down, and what it had in flight
//    has finished;
//  - on TCP, so has the newcomer's own older writing connection, alive or not: nobody can tell a
//    dead TCP connection from a quiet one.
// So no request of a dead connection can land after a request of a later one.
//
// One reactor's thread only. Admission outlives its tickets and the calls to it.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/task.h"
#include "io/network.h"
#include "io/sync.h"

namespace squall {

// A connection, as admission sees it.
class AdmittedPeer {
 public:
  virtual bool is_hung_up() = 0;
  // Stops intake at once: no request of it starts after this call, read or unread. It then gives
  // its ticket back when its requests in flight have finished, never from inside this call.
  // Idempotent.
  virtual void shut_down() = 0;

 protected:
  ~AdmittedPeer() = default;
};

// True when both are the same client. A process that the kernel cannot name (pid 0: another pid
// namespace) is nobody's equal.
bool is_same_client(const PeerIdentity& a, const PeerIdentity& b);

class Admission {
 private:
  struct Member {
    AdmittedPeer* peer;
    PeerIdentity identity;
    bool writer;
    bool leaving = false;
  };
  struct Export;

 public:
  // How a disk may be used by anybody at all.
  struct Access {
    bool writable = false;  // false: images, snapshots
    bool shared = false;    // several writing clients on purpose
  };

  // Membership; destroyed when nothing of the connection is in flight any more.
  class Ticket {
   public:
    Ticket() = default;
    Ticket(Ticket&& other) noexcept;
    Ticket& operator=(Ticket&& other) noexcept;
    ~Ticket();
    bool may_write() const { return admission_ != nullptr && member_->writer; }

   private:
    friend class Admission;
    Ticket(Admission* admission, Export* entry, std::list<Member>::iterator member)
        : admission_(admission), export_(entry), member_(member) {}
    Admission* admission_ = nullptr;
    Export* export_ = nullptr;
    std::list<Member>::iterator member_;
  };

  struct Client {
    PeerIdentity identity;
    bool writer = false;
  };

  explicit Admission(Reactor& reactor);
  ~Admission();
  Admission(const Admission&) = delete;
  Admission& operator=(const Admission&) = delete;

  // Admits `peer`, which outlives its ticket, after the waits above. Newcomers of one export are
  // answered in order. kCancelled: the export was evicted meanwhile.
  Task<Result<Ticket>> admit(std::string name, PeerIdentity identity, Access access,
                             AdmittedPeer& peer);
  // Whether admit would let this client write now; takes no slot and shuts nobody down.
  bool would_write(const std::string& name, const PeerIdentity& identity, Access access);
  // Shuts every connection of the export down and waits until they have left.
  Task<void> evict(std::string name);
  std::vector<Client> clients(const std::string& name) const;

 private:
  Export* enter(const std::string& name);
  void leave(Export* entry);
  void remove(Export* entry, std::list<Member>::iterator member);
  bool start_departures(Export& entry, const PeerIdentity& newcomer, Access access);

  Reactor& reactor_;
  std::map<std::string, std::unique_ptr<Export>> exports_;  // those with members or callers
};

}  // namespace squall
