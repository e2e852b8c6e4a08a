#include "worker/comm/gloo_communicator.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <exception>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gloo/transport/tcp/address.h"
#include "gloo/transport/tcp/device.h"
#include "gloo/transport/unbound_buffer.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "proto/sync/mutex.h"
#include "worker/comm/gloo_mesh.h"

namespace shardwright {
namespace {

using ::gloo::transport::UnboundBuffer;

// Gloo has no word for it: 0 is no time at all.
constexpr std::chrono::hours kForEver(24 * 365 * 10);

// Tags of messages that are never sent. Operations count theirs from 0.
constexpr uint64_t kProbeTag = ~uint64_t{0};
constexpr uint64_t kWatchTag = kProbeTag - 1;

// How long a member that ends because it has lost another, or waited for it in
// vain, keeps its connections open. Who saw them break before it has found out
// itself would name the wrong one.
constexpr absl::Duration kLinger = absl::Milliseconds(250);

// One that is on its way. Gloo says of a buffer what has come last, and not
// what has come: each message has its own.
struct Message {
  int peer;
  std::unique_ptr<UnboundBuffer> buffer;
};

class GlooCommunicator : public Communicator {
 public:
  GlooCommunicator(CliqueAttempt attempt, const GlooOptions& options,
                   std::unique_ptr<GlooMesh> context)
      : attempt_(std::move(attempt)),
        options_(options),
        context_(std::move(context)) {}

  ~GlooCommunicator() override {
    Abort(absl::CancelledError("the communicator was destroyed"));
    if (watcher_.joinable()) watcher_.join();
    Linger();  // The watcher may have gone before the end was known.
  }

  const std::vector<int64_t>& ranks() const override { return attempt_.ranks; }
  int position() const override { return attempt_.position; }

  absl::Status Connect(const std::vector<std::string>& slots);

  absl::Status AllGather(absl::Span<const char> input,
                         absl::Span<char> output) override {
    return AllGatherV(input, std::vector<int64_t>(size(), input.size()),
                      output);
  }
  absl::Status AllGatherV(absl::Span<const char> input,
                          absl::Span<const int64_t> byte_counts,
                          absl::Span<char> output) override {
    return Gather(input, byte_counts, output,
                  WithinDeadline(options_.operation_timeout));
  }
  absl::Status Exchange(absl::Span<const Outgoing> sends,
                        absl::Span<const Incoming> receives) override {
    return Exchange(sends, receives,
                    WithinDeadline(options_.operation_timeout));
  }
  absl::Status Barrier() override {
    const char token = 0;
    std::vector<char> tokens(size());
    return AllGather({&token, 1}, absl::MakeSpan(tokens));
  }

  absl::Status status() const override {
    const MutexLock lock(mutex_);
    return end_;
  }

  void Abort(const absl::Status& why) override {
    const MutexLock lock(mutex_);
    if (!end_.ok()) return;
    end_ = why;
    const std::string reason = ReasonOf(why);
    if (watched_ && (reason == "PEER_LOST" || reason == "MEMBERS_MISSING")) {
      close_at_ = absl::Now() + kLinger;
    } else {
      context_->closeConnections();
    }
    WakeLocked();
  }

 private:
  absl::Status Gather(absl::Span<const char> input,
                      absl::Span<const int64_t> byte_counts,
                      absl::Span<char> output, absl::Duration timeout);
  absl::Status Exchange(absl::Span<const Outgoing> sends,
                        absl::Span<const Incoming> receives,
                        absl::Duration timeout);
  // False: aborted. If it throws, `silent` has the members whose messages had
  // not come by then, or been taken.
  bool Transfer(const std::vector<Message>& sends,
                const std::vector<Message>& receives, absl::Time deadline,
                std::set<int>& silent)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(operation_mutex_);

  void CopyToSelf(absl::Span<const Outgoing> sends,
                  absl::Span<const Incoming> receives);

  // Waits for a connection to break and ends the communicator then. Gloo tells
  // only those who wait for that very peer: without this, a member that has had
  // its rows from one that died afterwards would wait for the rest until the
  // timeout, and one that has nothing to do would not notice at all.
  absl::Status StartWatching();

  // Whether an operation runs that has waited long enough.
  bool timed_out() const {
    const MutexLock lock(mutex_);
    return receiving_ != nullptr && absl::Now() >= deadline_;
  }

  // Members whose connections have failed by themselves.
  std::vector<int64_t> BrokenPeers();

  // Ends the communicator with the failure that Gloo threw, or with the one
  // that made it throw.
  absl::Status Fail(const std::string& what,
                    const std::set<int>& silent_positions, bool timed_out,
                    absl::Duration timeout);

  // Closes the connections when they shall be, if that is still to be done.
  void Linger();

  void WakeLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (sending_ != nullptr) {
      for (const Message& message : *sending_) message.buffer->abortWaitSend();
    }
    if (receiving_ != nullptr) {
      for (const Message& message : *receiving_) {
        message.buffer->abortWaitRecv();
      }
    }
    if (watch_ != nullptr) watch_->abortWaitRecv();
  }

  const CliqueAttempt attempt_;
  const GlooOptions options_;
  const std::unique_ptr<GlooMesh> context_;

  Mutex operation_mutex_ ABSL_ACQUIRED_BEFORE(mutex_);
  uint64_t next_tag_ ABSL_GUARDED_BY(operation_mutex_) = 0;

  mutable Mutex mutex_;
  absl::Status end_ ABSL_GUARDED_BY(mutex_);  // OK until it is over.
  // Of the operation that runs, and when it shall have ended.
  const std::vector<Message>* sending_ ABSL_GUARDED_BY(mutex_) = nullptr;
  const std::vector<Message>* receiving_ ABSL_GUARDED_BY(mutex_) = nullptr;
  absl::Time deadline_ ABSL_GUARDED_BY(mutex_);

  char watched_byte_ = 0;                 // Nothing ever arrives here.
  std::unique_ptr<UnboundBuffer> watch_;  // Guarded by mutex_ until it is set.
  bool watched_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread watcher_;
  std::optional<absl::Time> close_at_ ABSL_GUARDED_BY(mutex_);
  CondVar lingering_;  // Nobody ends it early.
};

absl::Status GlooCommunicator::Connect(const std::vector<std::string>& slots) {
  if (slots.size() != attempt_.ranks.size()) {
    return Error(absl::StatusCode::kInvalidArgument, "INVALID_SLOT",
                 absl::StrCat("there are ", slots.size(), " slots for ", size(),
                              " members"));
  }
  for (int i = 0; i < size(); ++i) {
    if (i == position()) continue;
    ASSIGN_OR_RETURN(const gloo::transport::tcp::Address peer,
                     DecodeSlot(slots[i], position(), size()));
    RETURN_IF_ERROR(status());
    try {
      context_->getPair(i)->connect(peer.bytes());
    } catch (const std::exception& e) {
      const absl::Status lost =
          PeerLost(attempt_.clique, {attempt_.ranks[i]}, e.what());
      Abort(lost);
      return status();
    }
  }
  // A pair that was closed counts as connected, and a port may have found a new
  // owner: only a peer that knows the attempt is the right one.
  std::vector<uint64_t> identities(size());
  RETURN_IF_ERROR(Gather(
      {reinterpret_cast<const char*>(&attempt_.identity), sizeof(uint64_t)},
      std::vector<int64_t>(size(), sizeof(uint64_t)),
      {reinterpret_cast<char*>(identities.data()), size() * sizeof(uint64_t)},
      options_.connect_timeout));
  for (int i = 0; i < size(); ++i) {
    if (identities[i] == attempt_.identity) continue;
    Abort(PeerLost(attempt_.clique, {attempt_.ranks[i]},
                   "a member of another attempt answered in its place"));
  }
  return StartWatching();
}

absl::Status GlooCommunicator::StartWatching() {
  std::string what;
  {
    const MutexLock lock(mutex_);
    if (!end_.ok()) return end_;
    try {
      watch_ = context_->createUnboundBuffer(&watched_byte_, 1);
      for (int i = 0; i < size(); ++i) {
        if (i != position()) watch_->recv(i, kWatchTag);
      }
      watched_ = true;
    } catch (const std::exception& e) {
      what = e.what();
    }
  }
  if (!what.empty()) {
    Abort(PeerLost(attempt_.clique, BrokenPeers(), what));
    return status();
  }
  watcher_ = std::thread([this] {
    try {
      watch_->waitRecv(kForEver);
    } catch (const std::exception& e) {
      // An operation that times out breaks all connections, and knows better.
      if (!timed_out()) {
        Abort(PeerLost(attempt_.clique, BrokenPeers(), e.what()));
      }
    }
    Linger();
  });
  return absl::OkStatus();
}

void GlooCommunicator::Linger() {
  MutexLock lock(mutex_);
  if (!close_at_.has_value()) return;
  lingering_.WaitFor(lock, *close_at_ - absl::Now());
  context_->closeConnections();
  close_at_.reset();
}

absl::Status GlooCommunicator::Gather(absl::Span<const char> input,
                                      absl::Span<const int64_t> byte_counts,
                                      absl::Span<char> output,
                                      absl::Duration timeout) {
  std::vector<Outgoing> sends;
  std::vector<Incoming> receives;
  // Each member begins with its right neighbour, so that not all send to one.
  for (int k = 1; k <= size(); ++k) {
    sends.push_back({(position() + k) % size(), input});
  }
  int64_t offset = 0;
  for (int i = 0; i < size(); ++i) {
    receives.push_back({i, output.subspan(offset, byte_counts[i])});
    offset += byte_counts[i];
  }
  return Exchange(sends, receives, timeout);
}

absl::Status GlooCommunicator::Exchange(absl::Span<const Outgoing> sends,
                                        absl::Span<const Incoming> receives,
                                        absl::Duration timeout) {
  const MutexLock operation_lock(operation_mutex_);
  std::set<int> silent;
  const absl::Time deadline = absl::Now() + timeout;
  std::vector<Message> sending, receiving;
  const auto set_operation = [&](bool runs) {
    const MutexLock lock(mutex_);
    sending_ = runs ? &sending : nullptr;
    receiving_ = runs ? &receiving : nullptr;
    deadline_ = deadline;
    return end_;
  };
  bool done = false;
  std::string what;
  try {
    for (const auto& [peer, bytes] : receives) {
      if (bytes.empty() || peer == position()) continue;
      receiving.push_back(
          {peer, context_->createUnboundBuffer(bytes.data(), bytes.size())});
    }
    for (const auto& [peer, bytes] : sends) {
      if (bytes.empty() || peer == position()) continue;
      // Gloo does not write through a buffer that it only sends from.
      sending.push_back(
          {peer, context_->createUnboundBuffer(const_cast<char*>(bytes.data()),
                                               bytes.size())});
    }
    RETURN_IF_ERROR(set_operation(true));
    try {
      done = Transfer(sending, receiving, deadline, silent);
    } catch (const std::exception& e) {
      what = e.what();
    }
    // Before the buffers go. That a peer has left by now takes nothing away
    // from an operation that is done.
    (void)set_operation(false);
  } catch (const std::exception& e) {
    what = e.what();
  }
  if (!done) return Fail(what, silent, absl::Now() >= deadline, timeout);
  CopyToSelf(sends, receives);
  return absl::OkStatus();
}

bool GlooCommunicator::Transfer(const std::vector<Message>& sends,
                                const std::vector<Message>& receives,
                                absl::Time deadline, std::set<int>& silent) {
  const uint64_t tag = next_tag_++;
  for (const auto& [peer, buffer] : receives) buffer->recv(peer, tag);
  for (const auto& [peer, buffer] : sends) buffer->send(peer, tag);
  const auto left = [deadline] {
    const absl::Duration left = deadline - absl::Now();
    return absl::ToChronoMilliseconds(std::max(left, absl::ZeroDuration()));
  };
  const auto wait_for_all = [&](const std::vector<Message>& messages,
                                const auto& wait) {
    std::exception_ptr failure;
    for (const auto& [peer, buffer] : messages) {
      try {
        // Once one has failed, the others only say whether they are done.
        if (wait(*buffer, failure ? std::chrono::milliseconds(0)
                                  : left() + std::chrono::milliseconds(1))) {
          continue;
        }
        if (!failure) return false;
      } catch (const std::exception&) {
        // To ask any further would be a wait that times out, and Gloo closes
        // all connections then: who has broken his could not be told any more.
        if (absl::Now() < deadline) throw;
        if (!failure) failure = std::current_exception();
      }
      silent.insert(peer);
    }
    if (failure) std::rethrow_exception(failure);
    return true;
  };
  return wait_for_all(receives,
                      [](UnboundBuffer& buffer, std::chrono::milliseconds ms) {
                        return buffer.waitRecv(nullptr, ms);
                      }) &&
         wait_for_all(sends,
                      [](UnboundBuffer& buffer, std::chrono::milliseconds ms) {
                        return buffer.waitSend(nullptr, ms);
                      });
}

void GlooCommunicator::CopyToSelf(absl::Span<const Outgoing> sends,
                                  absl::Span<const Incoming> receives) {
  const auto is_own = [this](const auto& message) {
    return message.position == position();
  };
  auto to = receives.begin();
  for (const Outgoing& send : sends) {
    if (!is_own(send)) continue;
    to = std::find_if(to, receives.end(), is_own);
    if (!send.bytes.empty()) {
      std::memcpy(to->bytes.data(), send.bytes.data(), send.bytes.size());
    }
    ++to;
  }
}

std::vector<int64_t> GlooCommunicator::BrokenPeers() {
  // What Gloo throws names a port at most. But a broken pair refuses to
  // receive, and on a whole one a receive that is never fulfilled does no harm:
  // all are about to be closed.
  std::vector<int64_t> broken;
  char byte = 0;
  const std::unique_ptr<UnboundBuffer> probe =
      context_->createUnboundBuffer(&byte, 1);
  for (int i = 0; i < size(); ++i) {
    if (i == position()) continue;
    try {
      probe->recv(i, kProbeTag);
    } catch (const std::exception&) {
      broken.push_back(ranks()[i]);
    }
  }
  std::sort(broken.begin(), broken.end());
  return broken;
}

absl::Status GlooCommunicator::Fail(const std::string& what,
                                    const std::set<int>& silent_positions,
                                    bool timed_out, absl::Duration timeout) {
  std::vector<int64_t> silent;
  for (const int i : silent_positions) silent.push_back(ranks()[i]);
  if (timed_out && !silent.empty()) {
    Abort(PeersMissing(attempt_.clique, silent, absl::FormatDuration(timeout)));
  } else if (status().ok()) {
    Abort(PeerLost(attempt_.clique, BrokenPeers(), what));
  }
  return status();
}

class GlooAttempt : public CommunicatorAttempt {
 public:
  GlooAttempt(std::shared_ptr<GlooCommunicator> communicator,
              std::map<int, std::string> slots)
      : communicator_(std::move(communicator)), slots_(std::move(slots)) {}

  ~GlooAttempt() override {
    if (!connected_) {
      Abort(absl::CancelledError("the attempt was given up"));
    }
  }

  absl::StatusOr<std::map<int, std::string>> Slots() override { return slots_; }

  absl::StatusOr<std::shared_ptr<Communicator>> Connect(
      const std::vector<std::string>& slots) override {
    RETURN_IF_ERROR(communicator_->Connect(slots));
    connected_ = true;
    return communicator_;
  }

  void Abort(const absl::Status& why) override { communicator_->Abort(why); }

 private:
  const std::shared_ptr<GlooCommunicator> communicator_;
  const std::map<int, std::string> slots_;
  bool connected_ = false;  // Only Connect() and the destructor use it.
};

class GlooFactory : public CommunicatorFactory {
 public:
  GlooFactory(const GlooOptions& options,
              std::shared_ptr<gloo::transport::Device> device)
      : options_(options), device_(std::move(device)) {}

  std::string backend() const override { return "gloo"; }

  absl::StatusOr<std::unique_ptr<CommunicatorAttempt>> Begin(
      const CliqueAttempt& attempt) override {
    try {
      auto context =
          std::make_unique<GlooMesh>(attempt.position, attempt.ranks.size(),
                                     device_, options_.connect_timeout);
      std::string slot = context->Slot();
      return std::make_unique<GlooAttempt>(
          std::make_shared<GlooCommunicator>(attempt, options_,
                                             std::move(context)),
          std::map<int, std::string>{{attempt.position, std::move(slot)}});
    } catch (const std::exception& e) {
      return Error(absl::StatusCode::kUnavailable, "COMM_BACKEND_FAILED",
                   absl::StrCat(attempt.clique, ": ", e.what()));
    }
  }

 private:
  const GlooOptions options_;
  const std::shared_ptr<gloo::transport::Device> device_;
};

void IgnoreBrokenPipes() {
  struct sigaction action = {};
  if (sigaction(SIGPIPE, nullptr, &action) == 0 &&
      action.sa_handler == SIG_DFL) {
    signal(SIGPIPE, SIG_IGN);
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<CommunicatorFactory>> CreateGlooFactory(
    const GlooOptions& options) {
  RETURN_IF_ERROR(CheckHost(options.host));
  IgnoreBrokenPipes();
  try {
    return std::make_unique<GlooFactory>(
        options, gloo::transport::tcp::CreateDevice(
                     gloo::transport::tcp::attr(options.host.c_str())));
  } catch (const std::exception& e) {
    return Error(absl::StatusCode::kUnavailable, "COMM_BACKEND_FAILED",
                 e.what());
  }
}

}  // namespace shardwright
