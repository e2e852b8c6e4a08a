// CoordinatorCore is the coordinator without its server: layouts, members,
// cliques and barriers, and all decisions about them. Deterministic: what it
// answers follows from the calls made, their order and the times given. It has
// no clock, thread, lock, random source or gRPC; the store is its only outside.
//
// A method that takes the time, which must not run backwards, first does all
// that has become due until then. Beside its answer it adds to `effects`: what
// parked calls shall be sent, and how they end.
//
// Parked calls (Session, FormCommunicators, WaitAtBarrier, WatchLayouts) are
// named by a StreamId of the driver's choice. When their method fails, the call
// is over. If not, it is open until an effect ends it or StreamClosed() says
// that the client has gone.
//
// What outlives the coordinator is stored before it is answered or told. A
// method whose write fails returns UNAVAILABLE STORE_FAILED and has changed
// nothing.

#ifndef COORDINATOR_CORE_COORDINATOR_CORE_H_
#define COORDINATOR_CORE_COORDINATOR_CORE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/core/admission.h"
#include "coordinator/core/barrier_table.h"
#include "coordinator/core/clique_table.h"
#include "coordinator/core/effects.h"
#include "coordinator/core/event_log.h"
#include "coordinator/core/layout_table.h"
#include "coordinator/core/membership.h"
#include "coordinator/core/missing_reports.h"
#include "coordinator/core/silent_sessions.h"
#include "coordinator/storage/state_store.h"
#include "shardwright/v1/barrier.pb.h"
#include "shardwright/v1/communicator.pb.h"
#include "shardwright/v1/diagnostics.pb.h"
#include "shardwright/v1/layout.pb.h"
#include "shardwright/v1/membership.pb.h"

namespace shardwright {

// One-thread-only: one call at a time. Errors are those that the services'
// methods list (proto/shardwright/v1).
class CoordinatorCore {
 public:
  struct Options {
    absl::Duration lease_ttl = absl::Seconds(10);

    // Registrations and layouts that are written in a second; four times as
    // many at once. More are refused with OVERLOADED.
    int64_t admission_rate = 4096;

    // Terms and revisions of layouts are above it, so that those of a store
    // that forgets do not come again. Not negative.
    int64_t number_base = 0;
  };

  // Takes over what `store` holds and begins the next term. `store` must
  // outlive the core.
  //
  // Errors:
  //   DATA_LOSS   STORE_UNREADABLE: the message names the entry.
  //   UNAVAILABLE STORE_FAILED: of the store.
  static absl::StatusOr<std::unique_ptr<CoordinatorCore>> Start(
      StateStore& store, const Options& options, absl::Time now);

  CoordinatorCore(const CoordinatorCore&) = delete;
  CoordinatorCore& operator=(const CoordinatorCore&) = delete;

  int64_t term() const { return term_; }

  // LayoutService.
  absl::StatusOr<v1::ApplyLayoutResponse> ApplyLayout(
      const v1::ApplyLayoutRequest& request, absl::Time now, Effects& effects);
  absl::StatusOr<v1::ListLayoutsResponse> ListLayouts(
      const v1::ListLayoutsRequest& request) const;
  absl::Status WatchLayouts(StreamId stream,
                            const v1::WatchLayoutsRequest& request,
                            absl::Time now, Effects& effects);

  // The client has read all that it was sent. Layouts that are in force when
  // somebody begins to watch come in portions, each when the one before was
  // read. Does nothing for other calls.
  void WatchOn(StreamId stream, absl::Time now, Effects& effects);

  // ApplyLayout() with the request's layout checked before: that of a million
  // ranks takes a while, in which others need not wait.
  absl::StatusOr<v1::ApplyLayoutResponse> ApplyLayout(
      const v1::ApplyLayoutRequest& request, Layout layout, absl::Time now,
      Effects& effects);

  // The layout in force: what GetLayout, ExplainRank and planning work with. If
  // `generation` is not 0 it must be the current one.
  absl::StatusOr<JobLayout> FindLayout(const std::string& job,
                                       int64_t generation = 0) const;

  // MembershipService.
  absl::StatusOr<v1::RegisterResponse> Register(
      const v1::RegisterRequest& request, absl::Time now, Effects& effects);

  // A session may be announced before its first message; if that does not come
  // it ends.
  void SessionOpened(StreamId stream, absl::Time now, Effects& effects);
  absl::Status Session(StreamId stream, const v1::SessionRequest& request,
                       absl::Time now, Effects& effects);
  absl::Status Leave(const v1::LeaveRequest& request, absl::Time now,
                     Effects& effects);
  absl::StatusOr<v1::ListMembersResponse> ListMembers(
      const v1::ListMembersRequest& request, absl::Time now, Effects& effects);

  // CommunicatorService.
  absl::Status FormCommunicators(StreamId stream,
                                 const v1::FormCommunicatorsRequest& request,
                                 absl::Time now, Effects& effects);
  absl::Status PublishSlots(const v1::PublishSlotsRequest& request,
                            absl::Time now, Effects& effects);
  absl::Status ReportCommunicators(
      const v1::ReportCommunicatorsRequest& request, absl::Time now,
      Effects& effects);

  // BarrierService.
  absl::Status WaitAtBarrier(StreamId stream,
                             const v1::WaitAtBarrierRequest& request,
                             absl::Time now, Effects& effects);

  // DiagnosticsService.
  absl::StatusOr<v1::ListMissingMembersResponse> ListMissingMembers(
      const v1::ListMissingMembersRequest& request, absl::Time now,
      Effects& effects);
  absl::StatusOr<v1::ListCommunicatorsResponse> ListCommunicators(
      const v1::ListCommunicatorsRequest& request, absl::Time now,
      Effects& effects);
  absl::StatusOr<v1::CliqueExplanation> ExplainClique(
      const v1::ExplainCliqueRequest& request, absl::Time now,
      Effects& effects);
  // The same: `idle`, if nobody has asked for the clique.
  v1::CliqueExplanation ExplainCliqueOrIdle(
      const v1::ExplainCliqueRequest& request, const IdleClique& idle,
      absl::Time now, Effects& effects);
  absl::StatusOr<v1::ListEventsResponse> ListEvents(
      const v1::ListEventsRequest& request, absl::Time now, Effects& effects);

  // The client of a parked call has gone, or cannot be reached. For a call that
  // has ended it does nothing.
  void StreamClosed(StreamId stream, absl::Time now, Effects& effects);

  // Does what has become due; wanted no later than NextTick().
  void Tick(absl::Time now, Effects& effects);
  absl::Time NextTick() const;

 private:
  // What every method does around its own part: first what has become due, and
  // in the end keep what has been logged.
  class Step {
   public:
    Step(CoordinatorCore& core, absl::Time now, Effects& effects);
    ~Step();
    Step(const Step&) = delete;
    Step& operator=(const Step&) = delete;

   private:
    CoordinatorCore& core_;
    const absl::Time now_;
    const Effects& effects_;
    const size_t logged_before_;
  };

  CoordinatorCore(StateStore& store, const Options& options, int64_t term);

  absl::StatusOr<JobLayout> CheckCaller(const v1::Caller& caller) const;
  void Announce(const std::vector<Membership::Loss>& losses, absl::Time now,
                Effects& effects);

  const int64_t term_;
  Admission admission_;
  LayoutTable layouts_;
  Membership membership_;
  SilentSessions silent_sessions_;
  MissingReports reports_;
  EventLog events_;
  CliqueTable cliques_;
  BarrierTable barriers_;
};

}  // namespace shardwright

#endif  // COORDINATOR_CORE_COORDINATOR_CORE_H_
