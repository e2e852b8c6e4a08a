// The coordinator's services: a sequence of requests of several members, with
// time passing, broken calls and restarts, against a CoordinatorCore. A request
// is either put together from choices, which goes deep, or any message on the
// wire, which goes everywhere.

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/core/coordinator_core.h"
#include "coordinator/core/effects.h"
#include "coordinator/storage/memory_state_store.h"
#include "proto/time/proto_time.h"
#include "shardwright/v1/barrier.pb.h"
#include "shardwright/v1/communicator.pb.h"
#include "shardwright/v1/diagnostics.pb.h"
#include "shardwright/v1/layout.pb.h"
#include "shardwright/v1/membership.pb.h"
#include "tests/fuzz/input.h"
#include "tests/fuzz/promise.h"

namespace shardwright {
namespace {

constexpr int kStepsMax = 64;
constexpr int kTicksMax = 10000;  // Of one step; more means that none helps.

v1::Layout LanguageOnly(int64_t tp, int64_t dp) {
  v1::Layout layout;
  layout.set_name("job");
  layout.set_world_size(tp * dp);
  v1::Module& module = *layout.add_modules();
  module.set_name("language");
  module.set_role(v1::LANGUAGE);
  module.set_first_rank(0);
  module.set_rank_count(tp * dp);
  module.mutable_parallelism()->set_tp(tp);
  return layout;
}

class Harness {
 public:
  explicit Harness(Input input) : input_(input) { Restart(); }

  void Run() {
    for (int i = 0; i < kStepsMax && !input_.empty(); ++i) Step();
    // Leases and deadlines have passed, so every parked call has ended.
    Pass(absl::Hours(2));
    for (const auto& [stream, caller] : open_) {
      Promise(watches_.count(stream) > 0, "every parked call ends");
    }
    CheckRestart();
  }

 private:
  // What a GO asked of a member.
  struct Task {
    v1::Caller caller;
    v1::Attempt attempt;
    int32_t slot = 0;
  };

  void Step() {
    // The corpus knows them by their places.
    static constexpr void (Harness::*kSteps[])() = {
        &Harness::ApplyAny,    &Harness::ApplyOne,     &Harness::Register,
        &Harness::Renew,       &Harness::Form,         &Harness::Publish,
        &Harness::Report,      &Harness::Wait,         &Harness::Leave,
        &Harness::List,        &Harness::RegisterAny,  &Harness::AnyOfMember,
        &Harness::CloseStream, &Harness::CheckRestart, &Harness::PassSome,
        &Harness::Watch,       &Harness::Diagnose,     &Harness::OpenSilent};
    (this->*kSteps[input_.Index(std::size(kSteps))])();
  }

  // -- Driving the core.

  void Restart() {
    core_ = nullptr;
    open_.clear();
    tasks_.clear();
    auto core = CoordinatorCore::Start(store_, {absl::Seconds(10)}, now_);
    Promise(core.status());
    Promise((*core)->term() > term_, "terms grow");
    term_ = (*core)->term();
    core_ = *std::move(core);
  }

  void Take(const Effects& effects) {
    for (const StreamEffect& effect : effects.streams) {
      const auto call = open_.find(effect.stream);
      Promise(call != open_.end(), "nobody is told anything after the end");
      if (const auto* status = std::get_if<absl::Status>(&effect.what)) {
        if (!status->ok()) PromiseOneError(*status);
        open_.erase(call);
      } else if (const auto* event = std::get_if<
                     std::shared_ptr<const v1::FormCommunicatorsResponse>>(
                     &effect.what)) {
        TakeEvent(call->second, **event);
      }
    }
  }

  void TakeEvent(const v1::Caller& caller,
                 const v1::FormCommunicatorsResponse& event) {
    Task task;
    task.caller = caller;
    if (event.has_go()) {
      task.attempt = event.go().attempt();
      if (event.go().slot_indexes_size() > 0) {
        task.slot = event.go().slot_indexes(0);
      }
      tasks_.push_back(task);
    } else if (event.has_slots()) {
      for (const std::string& value : event.slots().values()) {
        Promise(!value.empty(), "SLOTS has every slot");
      }
    }
  }

  void Pass(absl::Duration duration) {
    const absl::Time end = now_ + duration;
    for (int i = 0; core_->NextTick() <= end; ++i) {
      Promise(i < kTicksMax, "a tick does what is due");
      now_ = std::max(now_, core_->NextTick());
      Effects effects;
      core_->Tick(now_, effects);
      Take(effects);
    }
    now_ = end;
  }

  // Runs one request; refused, it has changed nothing that is stored.
  template <typename Method>
  bool Ask(Method method) {
    Pass(absl::ZeroDuration());
    const StateStore::Entries before = *store_.Load();
    Effects effects;
    const absl::Status status = method(effects);
    if (!status.ok()) {
      PromiseOneError(status);
      Promise(before == *store_.Load(), "what is refused changes nothing");
    }
    Take(effects);
    return status.ok();
  }

  // The same for a parked call.
  template <typename Method>
  void Park(const v1::Caller& caller, Method method) {
    const StreamId stream = ++last_stream_;
    open_[stream] = caller;
    if (!Ask([&](Effects& effects) { return method(stream, effects); })) {
      open_.erase(stream);
    }
  }

  // A restart keeps what was answered.
  void CheckRestart() {
    std::map<std::string, int64_t> before;
    for (const std::string& job : jobs_) {
      before[job] = core_->FindLayout(job)->generation();
    }
    Restart();
    for (const auto& [job, generation] : before) {
      const auto layout = core_->FindLayout(job);
      Promise(layout.status());
      Promise(layout->generation() == generation, "a generation is kept");
    }
  }

  // -- Requests from choices.

  v1::Caller SomeMember() {
    return members_.empty() ? v1::Caller()
                            : members_[input_.Index(members_.size())];
  }

  absl::Duration SomeTime() {
    const absl::Duration times[] = {absl::Milliseconds(1), absl::Seconds(1),
                                    absl::Seconds(9), absl::Seconds(11),
                                    absl::Hours(1)};
    return times[input_.Index(5)];
  }

  void PassSome() { Pass(SomeTime()); }

  void Apply(const v1::ApplyLayoutRequest& request) {
    Ask([&](Effects& effects) {
      const int64_t before = GenerationOf(request.layout().name());
      const auto response = core_->ApplyLayout(request, now_, effects);
      const int64_t after = GenerationOf(request.layout().name());
      if (response.ok() && !request.dry_run()) {
        jobs_.insert(request.layout().name());
        Promise(after == response->generation(), "what is applied is in force");
        Promise(after == before + response->changed(), "generations grow");
      } else {
        Promise(after == before, "a refused or dry run changes nothing");
      }
      return response.status();
    });
  }

  int64_t GenerationOf(const std::string& job) const {
    const auto layout = core_->FindLayout(job);
    return layout.ok() ? layout->generation() : 0;
  }

  void ApplyOne() {
    v1::ApplyLayoutRequest request;
    *request.mutable_layout() =
        LanguageOnly(1 + input_.Index(3), 1 + input_.Index(2));
    Apply(request);
    for (v1::Caller& member : members_) {
      if (input_.Index(4) > 0) member.set_generation(GenerationOf("job"));
    }
  }

  void Register() {
    v1::RegisterRequest request;
    request.mutable_member()->set_job("job");
    request.mutable_member()->set_rank(input_.Index(4));
    request.mutable_member()->set_kind(input_.Index(4) == 0 ? v1::TRAINER
                                                            : v1::WORKER);
    request.set_incarnation(++last_incarnation_);
    request.mutable_facts()->set_host("host-a");
    RegisterWith(request);
  }

  void RegisterWith(const v1::RegisterRequest& request) {
    Ask([&](Effects& effects) {
      const auto response = core_->Register(request, now_, effects);
      if (response.ok()) {
        v1::Caller& caller = members_.emplace_back();
        *caller.mutable_member() = request.member();
        caller.set_incarnation(request.incarnation());
        caller.set_generation(response->generation());
      }
      return response.status();
    });
  }

  void Renew() {
    v1::SessionRequest request;
    *request.mutable_caller() = SomeMember();
    request.set_phase("step 1");
    request.set_revision(input_.Index(4));
    // Most messages are not the first of their call.
    const StreamId stream = last_stream_ - input_.Index(4);
    const auto call = open_.find(stream);
    if (call == open_.end()) {
      Park(request.caller(), [&](StreamId id, Effects& effects) {
        return core_->Session(id, request, now_, effects);
      });
      sessions_.insert(last_stream_);
    } else if (sessions_.count(stream) > 0) {
      *request.mutable_caller() = call->second;
      if (!Ask([&](Effects& effects) {
            return core_->Session(stream, request, now_, effects);
          })) {
        open_.erase(stream);
      }
    }
  }

  void Form() {
    v1::FormCommunicatorsRequest request;
    *request.mutable_caller() = SomeMember();
    request.set_backend(input_.Index(4) == 0 ? v1::NCCL : v1::GLOO);
    const auto layout = core_->FindLayout(request.caller().member().job());
    if (layout.ok()) request.set_layout_digest(layout->layout->digest());
    *request.mutable_timeout() = ToProto(SomeTime());
    if (input_.Index(2) == 0) request.add_kinds("tp");
    FormWith(request);
  }

  void FormWith(const v1::FormCommunicatorsRequest& request) {
    Park(request.caller(), [&](StreamId id, Effects& effects) {
      return core_->FormCommunicators(id, request, now_, effects);
    });
  }

  Task SomeTask() {
    // The latest ones are those that matter.
    const size_t back = input_.Index(8);
    return back < tasks_.size() ? tasks_[tasks_.size() - 1 - back] : Task();
  }

  void Publish() {
    const Task task = SomeTask();
    v1::PublishSlotsRequest request;
    *request.mutable_caller() = task.caller;
    v1::Slot& slot = *request.add_slots();
    *slot.mutable_attempt() = task.attempt;
    slot.set_index(task.slot);
    slot.set_value(std::string(input_.Index(3), 'x'));
    Ask([&](Effects& effects) {
      return core_->PublishSlots(request, now_, effects);
    });
  }

  void Report() {
    const Task task = SomeTask();
    v1::ReportCommunicatorsRequest request;
    *request.mutable_caller() = task.caller;
    v1::CommunicatorReport& report = *request.add_reports();
    *report.mutable_attempt() = task.attempt;
    report.set_ok(input_.Index(4) > 0);
    Ask([&](Effects& effects) {
      return core_->ReportCommunicators(request, now_, effects);
    });
  }

  void Wait() {
    v1::WaitAtBarrierRequest request;
    *request.mutable_caller() = SomeMember();
    request.set_name("step");
    request.set_sequence(input_.Index(3));
    const char* const scopes[] = {"", "language", "language/tp/0"};
    request.set_scope(scopes[input_.Index(3)]);
    request.set_digest(input_.Index(4) / 3);
    *request.mutable_timeout() = ToProto(SomeTime());
    WaitWith(request);
  }

  void WaitWith(const v1::WaitAtBarrierRequest& request) {
    Park(request.caller(), [&](StreamId id, Effects& effects) {
      return core_->WaitAtBarrier(id, request, now_, effects);
    });
  }

  void Leave() {
    v1::LeaveRequest request;
    *request.mutable_caller() = SomeMember();
    Ask([&](Effects& effects) { return core_->Leave(request, now_, effects); });
  }

  void CloseStream() {
    const StreamId stream = last_stream_ - input_.Index(8);
    Ask([&](Effects& effects) {
      open_.erase(stream);
      core_->StreamClosed(stream, now_, effects);
      return absl::OkStatus();
    });
  }

  // -- Requests from the wire.

  void ApplyAny() {
    v1::ApplyLayoutRequest request;
    if (input_.Parse(request)) Apply(request);
  }

  void RegisterAny() {
    v1::RegisterRequest request;
    if (input_.Parse(request)) RegisterWith(request);
  }

  void List() {
    v1::ListMembersRequest members;
    if (input_.Parse(members)) {
      Ask([&](Effects& effects) {
        return core_->ListMembers(members, now_, effects).status();
      });
    }
    v1::ListLayoutsRequest layouts;
    if (input_.Parse(layouts)) {
      Ask([&](Effects&) { return core_->ListLayouts(layouts).status(); });
    }
  }

  void Watch() {
    v1::WatchLayoutsRequest request;
    if (!input_.Parse(request)) return;
    Park(v1::Caller(), [&](StreamId id, Effects& effects) {
      return core_->WatchLayouts(id, request, now_, effects);
    });
    watches_.insert(last_stream_);
    Effects effects;
    core_->WatchOn(last_stream_, now_, effects);
    Take(effects);
  }

  // Renew() may make it speak, for a member.
  void OpenSilent() {
    sessions_.insert(++last_stream_);
    open_[last_stream_] = SomeMember();
    Effects effects;
    core_->SessionOpened(last_stream_, now_, effects);
    Take(effects);
  }

  // A list goes on where a page ended, and ends.
  template <typename Request, typename Method>
  void Page(Method method) {
    Request request;
    if (!input_.Parse(request)) return;
    for (int pages = 0; pages < kStepsMax; ++pages) {
      bool more = false;
      Ask([&](Effects& effects) {
        const auto response = (core_.get()->*method)(request, now_, effects);
        if (!response.ok()) return response.status();
        more = !response->next_page_token().empty();
        request.set_page_token(response->next_page_token());
        return absl::OkStatus();
      });
      if (!more) return;
    }
  }

  void Diagnose() {
    using Core = CoordinatorCore;
    switch (input_.Index(4)) {
      case 0:
        return Page<v1::ListMissingMembersRequest>(&Core::ListMissingMembers);
      case 1:
        return Page<v1::ListCommunicatorsRequest>(&Core::ListCommunicators);
      case 2:
        return Page<v1::ExplainCliqueRequest>(&Core::ExplainClique);
      default: {
        v1::ListEventsRequest request;
        if (!input_.Parse(request)) return;
        Ask([&](Effects& effects) {
          return core_->ListEvents(request, now_, effects).status();
        });
      }
    }
  }

  // Half of these are of a member that exists.
  template <typename Request>
  bool Parse(Request& request) {
    const bool known = input_.Index(2) == 0;
    if (!input_.Parse(request)) return false;
    if (known) *request.mutable_caller() = SomeMember();
    return true;
  }

  void AnyOfMember() {
    v1::SessionRequest session;
    v1::FormCommunicatorsRequest form;
    v1::PublishSlotsRequest publish;
    v1::ReportCommunicatorsRequest report;
    v1::WaitAtBarrierRequest wait;
    switch (input_.Index(5)) {
      case 0:
        if (!Parse(session)) return;
        return Park(session.caller(), [&](StreamId id, Effects& effects) {
          return core_->Session(id, session, now_, effects);
        });
      case 1:
        if (Parse(form)) FormWith(form);
        return;
      case 2:
        if (!Parse(publish)) return;
        Ask([&](Effects& effects) {
          return core_->PublishSlots(publish, now_, effects);
        });
        return;
      case 3:
        if (!Parse(report)) return;
        Ask([&](Effects& effects) {
          return core_->ReportCommunicators(report, now_, effects);
        });
        return;
      default:
        if (Parse(wait)) WaitWith(wait);
    }
  }

  Input input_;
  MemoryStateStore store_;
  absl::Time now_ = absl::FromUnixSeconds(1700000000);
  std::unique_ptr<CoordinatorCore> core_;
  int64_t term_ = 0;

  std::set<std::string> jobs_;  // That were applied.
  std::vector<v1::Caller> members_;
  std::map<StreamId, v1::Caller> open_;  // Calls, and whose they are.
  std::set<StreamId> sessions_, watches_;
  std::vector<Task> tasks_;
  StreamId last_stream_ = 0;
  uint64_t last_incarnation_ = 0;
};

}  // namespace
}  // namespace shardwright

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  shardwright::Harness(shardwright::Input(data, size)).Run();
  return 0;
}
