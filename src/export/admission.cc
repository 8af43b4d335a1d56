#include "export/admission.h"

#include <algorithm>

#include "base/check.h"

namespace squall {

struct Admission::Export {
  Export(Reactor& reactor, std::string export_name)
      : name(std::move(export_name)), turn(reactor), departure(reactor) {}
  const std::string name;
  std::list<Member> members;
  Mutex turn;           // held by the newcomer that is being answered
  WaitQueue departure;  // woken when a member has left
  uint64_t evictions = 0;
  uint64_t callers = 0;  // coroutines that refer to this entry
};

bool is_same_client(const PeerIdentity& a, const PeerIdentity& b) {
  if (a.is_unix != b.is_unix) return false;
  return a.is_unix ? a.pid != 0 && a.pid == b.pid : a.address == b.address;
}

Admission::Ticket::Ticket(Ticket&& other) noexcept
    : admission_(std::exchange(other.admission_, nullptr)),
      export_(other.export_),
      member_(other.member_) {}

Admission::Ticket& Admission::Ticket::operator=(Ticket&& other) noexcept {
  std::swap(admission_, other.admission_);
  std::swap(export_, other.export_);
  std::swap(member_, other.member_);
  return *this;
}

Admission::Ticket::~Ticket() {
  if (admission_ != nullptr) admission_->remove(export_, member_);
}

Admission::Admission(Reactor& reactor) : reactor_(reactor) {}

Admission::~Admission() {
  CHECK(exports_.empty());
}

Admission::Export* Admission::enter(const std::string& name) {
  auto& entry = exports_[name];
  if (entry == nullptr) entry = std::make_unique<Export>(reactor_, name);
  ++entry->callers;
  return entry.get();
}

void Admission::leave(Export* entry) {
  CHECK(entry->callers > 0);
  if (--entry->callers == 0 && entry->members.empty()) exports_.erase(exports_.find(entry->name));
}

void Admission::remove(Export* entry, std::list<Member>::iterator member) {
  ++entry->callers;
  entry->members.erase(member);
  entry->departure.wake_all();
  leave(entry);
}

// Shuts down whoever has to go before `newcomer` is answered; false when nobody has.
bool Admission::start_departures(Export& entry, const PeerIdentity& newcomer, Access access) {
  bool any = false;
  for (Member& member : entry.members) {
    const bool replaced = !newcomer.is_unix && member.writer && !access.shared &&
                          is_same_client(member.identity, newcomer);
    if (!member.leaving && (replaced || member.peer->is_hung_up())) {
      member.leaving = true;
      member.peer->shut_down();
    }
    any |= member.leaving;
  }
  return any;
}

Task<Result<Admission::Ticket>> Admission::admit(std::string name, PeerIdentity identity,
                                                 Access access, AdmittedPeer& peer) {
  Export* const entry = enter(name);
  const uint64_t evictions = entry->evictions;
  Ticket ticket;
  co_await entry->turn.acquire();
  while (entry->evictions == evictions && start_departures(*entry, identity, access))
    co_await entry->departure.wait();
  if (entry->evictions == evictions) {
    const bool writer =
        access.writable &&
        (access.shared || std::ranges::all_of(entry->members, [&](const Member& member) {
           return !member.writer || is_same_client(member.identity, identity);
         }));
    ticket = Ticket(this, entry,
                    entry->members.insert(entry->members.end(), Member{&peer, identity, writer}));
  }
  entry->turn.release();
  leave(entry);
  if (ticket.admission_ == nullptr)
    co_return fail(ErrorKind::kCancelled, "{}: its clients were just disconnected", name);
  co_return std::move(ticket);
}

bool Admission::would_write(const std::string& name, const PeerIdentity& identity, Access access) {
  if (!access.writable || access.shared) return access.writable;
  const auto found = exports_.find(name);
  if (found == exports_.end()) return true;
  return std::ranges::all_of(found->second->members, [&](const Member& member) {
    return !member.writer || member.leaving || is_same_client(member.identity, identity) ||
           member.peer->is_hung_up();
  });
}

Task<void> Admission::evict(std::string name) {
  if (!exports_.contains(name)) co_return;
  Export* const entry = enter(name);
  ++entry->evictions;
  entry->departure.wake_all();  // newcomers that wait give up
  while (!entry->members.empty()) {
    for (Member& member : entry->members) {
      if (!std::exchange(member.leaving, true)) member.peer->shut_down();
    }
    co_await entry->departure.wait();
  }
  leave(entry);
}

std::vector<Admission::Client> Admission::clients(const std::string& name) const {
  std::vector<Client> clients;
  if (const auto found = exports_.find(name); found != exports_.end()) {
    for (const Member& member : found->second->members)
      clients.push_back({member.identity, member.writer});
  }
  return clients;
}

}  // namespace squall
