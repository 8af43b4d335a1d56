#include "api/rest.h"

#include <algorithm>
#include <array>
#include <boost/url/parse.hpp>
#include <boost/url/url_view.hpp>
#include <charconv>
#include <set>
#include <span>

#include "api/on_reactor.h"
#include "api/wire.h"
#include "base/log.h"

namespace squall {

namespace {

using wire::UnknownFields;

int status_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInvalid:
      return 400;
    case ErrorKind::kPermission:
      return 403;
    case ErrorKind::kNotFound:
      return 404;
    case ErrorKind::kExists:
    case ErrorKind::kBusy:
    case ErrorKind::kConflict:
    case ErrorKind::kFenced:
      return 409;
    case ErrorKind::kUnsupported:
      return 501;
    case ErrorKind::kCancelled:
      return 503;
    case ErrorKind::kNoSpace:
      return 507;
    case ErrorKind::kIo:
    case ErrorKind::kCorrupt:
    case ErrorKind::kInternal:
      return 500;
  }
  return 500;
}

HttpResponse error_response(const Error& error) {
  return {status_of(error.kind()),
          wire::encode(ErrorBody{std::string(to_string(error.kind())), error.message()})};
}

template <class T>
HttpResponse response(const Result<T>& result, int status = 200) {
  if (!result) return error_response(result.error());
  if constexpr (std::is_void_v<T>) {
    return {204};
  } else {
    return {status, wire::encode(*result)};
  }
}

// A request that has matched a route.
struct Call {
  std::vector<std::string> names;  // what the route's "*" stand for, decoded
  const std::string& body;
  bool force = false;

  template <class T>
  Result<T> decode() const {
    return wire::decode<T>(body.empty() ? "{}" : body, UnknownFields::kReject);
  }
  Result<uint64_t> number(size_t i) const {
    uint64_t value = 0;
    const char* end = names[i].data() + names[i].size();
    const auto [stop, error] = std::from_chars(names[i].data(), end, value);
    if (error != std::errc() || stop != end) {
      return fail(ErrorKind::kNotFound, "'{}' is not a number", names[i]);
    }
    return value;
  }
};

class RestSession : public HttpSession {
  // Calls the manager on its reactor and waits. `start` takes the manager and returns a Task.
  template <class Start>
  auto on(Start start) {
    return on_reactor(target_.reactor, [&manager = target_.manager, start = std::move(start)]() {
      return start(manager);
    });
  }

 public:
  explicit RestSession(const RestTarget& target) : target_(target) {}
  ~RestSession() override {
    for (const uint64_t session : imports_) {
      LOG_INFO("api: import session {} aborted: its client is gone", session);
      if (auto aborted = on([session](auto& m) { return m.abort_import(session); }); !aborted) {
        LOG_WARN("api: aborting import session {}: {}", session, aborted.error().message());
      }
    }
    for (const uint64_t id : checks_) cancel(id);
  }

  HttpResponse handle(const HttpRequest& request) override;
  bool is_kept_open() const override { return !imports_.empty() || !checks_.empty(); }

 private:
  struct Route {
    std::string_view method;
    std::string_view path;  // below /v1; "*" matches one element
    HttpResponse (RestSession::*handler)(const Call&);
  };
  static const std::span<const Route> kRoutes;

  HttpResponse list_images(const Call&) {
    return response(on([](auto& m) { return m.list_images(); }));
  }
  HttpResponse show_image(const Call& call) {
    return response(on([name = call.names[0]](auto& m) { return m.show_image(name); }));
  }
  HttpResponse create_image(const Call& call) {
    const auto request = call.decode<CreateImageRequest>();
    if (!request) return error_response(request.error());
    return response(on([r = *request](auto& m) { return m.create_image(r.name, r.from); }), 201);
  }
  HttpResponse remove_image(const Call& call) {
    return response(on([name = call.names[0]](auto& m) { return m.remove_image(name); }));
  }

  HttpResponse begin_import(const Call& call) {
    const auto request = call.decode<ImportRequest>();
    if (!request) return error_response(request.error());
    const auto session = on([r = *request](auto& m) { return m.begin_import(r); });
    if (session) imports_.insert(session->id);
    return response(session, 201);
  }
  HttpResponse finish_import(const Call& call) {
    const auto session = own_import(call);
    if (!session) return error_response(session.error());
    const auto image = on([id = *session](auto& m) { return m.finish_import(id); });
    if (image) imports_.erase(*session);
    return response(image, 201);
  }
  HttpResponse abort_import(const Call& call) {
    const auto session = own_import(call);
    if (!session) return error_response(session.error());
    imports_.erase(*session);
    return response(on([id = *session](auto& m) { return m.abort_import(id); }));
  }
  Result<uint64_t> own_import(const Call& call) const {
    TRY_ASSIGN(const uint64_t id, call.number(0));
    if (!imports_.contains(id)) {
      return fail(ErrorKind::kNotFound, "no import session {} on this connection", id);
    }
    return id;
  }

  // Checks belong to the connection that started them, as imports do.
  HttpResponse start_check(const Call& call) {
    const auto request = call.decode<CheckRequest>();
    if (!request) return error_response(request.error());
    const auto id =
        with_host<Result<uint64_t>>([r = *request](RestHost& host) { return host.start_check(r); });
    if (!id) return error_response(id.error());
    checks_.insert(*id);
    return {201, wire::encode(CheckStarted{*id})};
  }
  HttpResponse show_check(const Call& call) {
    const auto id = own_check(call);
    if (!id) return error_response(id.error());
    const auto status = with_host<Result<CheckStatus>>(
        [id = *id](RestHost& host) { return host.check_status(id); });
    if (!status || status->done) checks_.erase(*id);
    return response(status);
  }
  HttpResponse cancel_check(const Call& call) {
    const auto id = own_check(call);
    if (!id) return error_response(id.error());
    checks_.erase(*id);
    cancel(*id);
    return {204};
  }
  void cancel(uint64_t check) {
    with_host<bool>([check](RestHost& host) {
      host.cancel_check(check);
      return true;
    });
  }
  Result<uint64_t> own_check(const Call& call) const {
    TRY_ASSIGN(const uint64_t id, call.number(0));
    if (!checks_.contains(id)) {
      return fail(ErrorKind::kNotFound, "no check {} runs on this connection", id);
    }
    return id;
  }
  // Calls the daemon on its reactor.
  template <class T, class Call>
  T with_host(Call call) {
    return on_reactor(target_.reactor, [&host = target_.host, call = std::move(call)] {
      return [](RestHost& host, Call call) -> Task<T> { co_return call(host); }(host, call);
    });
  }

  HttpResponse list_volumes(const Call&) {
    return response(on([](auto& m) { return m.list_volumes(); }));
  }
  HttpResponse show_volume(const Call& call) {
    return response(on([name = call.names[0]](auto& m) { return m.show_volume(name); }));
  }
  HttpResponse create_volumes(const Call& call) {
    const auto request = call.decode<CreateVolume>();
    if (!request) return error_response(request.error());
    return response(on([r = *request](auto& m) { return m.create_volumes(r); }), 201);
  }
  HttpResponse remove_volume(const Call& call) {
    const auto removed = on([name = call.names[0], force = call.force](auto& m) {
      return m.remove_volume(name, force);
    });
    if (removed && call.force) {
      on_reactor(target_.reactor, [&host = target_.host, name = call.names[0]] {
        return host.disconnect_clients(name);
      });
    }
    return response(removed);
  }
  HttpResponse resize_volume(const Call& call) {
    const auto request = call.decode<ResizeRequest>();
    if (!request) return error_response(request.error());
    return response(on([name = call.names[0], size = request->size_bytes](auto& m) {
      return m.resize_volume(name, size);
    }));
  }
  HttpResponse rollback_volume(const Call& call) {
    const auto request = call.decode<RollbackRequest>();
    if (!request) return error_response(request.error());
    return response(on([name = call.names[0], snapshot = request->snapshot](auto& m) {
      return m.rollback_volume(name, snapshot);
    }));
  }
  HttpResponse takeover_volume(const Call& call) {
    const auto request = call.decode<TakeoverRequest>();
    if (!request) return error_response(request.error());
    return response(on([name = call.names[0], lose_data = request->lose_data](auto& m) {
      return m.takeover_volume(name, lose_data);
    }));
  }
  HttpResponse commit_volume(const Call& call) {
    if (const auto empty = call.decode<EmptyRequest>(); !empty) {
      return error_response(empty.error());
    }
    return response(on([name = call.names[0]](auto& m) { return m.commit_volume(name); }));
  }

  HttpResponse list_snapshots(const Call& call) {
    return response(on([name = call.names[0]](auto& m) { return m.list_snapshots(name); }));
  }
  HttpResponse create_snapshot(const Call& call) {
    const auto request = call.decode<CreateSnapshotRequest>();
    if (!request) return error_response(request.error());
    return response(on([volume = call.names[0], name = request->name](auto& m) {
                      return m.create_snapshot(volume, name);
                    }),
                    201);
  }
  HttpResponse remove_snapshot(const Call& call) {
    return response(on([volume = call.names[0], name = call.names[1]](auto& m) {
      return m.remove_snapshot(volume, name);
    }));
  }

  // Calls the daemon on its reactor; `call` does not suspend.
  template <class Call>
  auto ask_host(Call call) {
    using T = std::invoke_result_t<Call&, RestHost&>;
    return on_reactor(target_.reactor, [&host = target_.host, call = std::move(call)] {
      return [](RestHost& host, Call call) -> Task<T> { co_return call(host); }(host, call);
    });
  }
  HttpResponse start_gc(const Call& call) {
    if (const auto empty = call.decode<EmptyRequest>(); !empty) {
      return error_response(empty.error());
    }
    return {202, wire::encode(ask_host([](RestHost& host) { return GcStarted{host.start_gc()}; }))};
  }
  HttpResponse show_gc(const Call&) {
    return {200, wire::encode(ask_host([](RestHost& host) { return host.gc_status(); }))};
  }
  HttpResponse cancel_gc(const Call&) {
    ask_host([](RestHost& host) {
      host.cancel_gc();
      return true;
    });
    return {204};
  }

  Result<StatusInfo> fetch_status() {
    return on_reactor(target_.reactor, [&host = target_.host] { return host.status(); });
  }
  HttpResponse show_status(const Call&) { return response(fetch_status()); }
  HttpResponse list_nodes(const Call&) {
    const auto status = fetch_status();
    if (!status) return error_response(status.error());
    return {200, wire::encode(std::vector{status->node})};
  }
  HttpResponse show_node(const Call& call) {
    const auto status = fetch_status();
    if (!status) return error_response(status.error());
    if (status->node.name != call.names[0]) {
      return error_response({ErrorKind::kNotFound, fmt::format("no node '{}'", call.names[0])});
    }
    return {200, wire::encode(status->node)};
  }

  const RestTarget target_;
  std::set<uint64_t> imports_;
  std::set<uint64_t> checks_;
};

const std::span<const RestSession::Route> RestSession::kRoutes = [] {
  using S = RestSession;
  static constexpr std::array kTable = {
      Route{"GET", "/images", &S::list_images},
      Route{"POST", "/images", &S::create_image},
      Route{"GET", "/images/*", &S::show_image},
      Route{"DELETE", "/images/*", &S::remove_image},
      Route{"POST", "/imports", &S::begin_import},
      Route{"POST", "/imports/*/finish", &S::finish_import},
      Route{"DELETE", "/imports/*", &S::abort_import},
      Route{"GET", "/volumes", &S::list_volumes},
      Route{"POST", "/volumes", &S::create_volumes},
      Route{"GET", "/volumes/*", &S::show_volume},
      Route{"DELETE", "/volumes/*", &S::remove_volume},
      Route{"POST", "/volumes/*/resize", &S::resize_volume},
      Route{"POST", "/volumes/*/rollback", &S::rollback_volume},
      Route{"POST", "/volumes/*/takeover", &S::takeover_volume},
      Route{"POST", "/volumes/*/commit", &S::commit_volume},
      Route{"GET", "/volumes/*/snapshots", &S::list_snapshots},
      Route{"POST", "/volumes/*/snapshots", &S::create_snapshot},
      Route{"DELETE", "/volumes/*/snapshots/*", &S::remove_snapshot},
      Route{"POST", "/checks", &S::start_check},
      Route{"GET", "/checks/*", &S::show_check},
      Route{"DELETE", "/checks/*", &S::cancel_check},
      Route{"GET", "/status", &S::show_status},
      Route{"POST", "/gc", &S::start_gc},
      Route{"GET", "/gc", &S::show_gc},
      Route{"DELETE", "/gc", &S::cancel_gc},
      Route{"GET", "/nodes", &S::list_nodes},
      Route{"GET", "/nodes/*", &S::show_node},
  };
  return std::span<const Route>(kTable);
}();

// True when `elements` fit the route's path; collects what "*" matched.
bool match(std::string_view path, std::span<const std::string> elements,
           std::vector<std::string>& names) {
  names.clear();
  for (const std::string& element : elements) {
    if (path.empty()) return false;
    path.remove_prefix(1);  // the slash
    const std::string_view want = path.substr(0, path.find('/'));
    path.remove_prefix(want.size());
    if (want == "*") {
      names.push_back(element);
    } else if (want != element) {
      return false;
    }
  }
  return path.empty();
}

// The query knows one parameter.
Result<bool> parse_force(const boost::urls::url_view& url) {
  bool force = false;
  for (const auto& param : url.params()) {
    if (param.key != "force" || (param.value != "true" && param.value != "false")) {
      return fail(ErrorKind::kInvalid, "unknown query parameter '{}={}'", param.key, param.value);
    }
    force = param.value == "true";
  }
  return force;
}

HttpResponse RestSession::handle(const HttpRequest& request) {
  const auto url = boost::urls::parse_origin_form(request.target);
  if (!url) return error_response({ErrorKind::kInvalid, "not a valid request target"});
  std::vector<std::string> elements;
  for (const auto& element : url->segments()) elements.emplace_back(element);

  Call call{{}, request.body};
  const Error unknown(ErrorKind::kNotFound,
                      fmt::format("no resource {}", std::string(url->encoded_path())));
  if (elements.empty() || elements[0] != "v1") return error_response(unknown);
  std::string allow;
  for (const Route& route : kRoutes) {
    if (!match(route.path, std::span(elements).subspan(1), call.names)) continue;
    if (route.method == request.method) {
      const auto force = parse_force(*url);
      if (!force) return error_response(force.error());
      call.force = *force;
      return (this->*route.handler)(call);
    }
    allow += fmt::format("{}{}", allow.empty() ? "" : ", ", route.method);
  }
  if (allow.empty()) return error_response(unknown);
  HttpResponse wrong = error_response(
      {ErrorKind::kInvalid, fmt::format("{} is not allowed here; only {}", request.method, allow)});
  wrong.status = 405;
  wrong.allow = allow;
  return wrong;
}

}  // namespace

std::unique_ptr<HttpSession> make_rest_session(const RestTarget& target) {
  return std::make_unique<RestSession>(target);
}

}  // namespace squall
