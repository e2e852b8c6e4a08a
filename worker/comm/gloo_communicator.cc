#include "worker/comm/gloo_communicator.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <exception>
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
  }

  const std::vector<int64_t>& ranks() const override { return attempt_.ranks; }
  int position() const override { return attempt_.position; }

  absl::Status Connect(const std::vector<std::string>& slots);

  absl::Status AllGather(absl::Span<const char> input,
                         absl::Span<char> output) override {
    const std::vector<int64_t> counts(size(), input.size());
    return Exchange(input, counts, output, options_.operation_timeout);
  }
  absl::Status AllGatherV(absl::Span<const char> input,
                          absl::Span<const int64_t> byte_counts,
                          absl::Span<char> output) override {
    return Exchange(input, byte_counts, output, options_.operation_timeout);
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
    CloseLocked();
  }

 private:
  absl::Status Exchange(absl::Span<const char> input,
                        absl::Span<const int64_t> byte_counts,
                        absl::Span<char> output, absl::Duration timeout);
  // False: aborted.
  bool Transfer(UnboundBuffer& in, UnboundBuffer& out,
                absl::Span<const int64_t> byte_counts, absl::Time deadline,
                std::vector<bool>& heard)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(operation_mutex_);

  // Waits for a connection to break and ends the communicator then. Gloo tells
  // only those who wait for that very peer: without this, a member that has had
  // its rows from one that died afterwards would wait for the rest until the
  // timeout, and one that has nothing to do would not notice at all.
  absl::Status StartWatching();

  // Whether an operation runs that has waited long enough.
  bool timed_out() const {
    const MutexLock lock(mutex_);
    return out_ != nullptr && absl::Now() >= deadline_;
  }

  // Members whose connections have failed by themselves.
  std::vector<int64_t> BrokenPeers();

  // Ends the communicator with the failure that Gloo threw, or with the one
  // that made it throw.
  absl::Status Fail(const std::string& what, const std::vector<bool>& heard,
                    bool timed_out, absl::Duration timeout);

  // Peers see their connections break, and the operation that waits here wakes.
  void CloseLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    context_->closeConnections();
    if (in_ != nullptr) in_->abortWaitSend();
    if (out_ != nullptr) out_->abortWaitRecv();
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
  UnboundBuffer* in_ ABSL_GUARDED_BY(mutex_) = nullptr;
  UnboundBuffer* out_ ABSL_GUARDED_BY(mutex_) = nullptr;
  absl::Time deadline_ ABSL_GUARDED_BY(mutex_);

  char watched_byte_ = 0;                 // Nothing ever arrives here.
  std::unique_ptr<UnboundBuffer> watch_;  // Guarded by mutex_ until it is set.
  std::thread watcher_;
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
  RETURN_IF_ERROR(Exchange(
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
  });
  return absl::OkStatus();
}

absl::Status GlooCommunicator::Exchange(absl::Span<const char> input,
                                        absl::Span<const int64_t> byte_counts,
                                        absl::Span<char> output,
                                        absl::Duration timeout) {
  const MutexLock operation_lock(operation_mutex_);
  std::vector<bool> heard(size(), false);
  heard[position()] = true;
  const absl::Time deadline = absl::Now() + timeout;
  const auto set_operation = [&](UnboundBuffer* in, UnboundBuffer* out) {
    const MutexLock lock(mutex_);
    in_ = in;
    out_ = out;
    deadline_ = deadline;
    return end_;
  };
  bool done = false;
  std::string what;
  try {
    // Gloo does not write through the buffer that it only sends from.
    const std::unique_ptr<UnboundBuffer> in = context_->createUnboundBuffer(
        const_cast<char*>(input.data()), input.size());
    const std::unique_ptr<UnboundBuffer> out =
        context_->createUnboundBuffer(output.data(), output.size());
    RETURN_IF_ERROR(set_operation(in.get(), out.get()));
    try {
      done = Transfer(*in, *out, byte_counts, deadline, heard);
    } catch (const std::exception& e) {
      what = e.what();
    }
    // Before the buffers go. That a peer has left by now takes nothing away
    // from an operation that is done.
    (void)set_operation(nullptr, nullptr);
  } catch (const std::exception& e) {
    what = e.what();
  }
  if (!done) return Fail(what, heard, absl::Now() >= deadline, timeout);
  int64_t own_offset = 0;
  for (int i = 0; i < position(); ++i) own_offset += byte_counts[i];
  if (!input.empty()) {
    std::memcpy(output.data() + own_offset, input.data(), input.size());
  }
  return absl::OkStatus();
}

bool GlooCommunicator::Transfer(UnboundBuffer& in, UnboundBuffer& out,
                                absl::Span<const int64_t> byte_counts,
                                absl::Time deadline, std::vector<bool>& heard) {
  const uint64_t tag = next_tag_++;
  int64_t offset = 0;
  int receive_count = 0;
  int send_count = 0;
  for (int i = 0; i < size(); ++i) {
    if (i != position() && byte_counts[i] > 0) {
      out.recv(i, tag, offset, byte_counts[i]);
      ++receive_count;
    }
    offset += byte_counts[i];
    if (byte_counts[i] == 0) heard[i] = true;
  }
  // Each member begins with its right neighbour, so that not all send to one.
  for (int k = 1; k < size() && in.size > 0; ++k) {
    in.send((position() + k) % size(), tag);
    ++send_count;
  }
  const auto left = [deadline] {
    const absl::Duration left = deadline - absl::Now();
    return absl::ToChronoMilliseconds(std::max(left, absl::ZeroDuration())) +
           std::chrono::milliseconds(1);
  };
  for (; receive_count > 0; --receive_count) {
    int from = position();
    if (!out.waitRecv(&from, left())) return false;
    heard[from] = true;
  }
  for (; send_count > 0; --send_count) {
    if (!in.waitSend(nullptr, left())) return false;
  }
  return true;
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
  return broken;
}

absl::Status GlooCommunicator::Fail(const std::string& what,
                                    const std::vector<bool>& heard,
                                    bool timed_out, absl::Duration timeout) {
  std::vector<int64_t> silent;
  for (int i = 0; i < size(); ++i) {
    if (!heard[i]) silent.push_back(ranks()[i]);
  }
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

  absl::StatusOr<std::map<int, std::string>> Slots() override {
    return slots_;
  }

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

// Gloo reads through a null pointer when a name does not resolve.
absl::Status CheckHost(const std::string& host) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int code = getaddrinfo(host.c_str(), nullptr, &hints, &found);
  std::string why = code == 0 ? "" : gai_strerror(code);
  bool bound = false;
  for (const addrinfo* a = found; a != nullptr && !bound; a = a->ai_next) {
    const int fd = socket(a->ai_family, a->ai_socktype, a->ai_protocol);
    bound = fd >= 0 && bind(fd, a->ai_addr, a->ai_addrlen) == 0;
    if (!bound) why = std::strerror(errno);
    if (fd >= 0) close(fd);
  }
  if (found != nullptr) freeaddrinfo(found);
  if (bound) return absl::OkStatus();
  return Error(
      absl::StatusCode::kInvalidArgument, "INVALID_COMM_HOST",
      absl::StrCat("communicators cannot listen on host \"", host, "\": ", why),
      {{"host", host}});
}

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
