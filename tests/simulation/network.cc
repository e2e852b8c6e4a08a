#include "tests/simulation/network.h"

#include <algorithm>
#include <utility>

namespace shardwright {
namespace simulation {
namespace {

constexpr absl::Duration kCallTimeout = absl::Seconds(5);
constexpr absl::Duration kBreakNoticedMax = absl::Seconds(10);
constexpr size_t kHistoryMax = 64;

absl::Status Unreachable() {
  return absl::UnavailableError("the coordinator cannot be reached");
}

bool IsParked(const Request& request) {
  return std::holds_alternative<v1::SessionRequest>(request) ||
         std::holds_alternative<v1::FormCommunicatorsRequest>(request) ||
         std::holds_alternative<v1::WaitAtBarrierRequest>(request) ||
         std::holds_alternative<v1::WatchLayoutsRequest>(request);
}

}  // namespace

Network::Network(Timeline& timeline, Random& random, const Options& options,
                 Coordinator& coordinator)
    : timeline_(timeline),
      random_(random),
      options_(options),
      coordinator_(coordinator) {}

absl::Duration Network::Delay() {
  absl::Duration delay =
      random_.Between(absl::Microseconds(50), options_.delay_max);
  if (random_.Chance(options_.linger)) {
    delay += random_.Between(absl::ZeroDuration(), options_.linger_max);
  }
  return delay;
}

bool Network::Loses(const Link& link) {
  return random_.Chance(options_.lose) || link.cut;
}

// Keeps what may come again, and lets some of it come again.
void Network::Remember(const Request& request) {
  if (history_.size() < kHistoryMax) {
    history_.push_back(request);
  } else {
    history_[random_.Below(kHistoryMax)] = request;
  }
  if (!random_.Chance(options_.replay)) return;
  timeline_.After(random_.Between(absl::ZeroDuration(), options_.linger_max),
                  [this, again = history_[random_.Below(history_.size())]] {
                    Replay(again);
                  });
}

// What a member that is confused, or not one, may send.
void Network::Forge(Request& request) {
  const auto forge = [this](v1::MemberId& member, auto& message) {
    if (random_.Chance(0.3)) {
      message.set_incarnation(random_.Next());
    } else if (random_.Chance(0.5)) {
      member.set_rank(random_.Below(8));
    } else {
      member.set_kind(member.kind() == v1::WORKER ? v1::TRAINER : v1::WORKER);
    }
  };
  if (auto* registration = std::get_if<v1::RegisterRequest>(&request)) {
    forge(*registration->mutable_member(), *registration);
  } else if (const v1::Caller* caller = CallerOf(request)) {
    auto& changed = const_cast<v1::Caller&>(*caller);
    if (random_.Chance(0.3)) changed.set_generation(random_.Below(5));
    forge(*changed.mutable_member(), changed);
  }
}

void Network::Replay(Request request) {
  if (random_.Chance(options_.forge)) Forge(request);
  if (std::holds_alternative<v1::SessionRequest>(request) &&
      random_.Chance(0.3)) {
    // On the session of somebody else.
    for (const auto& [id, stream] : streams_) {
      if (!stream->is_session || random_.Chance(0.5)) continue;
      return Arrive(StreamPtr(stream), request);
    }
  }
  if (!IsParked(request)) {
    coordinator_.Handle(request);
    return;
  }
  // Its client is gone already, which the server learns later.
  const StreamId stream = ++last_stream_;
  if (!coordinator_.Handle(request, stream).status.ok()) return;
  timeline_.After(
      random_.Between(absl::ZeroDuration(), kBreakNoticedMax),
      [this, stream] { coordinator_.Handle(ClientGone(), stream); });
}

template <typename Answer>
void Network::Unary(const std::shared_ptr<Link>& link,
                    std::function<Answer()> serve, const Answer& lost,
                    std::function<void(const Answer&)> done) {
  const auto ended = std::make_shared<bool>(false);
  const auto end = [ended, done = std::move(done)](const Answer& answer) {
    if (!std::exchange(*ended, true)) done(answer);
  };
  timeline_.After(kCallTimeout, [end, lost] { end(lost); });
  const int copies = random_.Chance(options_.duplicate) ? 2 : 1;
  for (int i = 0; i < copies; ++i) {
    if (Loses(*link)) continue;
    timeline_.After(Delay(), [this, link, serve, end] {
      const Answer answer = serve();
      if (Loses(*link)) return;
      timeline_.After(Delay(), [end, answer] { end(answer); });
    });
  }
}

void Network::Call(const std::shared_ptr<Link>& link, const Request& request,
                   std::function<void(const Step&)> done) {
  Remember(request);
  Step lost;
  lost.status = Unreachable();
  Unary<Step>(
      link, [this, request] { return coordinator_.Handle(request); }, lost,
      std::move(done));
}

void Network::GetLayout(
    const std::shared_ptr<Link>& link, const std::string& job,
    std::function<void(const absl::StatusOr<JobLayout>&)> done) {
  Unary<absl::StatusOr<JobLayout>>(
      link, [this, job] { return coordinator_.FindLayout(job); }, Unreachable(),
      std::move(done));
}

Network::StreamPtr Network::Open(const std::shared_ptr<Link>& link,
                                 const Request& request, Listener listener) {
  Remember(request);
  const auto stream = std::make_shared<Stream>();
  stream->link = link;
  stream->listener = std::move(listener);
  stream->is_session = std::holds_alternative<v1::SessionRequest>(request);
  ToServer(stream, request);
  return stream;
}

void Network::Send(const StreamPtr& stream, const Request& request) {
  Remember(request);
  ToServer(stream, request);
}

void Network::OpenSilent() {
  if (!coordinator_.up()) return;
  const auto stream = std::make_shared<Stream>();
  stream->link = std::make_shared<Link>();
  stream->listener.on_end = [](const absl::Status&) {};
  stream->is_session = true;
  stream->id = ++last_stream_;
  streams_[stream->id] = stream;
  coordinator_.Handle(SessionOpened(), stream->id);
  if (random_.Chance(0.5)) return;
  timeline_.After(random_.Between(absl::ZeroDuration(), 2 * kBreakNoticedMax),
                  [this, stream] { Close(stream); });
}

void Network::ToServer(const StreamPtr& stream, const Request& request) {
  if (stream->broken || stream->client_done) return;
  if (Loses(*stream->link)) return Break(stream);
  stream->to_server = std::max(stream->to_server, timeline_.now() + Delay());
  timeline_.At(stream->to_server,
               [this, stream, request] { Arrive(stream, request); });
}

void Network::Arrive(const StreamPtr& stream, const Request& request) {
  if (stream->id == 0) {
    if (!coordinator_.up()) return End(stream, Unreachable());
    stream->id = ++last_stream_;
    streams_[stream->id] = stream;
    if (stream->is_session) coordinator_.Handle(SessionOpened(), stream->id);
  }
  if (streams_.count(stream->id) == 0) return;
  const Step step = coordinator_.Handle(request, stream->id);
  if (step.status.ok() || streams_.erase(stream->id) == 0) return;
  End(stream, step.status);
}

void Network::Close(const StreamPtr& stream) {
  if (stream->client_done) return;
  stream->client_done = true;
  if (stream->broken) return;
  const absl::Duration delay =
      stream->link->cut ? random_.Between(absl::Seconds(1), kBreakNoticedMax)
                        : Delay();
  timeline_.At(std::max(stream->to_server, timeline_.now() + delay),
               [this, stream] { ServerLearnsOfEnd(stream); });
}

void Network::ServerLearnsOfEnd(const StreamPtr& stream) {
  if (streams_.erase(stream->id) > 0) {
    coordinator_.Handle(ClientGone(), stream->id);
  }
}

void Network::Break(const StreamPtr& stream) {
  if (stream->broken) return;
  stream->broken = true;
  timeline_.After(random_.Between(absl::ZeroDuration(), kBreakNoticedMax),
                  [this, stream] { ServerLearnsOfEnd(stream); });
  timeline_.After(random_.Between(absl::ZeroDuration(), kBreakNoticedMax),
                  [stream] {
                    if (std::exchange(stream->client_done, true)) return;
                    stream->listener.on_end(Unreachable());
                  });
}

void Network::ToClient(const StreamPtr& stream, std::function<void()> what) {
  if (stream->broken || stream->client_done) return;
  if (Loses(*stream->link)) return Break(stream);
  stream->to_client = std::max(stream->to_client, timeline_.now() + Delay());
  timeline_.At(stream->to_client, [stream, what = std::move(what)] {
    if (!stream->client_done && !stream->broken) what();
  });
}

void Network::End(const StreamPtr& stream, const absl::Status& status) {
  ToClient(stream, [stream, status] {
    stream->client_done = true;
    stream->listener.on_end(status);
  });
}

void Network::OnEffect(const StreamEffect& effect) {
  const auto found = streams_.find(effect.stream);
  if (found == streams_.end()) return;
  const StreamPtr stream = found->second;
  if (const auto* status = std::get_if<absl::Status>(&effect.what)) {
    streams_.erase(found);
    End(stream, *status);
    return;
  }
  ToClient(stream, [stream, effect] {
    if (stream->listener.on_message) stream->listener.on_message(effect);
  });
  if (!std::holds_alternative<std::shared_ptr<const v1::WatchLayoutsResponse>>(
          effect.what)) {
    return;
  }
  timeline_.After(Delay(), [this, id = stream->id] {
    if (streams_.count(id) > 0) coordinator_.Handle(AllRead(), id);
  });
}

void Network::OnCrash() {
  std::map<StreamId, StreamPtr> streams;
  streams.swap(streams_);
  for (const auto& [id, stream] : streams) End(stream, Unreachable());
}

}  // namespace simulation
}  // namespace shardwright
