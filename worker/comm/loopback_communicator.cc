#include "worker/comm/loopback_communicator.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "proto/sync/mutex.h"

namespace shardwright {
namespace {

// What one member brings: bytes for all, or messages for some.
struct Input {
  std::string bytes;
  std::vector<std::pair<int, std::string>> messages;  // By position.
};
using Inputs = std::vector<Input>;

// What the members of one attempt share. Thread-safe.
class Clique {
 public:
  explicit Clique(const CliqueAttempt& attempt)
      : name_(attempt.clique),
        ranks_(attempt.ranks),
        inputs_(attempt.ranks.size()),
        arrived_(attempt.ranks.size(), false) {}

  const std::vector<int64_t>& ranks() const { return ranks_; }

  // Returns the inputs of all, when all have come.
  absl::StatusOr<std::shared_ptr<const Inputs>> Exchange(
      int position, Input input, absl::Duration timeout) {
    MutexLock lock(mutex_);
    RETURN_IF_ERROR(end_);
    inputs_[position] = std::move(input);
    arrived_[position] = true;
    const int64_t round = round_;
    if (Silent().empty()) {
      result_ = std::make_shared<const Inputs>(std::move(inputs_));
      inputs_.assign(ranks_.size(), Input());
      arrived_.assign(ranks_.size(), false);
      ++round_;
      changed_.NotifyAll();
      return result_;
    }
    changed_.WaitFor(lock, timeout,
                     [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
                       return round_ != round || !end_.ok();
                     });
    if (round_ != round) return result_;
    EndLocked(PeersMissing(name_, Silent(), absl::FormatDuration(timeout)));
    return end_;
  }

  void End(const absl::Status& why) {
    const MutexLock lock(mutex_);
    EndLocked(why);
  }

  absl::Status end() const {
    const MutexLock lock(mutex_);
    return end_;
  }

  void EndAsLost(int position) {
    End(PeerLost(name_, {ranks_[position]}, "it gave up"));
  }

 private:
  void EndLocked(const absl::Status& why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (end_.ok()) end_ = why;
    changed_.NotifyAll();
  }

  std::vector<int64_t> Silent() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    std::vector<int64_t> silent;
    for (size_t i = 0; i < ranks_.size(); ++i) {
      if (!arrived_[i]) silent.push_back(ranks_[i]);
    }
    return silent;
  }

  const std::string name_;
  const std::vector<int64_t> ranks_;

  mutable Mutex mutex_;
  CondVar changed_;
  Inputs inputs_ ABSL_GUARDED_BY(mutex_);
  std::vector<bool> arrived_ ABSL_GUARDED_BY(mutex_);
  // Of the round before.
  std::shared_ptr<const Inputs> result_ ABSL_GUARDED_BY(mutex_);
  int64_t round_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status end_ ABSL_GUARDED_BY(mutex_);
};

class LoopbackCommunicator : public Communicator {
 public:
  LoopbackCommunicator(std::shared_ptr<Clique> clique, int position,
                       absl::Duration timeout)
      : clique_(std::move(clique)), position_(position), timeout_(timeout) {}

  ~LoopbackCommunicator() override { clique_->EndAsLost(position_); }

  const std::vector<int64_t>& ranks() const override {
    return clique_->ranks();
  }
  int position() const override { return position_; }

  absl::Status AllGather(absl::Span<const char> input,
                         absl::Span<char> output) override {
    return AllGatherV(input, std::vector<int64_t>(size(), input.size()),
                      output);
  }

  absl::Status AllGatherV(absl::Span<const char> input,
                          absl::Span<const int64_t> byte_counts,
                          absl::Span<char> output) override {
    const MutexLock lock(operation_mutex_);
    ASSIGN_OR_RETURN(const std::shared_ptr<const Inputs> inputs,
                     Meet({std::string(input.begin(), input.end()), {}}));
    char* to = output.data();
    for (int i = 0; i < size(); ++i) {
      if (byte_counts[i] == 0) continue;
      std::memcpy(to, (*inputs)[i].bytes.data(), byte_counts[i]);
      to += byte_counts[i];
    }
    return absl::OkStatus();
  }

  absl::Status Exchange(absl::Span<const Outgoing> sends,
                        absl::Span<const Incoming> receives) override;

  absl::Status Barrier() override { return AllGather({}, {}); }

  absl::Status status() const override {
    RETURN_IF_ERROR(OwnEnd());
    return clique_->end();
  }

  void Abort(const absl::Status& why) override {
    {
      const MutexLock lock(end_mutex_);
      if (own_end_.ok()) own_end_ = why;
    }
    clique_->EndAsLost(position_);
  }

 private:
  absl::StatusOr<std::shared_ptr<const Inputs>> Meet(Input input)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(operation_mutex_) {
    absl::StatusOr<std::shared_ptr<const Inputs>> inputs = clique_->Exchange(
        position_, std::move(input), WithinDeadline(timeout_));
    RETURN_IF_ERROR(OwnEnd());
    return inputs;
  }

  absl::Status OwnEnd() const {
    const MutexLock lock(end_mutex_);
    return own_end_;
  }

  const std::shared_ptr<Clique> clique_;
  const int position_;
  const absl::Duration timeout_;

  Mutex operation_mutex_;
  mutable Mutex end_mutex_;
  // What Abort() was given.
  absl::Status own_end_ ABSL_GUARDED_BY(end_mutex_);
};

absl::Status LoopbackCommunicator::Exchange(
    absl::Span<const Outgoing> sends, absl::Span<const Incoming> receives) {
  const MutexLock lock(operation_mutex_);
  Input own;
  for (const Outgoing& send : sends) {
    own.messages.emplace_back(
        send.position, std::string(send.bytes.begin(), send.bytes.end()));
  }
  ASSIGN_OR_RETURN(const std::shared_ptr<const Inputs> inputs,
                   Meet(std::move(own)));
  std::vector<size_t> next(size(), 0);  // Message of each member.
  for (const Incoming& receive : receives) {
    const auto& messages = (*inputs)[receive.position].messages;
    size_t& at = next[receive.position];
    while (at < messages.size() && messages[at].first != position_) ++at;
    if (at == messages.size() ||
        messages[at].second.size() != receive.bytes.size()) {
      Abort(Error(
          absl::StatusCode::kUnavailable, "COMM_BACKEND_FAILED",
          absl::StrCat("rank ", ranks()[receive.position], " sends ",
                       at == messages.size()
                           ? std::string("no more messages")
                           : absl::StrCat(messages[at].second.size(), " bytes"),
                       ", not ", receive.bytes.size(), " bytes")));
      return OwnEnd();
    }
    if (!receive.bytes.empty()) {
      std::memcpy(receive.bytes.data(), messages[at].second.data(),
                  receive.bytes.size());
    }
    ++at;
  }
  return absl::OkStatus();
}

}  // namespace

struct LoopbackFactory::Hub {
  Mutex mutex;
  // By identity.
  std::map<uint64_t, std::weak_ptr<Clique>> cliques ABSL_GUARDED_BY(mutex);
};

namespace {

class LoopbackAttempt : public CommunicatorAttempt {
 public:
  LoopbackAttempt(const CliqueAttempt& attempt, std::shared_ptr<Clique> clique,
                  absl::Duration timeout)
      : communicator_(std::make_shared<LoopbackCommunicator>(
            std::move(clique), attempt.position, timeout)) {
    for (int index : attempt.slot_indexes) {
      slots_[index] = absl::StrCat("loopback ", index);
    }
  }

  absl::StatusOr<std::map<int, std::string>> Slots() override { return slots_; }

  absl::StatusOr<std::shared_ptr<Communicator>> Connect(
      const std::vector<std::string>& slots) override {
    for (size_t i = 0; i < slots.size(); ++i) {
      if (slots[i] == absl::StrCat("loopback ", i)) continue;
      return Error(absl::StatusCode::kInvalidArgument, "INVALID_SLOT",
                   absl::StrCat("slot ", i, " is not of this backend"));
    }
    RETURN_IF_ERROR(communicator_->Barrier());
    return communicator_;
  }

  void Abort(const absl::Status& why) override { communicator_->Abort(why); }

 private:
  const std::shared_ptr<Communicator> communicator_;
  std::map<int, std::string> slots_;
};

}  // namespace

LoopbackFactory::LoopbackFactory(absl::Duration timeout)
    : timeout_(timeout), hub_(std::make_shared<Hub>()) {}

absl::StatusOr<std::unique_ptr<CommunicatorAttempt>> LoopbackFactory::Begin(
    const CliqueAttempt& attempt) {
  const MutexLock lock(hub_->mutex);
  std::weak_ptr<Clique>& known = hub_->cliques[attempt.identity];
  std::shared_ptr<Clique> clique = known.lock();
  if (clique == nullptr) {
    clique = std::make_shared<Clique>(attempt);
    known = clique;
  }
  return std::make_unique<LoopbackAttempt>(attempt, std::move(clique),
                                           timeout_);
}

}  // namespace shardwright
