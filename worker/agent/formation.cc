#include "worker/agent/formation.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/plan/fingerprint.h"
#include "proto/status/error.h"
#include "spdlog/spdlog.h"

namespace shardwright {
namespace {

uint64_t IdentityOf(const v1::Caller& caller, const v1::Attempt& attempt) {
  Fingerprint fingerprint;
  fingerprint.Add(caller.member().job());
  fingerprint.Add(static_cast<uint64_t>(caller.member().kind()));
  fingerprint.Add(static_cast<uint64_t>(caller.generation()));
  fingerprint.Add(attempt.clique());
  fingerprint.Add(static_cast<uint64_t>(attempt.term()));
  fingerprint.Add(static_cast<uint64_t>(attempt.number()));
  return fingerprint.digest();
}

// Sends a request. One stale item spoils those that it travels with, so then
// each goes by itself; that one of them is stale is no news: the stream tells.
template <typename Request, typename Items, typename Send>
void SendBatch(const Request& request, Items* items, const Send& send) {
  if (items->empty()) return;
  absl::Status sent = send(request);
  if (ReasonOf(sent) == "STALE_ATTEMPT" && items->size() > 1) {
    const Items all = *items;
    for (const auto& item : all) {
      items->Clear();
      *items->Add() = item;
      sent = send(request);
    }
  }
  if (!sent.ok() && ReasonOf(sent) != "STALE_ATTEMPT") {
    spdlog::warn("event=send_failed reason={} message=\"{}\"", ReasonOf(sent),
                 std::string(sent.message()));
  }
}

}  // namespace

Formation::Formation(CoordinatorClient client, CommunicatorFactory& factory,
                     CliqueTable& cliques, v1::Caller caller,
                     bool check_cliques)
    : client_(std::move(client)),
      factory_(factory),
      cliques_(cliques),
      caller_(std::move(caller)),
      check_cliques_(check_cliques),
      sender_([this] { SendOutbox(); }) {}

Formation::~Formation() {
  for (const auto& [clique, attempt] : tries_) {
    attempt->connecting->Abort(absl::CancelledError("the call has ended"));
  }
  for (std::thread& thread : connects_) thread.join();
  {
    const MutexLock lock(mutex_);
    ended_ = true;
    changed_.NotifyAll();
  }
  sender_.join();
}

absl::Status Formation::Run(
    v1::FormCommunicatorsRequest request,
    const std::function<void(const v1::Waiting&)>& on_waiting,
    const std::function<bool()>& keep_going, CallCanceller canceller) {
  *request.mutable_caller() = caller_;
  return client_.FormCommunicators(
      request,
      [&](const v1::FormCommunicatorsResponse& response) {
        switch (response.event_case()) {
          case v1::FormCommunicatorsResponse::kWaiting:
            on_waiting(response.waiting());
            break;
          case v1::FormCommunicatorsResponse::kGo:
            OnGo(response.go());
            break;
          case v1::FormCommunicatorsResponse::kSlots:
            OnSlots(response.slots());
            break;
          case v1::FormCommunicatorsResponse::kActive:
            OnActive(response.active().attempt());
            break;
          case v1::FormCommunicatorsResponse::kAborted:
            OnAborted(response.aborted());
            break;
          case v1::FormCommunicatorsResponse::EVENT_NOT_SET:
            break;  // A newer coordinator says more than this worker knows.
        }
        return keep_going();
      },
      std::move(canceller));
}

void Formation::OnGo(const v1::Go& go) {
  CliqueAttempt attempt;
  attempt.clique = go.attempt().clique();
  attempt.ranks.assign(go.ranks().begin(), go.ranks().end());
  const auto own = std::find(attempt.ranks.begin(), attempt.ranks.end(),
                             caller_.member().rank());
  attempt.position = static_cast<int>(own - attempt.ranks.begin());
  attempt.identity = IdentityOf(caller_, go.attempt());
  attempt.slot_indexes.assign(go.slot_indexes().begin(),
                              go.slot_indexes().end());
  attempt.slot_count = go.slot_count();
  attempt.number = go.attempt().number();
  const CliqueSpec spec = cliques_.SpecOf(attempt.clique);
  attempt.carries_rows = spec.carries_rows;
  if (attempt.ranks != spec.ranks || own == attempt.ranks.end()) {
    Report(go.attempt(),
           absl::FailedPreconditionError(
               "its members are not those that this worker's layout names"));
    return;
  }
  absl::StatusOr<std::unique_ptr<CommunicatorAttempt>> begun =
      factory_.Begin(attempt);
  if (!begun.ok()) {
    Report(go.attempt(), begun.status());
    return;
  }
  std::shared_ptr<Try>& slot = tries_[attempt.clique];
  if (slot != nullptr) {
    slot->connecting->Abort(absl::CancelledError("a new attempt has begun"));
  }
  slot = std::make_shared<Try>();
  slot->attempt = go.attempt();
  slot->connecting = *std::move(begun);
  cliques_.SetInactive(go.attempt(), v1::CliqueSummary::EXCHANGING);
  const MutexLock lock(mutex_);
  begun_.push_back(slot);
  changed_.NotifyAll();
}

void Formation::CollectSlots(const std::vector<std::shared_ptr<Try>>& tries,
                             v1::PublishSlotsRequest& request) {
  for (const std::shared_ptr<Try>& attempt : tries) {
    const absl::StatusOr<std::map<int, std::string>> slots =
        attempt->connecting->Slots();
    if (!slots.ok()) {
      Report(attempt->attempt, slots.status());
      continue;
    }
    for (const auto& [index, value] : *slots) {
      v1::Slot& published = *request.add_slots();
      *published.mutable_attempt() = attempt->attempt;
      published.set_index(index);
      published.set_value(value);
    }
  }
}

void Formation::OnSlots(const v1::Slots& slots) {
  const std::shared_ptr<Try> attempt = Find(slots.attempt());
  if (attempt == nullptr) return;
  cliques_.SetInactive(slots.attempt(), v1::CliqueSummary::CONNECTING);
  connects_.emplace_back([this, attempt, turn = connects_.size(),
                          values = std::vector<std::string>(
                              slots.values().begin(), slots.values().end())] {
    Connect(attempt, values, turn);
  });
}

void Formation::Connect(const std::shared_ptr<Try>& attempt,
                        const std::vector<std::string>& slots, size_t turn) {
  absl::StatusOr<std::shared_ptr<Communicator>> connected =
      attempt->connecting->Connect(slots);
  if (!connected.ok()) Report(attempt->attempt, connected.status());
  if (check_cliques_) {
    MutexLock lock(mutex_);
    while (turn_ != turn) changed_.Wait(lock);
  }
  if (connected.ok()) {
    const absl::Status checked =
        check_cliques_ ? (*connected)->Barrier() : absl::OkStatus();
    if (checked.ok()) {
      const MutexLock lock(mutex_);
      attempt->communicator = *std::move(connected);
    }
    Report(attempt->attempt, checked);
  }
  const MutexLock lock(mutex_);
  ++turn_;
  changed_.NotifyAll();
}

void Formation::OnActive(const v1::Attempt& attempt) {
  if (cliques_.IsActive(attempt)) return;
  std::shared_ptr<Communicator> communicator;
  if (const std::shared_ptr<Try> found = Find(attempt); found != nullptr) {
    const MutexLock lock(mutex_);
    communicator = std::move(found->communicator);
  }
  if (communicator == nullptr) {
    Report(attempt, absl::AbortedError(
                        "this member has no communicator of the attempt"));
    return;
  }
  tries_.erase(attempt.clique());
  cliques_.Install(attempt, std::move(communicator));
  spdlog::info("event=clique_active clique={} attempt={} term={}",
               attempt.clique(), attempt.number(), attempt.term());
}

void Formation::OnAborted(const v1::AttemptAborted& aborted) {
  const absl::Status why =
      Error(absl::StatusCode::kAborted, aborted.reason(), aborted.message());
  if (const std::shared_ptr<Try> found = Find(aborted.attempt());
      found != nullptr) {
    found->connecting->Abort(why);
    tries_.erase(aborted.attempt().clique());
  }
  cliques_.AbortAttempt(aborted.attempt(), why);
  cliques_.SetInactive(aborted.attempt(), v1::CliqueSummary::GATHERING);
  spdlog::warn(
      "event=attempt_aborted clique={} attempt={} reason={} "
      "message=\"{}\"",
      aborted.attempt().clique(), aborted.attempt().number(), aborted.reason(),
      aborted.message());
}

std::shared_ptr<Formation::Try> Formation::Find(
    const v1::Attempt& attempt) const {
  const auto found = tries_.find(attempt.clique());
  if (found == tries_.end() || !SameAttempt(found->second->attempt, attempt)) {
    return nullptr;
  }
  return found->second;
}

void Formation::Report(const v1::Attempt& attempt, const absl::Status& status) {
  const MutexLock lock(mutex_);
  v1::CommunicatorReport& report = *reports_.add_reports();
  *report.mutable_attempt() = attempt;
  report.set_ok(status.ok());
  if (!status.ok()) report.set_message(std::string(status.message()));
  changed_.NotifyAll();
}

void Formation::SendOutbox() {
  MutexLock lock(mutex_);
  while (true) {
    while (!ended_ && begun_.empty() && reports_.reports().empty()) {
      changed_.Wait(lock);
    }
    // Once the call has ended, its attempts have too, and nobody wants the
    // rest.
    if (ended_) return;
    const std::vector<std::shared_ptr<Try>> begun = std::exchange(begun_, {});
    v1::ReportCommunicatorsRequest reports = std::exchange(reports_, {});
    lock.Unlock();
    v1::PublishSlotsRequest slots;
    CollectSlots(begun, slots);
    *slots.mutable_caller() = caller_;
    *reports.mutable_caller() = caller_;
    SendBatch(slots, slots.mutable_slots(), [this](const auto& request) {
      return client_.PublishSlots(request).status();
    });
    SendBatch(reports, reports.mutable_reports(), [this](const auto& request) {
      return client_.ReportCommunicators(request).status();
    });
    lock.Lock();
  }
}

}  // namespace shardwright
