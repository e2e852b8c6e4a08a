#include "worker/agent/clique_table.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "worker/comm/loopback_communicator.h"

namespace shardwright {
namespace {

CliqueTable::Clique CliqueOfOne(const CliqueSpec& spec) {
  CliqueTable::Clique clique;
  clique.spec = spec;
  CliqueAttempt attempt;
  attempt.clique = spec.name;
  attempt.ranks = spec.ranks;
  // A factory of its own: nobody else shall meet it there.
  clique.communicator = *(*LoopbackFactory().Begin(attempt))->Connect({});
  clique.state = v1::CliqueSummary::ACTIVE;
  return clique;
}

}  // namespace

bool SameAttempt(const v1::Attempt& a, const v1::Attempt& b) {
  return a.clique() == b.clique() && a.term() == b.term() &&
         a.number() == b.number();
}

void CliqueTable::Reset(const std::vector<CliqueSpec>& cliques,
                        const absl::Status& why) {
  AbortAll(why);
  std::vector<Clique> fresh;
  for (const CliqueSpec& spec : cliques) {
    if (spec.ranks.size() == 1) {
      fresh.push_back(CliqueOfOne(spec));
    } else {
      fresh.emplace_back().spec = spec;
    }
  }
  // What was there is destroyed with `fresh`, after the lock.
  const MutexLock lock(mutex_);
  cliques_.swap(fresh);
  changed_.NotifyAll();
}

void CliqueTable::Close(const absl::Status& why) {
  {
    const MutexLock lock(mutex_);
    closed_ = why;
    changed_.NotifyAll();
  }
  AbortIf([](const Clique&) { return true; }, why);
}

CliqueSpec CliqueTable::SpecOf(const std::string& name) const {
  const MutexLock lock(mutex_);
  for (const Clique& clique : cliques_) {
    if (clique.spec.name == name) return clique.spec;
  }
  return {};
}

void CliqueTable::Install(const v1::Attempt& attempt,
                          std::shared_ptr<Communicator> communicator) {
  const MutexLock lock(mutex_);
  if (!closed_.ok()) return;
  for (Clique& clique : cliques_) {
    if (clique.spec.name != attempt.clique()) continue;
    clique.state = v1::CliqueSummary::ACTIVE;
    clique.attempt = attempt;
    clique.communicator.swap(communicator);
    changed_.NotifyAll();
  }
}

void CliqueTable::SetInactive(State state) {
  const MutexLock lock(mutex_);
  for (Clique& clique : cliques_) {
    if (clique.state != v1::CliqueSummary::ACTIVE) clique.state = state;
  }
}

void CliqueTable::SetInactive(const v1::Attempt& attempt, State state) {
  const MutexLock lock(mutex_);
  for (Clique& clique : cliques_) {
    if (clique.spec.name != attempt.clique() ||
        clique.state == v1::CliqueSummary::ACTIVE) {
      continue;
    }
    clique.state = state;
    clique.attempt = attempt;
  }
}

bool CliqueTable::IsActive(const v1::Attempt& attempt) const {
  const MutexLock lock(mutex_);
  return std::any_of(cliques_.begin(), cliques_.end(),
                     [&](const Clique& clique) {
                       return clique.state == v1::CliqueSummary::ACTIVE &&
                              SameAttempt(clique.attempt, attempt) &&
                              clique.communicator->status().ok();
                     });
}

template <typename Predicate>
std::vector<CliqueTable::Clique> CliqueTable::AbortIf(
    const Predicate& predicate, const absl::Status& why) {
  std::vector<Clique> aborted;
  {
    const MutexLock lock(mutex_);
    for (Clique& clique : cliques_) {
      if (clique.state != v1::CliqueSummary::ACTIVE || !predicate(clique))
        continue;
      clique.state = v1::CliqueSummary::IDLE;
      const absl::Status end = clique.communicator->status();
      clique.why = end.ok() ? why : end;
      aborted.push_back(clique);
      clique.communicator = nullptr;
    }
  }
  for (const Clique& clique : aborted) clique.communicator->Abort(why);
  return aborted;
}

std::vector<CliqueTable::Clique> CliqueTable::AbortAll(
    const absl::Status& why) {
  return AbortIf(
      [](const Clique& clique) { return clique.spec.ranks.size() > 1; }, why);
}

std::vector<CliqueTable::Clique> CliqueTable::AbortWithRank(
    int64_t rank, const absl::Status& why) {
  return AbortIf(
      [rank](const Clique& clique) {
        const std::vector<int64_t>& ranks = clique.spec.ranks;
        return std::find(ranks.begin(), ranks.end(), rank) != ranks.end();
      },
      why);
}

std::vector<CliqueTable::Clique> CliqueTable::AbortAttempt(
    const v1::Attempt& attempt, const absl::Status& why) {
  return AbortIf(
      [&attempt](const Clique& clique) {
        return SameAttempt(clique.attempt, attempt);
      },
      why);
}

std::vector<CliqueTable::Clique> CliqueTable::CollectEnded() {
  return AbortIf(
      [](const Clique& clique) { return !clique.communicator->status().ok(); },
      absl::OkStatus());
}

bool CliqueTable::HasEnded() const {
  const MutexLock lock(mutex_);
  return std::any_of(cliques_.begin(), cliques_.end(),
                     [](const Clique& clique) {
                       return clique.state == v1::CliqueSummary::ACTIVE &&
                              !clique.communicator->status().ok();
                     });
}

std::vector<std::string> CliqueTable::InactiveKinds() const {
  const MutexLock lock(mutex_);
  std::vector<std::string> kinds;
  for (const Clique& clique : cliques_) {
    if (clique.state != v1::CliqueSummary::ACTIVE)
      kinds.push_back(clique.spec.kind);
  }
  return kinds;
}

absl::StatusOr<CliqueTable::Clique> CliqueTable::WaitActive(
    absl::string_view kind, absl::Duration timeout) const {
  MutexLock lock(mutex_);
  const auto find = [&]()
                        ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) -> const Clique* {
    for (const Clique& clique : cliques_) {
      if (clique.spec.kind == kind) return &clique;
    }
    return nullptr;
  };
  changed_.WaitFor(lock, timeout, [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    // An empty table has not heard of the layout yet.
    const Clique* clique = find();
    return !closed_.ok() || (clique == nullptr && !cliques_.empty()) ||
           (clique != nullptr && clique->state == v1::CliqueSummary::ACTIVE);
  });
  RETURN_IF_ERROR(closed_);
  const Clique* clique = find();
  if (clique != nullptr && clique->state == v1::CliqueSummary::ACTIVE)
    return *clique;
  std::string message;
  if (clique == nullptr) {
    message = absl::StrCat("this rank has no clique of kind \"", kind, "\"");
  } else {
    message = absl::StrCat("clique ", clique->spec.name, " is ",
                           v1::CliqueSummary::State_Name(clique->state),
                           " after waiting ", absl::FormatDuration(timeout));
    if (!clique->why.ok()) {
      absl::StrAppend(&message, ": ", clique->why.message());
    }
  }
  return Error(absl::StatusCode::kFailedPrecondition, "CLIQUE_NOT_ACTIVE",
               message);
}

std::vector<CliqueTable::Clique> CliqueTable::List() const {
  const MutexLock lock(mutex_);
  return cliques_;
}

}  // namespace shardwright
