#include "coordinator/core/core_driver.h"

#include <utility>
#include <variant>

#include "gtest/gtest.h"
#include "proto/status/error.h"
#include "proto/time/proto_time.h"

namespace shardwright {

absl::Status FillableStore::Commit(const Entries& entries) {
  ++commit_count;
  if (full) {
    return Error(absl::StatusCode::kUnavailable, "STORE_FAILED",
                 "the disk is full");
  }
  return store_.Commit(entries);
}

v1::Caller TestMember::Caller() const {
  v1::Caller caller;
  caller.mutable_member()->set_job(job);
  caller.mutable_member()->set_rank(rank);
  caller.mutable_member()->set_kind(kind);
  caller.set_incarnation(incarnation);
  caller.set_generation(generation);
  return caller;
}

CoreDriver::CoreDriver() { Restart(); }

void CoreDriver::Restart() {
  streams_.clear();
  core_ = nullptr;
  core_ = CoordinatorCore::Start(store_, {absl::Seconds(10)}, now_).value();
}

void CoreDriver::Take(Effects effects) {
  for (StreamEffect& effect : effects.streams) {
    TestStream& stream = streams_[effect.stream];
    EXPECT_FALSE(stream.end.has_value())
        << "stream " << effect.stream << " was told something after its end";
    if (auto* status = std::get_if<absl::Status>(&effect.what)) {
      stream.end = *std::move(status);
    } else if (auto* news =
                   std::get_if<std::shared_ptr<const v1::SessionResponse>>(
                       &effect.what)) {
      stream.news.push_back(**news);
    } else if (auto* event = std::get_if<
                   std::shared_ptr<const v1::FormCommunicatorsResponse>>(
                   &effect.what)) {
      stream.events.push_back(**event);
    } else if (auto* layout =
                   std::get_if<std::shared_ptr<const v1::WatchLayoutsResponse>>(
                       &effect.what)) {
      stream.layouts.push_back((*layout)->layout());
    } else {
      stream.progress.push_back(
          *std::get<std::shared_ptr<const v1::WaitAtBarrierResponse>>(
              effect.what));
    }
  }
}

void CoreDriver::Pass(absl::Duration duration) {
  const absl::Time end = now_ + duration;
  while (core_->NextTick() <= end) {
    now_ = std::max(now_, core_->NextTick());
    Effects effects;
    core_->Tick(now_, effects);
    Take(std::move(effects));
  }
  now_ = end;
}

v1::Layout CoreDriver::LanguageOnly(int64_t tp, int64_t dp,
                                    const std::string& job) {
  v1::Layout layout;
  layout.set_name(job);
  layout.set_world_size(tp * dp);
  v1::Module& module = *layout.add_modules();
  module.set_name("language");
  module.set_role(v1::LANGUAGE);
  module.set_first_rank(0);
  module.set_rank_count(tp * dp);
  module.mutable_parallelism()->set_tp(tp);
  return layout;
}

absl::StatusOr<v1::ApplyLayoutResponse> CoreDriver::Apply(
    const v1::Layout& layout) {
  v1::ApplyLayoutRequest request;
  *request.mutable_layout() = layout;
  Effects effects;
  auto response = core_->ApplyLayout(request, now_, effects);
  Take(std::move(effects));
  return response;
}

absl::Status CoreDriver::Watch(StreamId stream, int64_t revision,
                               const std::string& job) {
  v1::WatchLayoutsRequest request;
  request.set_job(job);
  request.set_revision(revision);
  Effects effects;
  const absl::Status status =
      core_->WatchLayouts(stream, request, now_, effects);
  Take(std::move(effects));
  return status;
}

void CoreDriver::WatchOn(StreamId stream) {
  Effects effects;
  core_->WatchOn(stream, now_, effects);
  Take(std::move(effects));
}

absl::StatusOr<v1::RegisterResponse> CoreDriver::Register(
    const TestMember& member, const std::string& host) {
  v1::MemberFacts facts;
  facts.set_host(host);
  return Register(member, facts);
}

absl::StatusOr<v1::RegisterResponse> CoreDriver::Register(
    const TestMember& member, v1::MemberFacts facts) {
  v1::RegisterRequest request;
  *request.mutable_member() = member.Caller().member();
  request.set_incarnation(member.incarnation);
  *request.mutable_facts() = std::move(facts);
  request.mutable_facts()->set_pid(1000 + member.incarnation);
  Effects effects;
  auto response = core_->Register(request, now_, effects);
  Take(std::move(effects));
  return response;
}

TestMember CoreDriver::Join(Rank rank, v1::MemberKind kind) {
  TestMember member;
  member.rank = rank;
  member.incarnation = ++last_incarnation_;
  member.kind = kind;
  member.generation = Register(member, "host-a").value().generation();
  return member;
}

absl::Status CoreDriver::Leave(const TestMember& member) {
  v1::LeaveRequest request;
  *request.mutable_caller() = member.Caller();
  Effects effects;
  const absl::Status status = core_->Leave(request, now_, effects);
  Take(std::move(effects));
  return status;
}

void CoreDriver::OpenSession(StreamId stream) {
  Effects effects;
  core_->SessionOpened(stream, now_, effects);
  Take(std::move(effects));
}

absl::Status CoreDriver::Session(StreamId stream, const TestMember& member,
                                 int64_t revision, const std::string& phase) {
  v1::SessionRequest request;
  *request.mutable_caller() = member.Caller();
  request.set_revision(revision);
  request.set_phase(phase);
  Effects effects;
  const absl::Status status = core_->Session(stream, request, now_, effects);
  Take(std::move(effects));
  return status;
}

absl::Status CoreDriver::Form(StreamId stream, const TestMember& member,
                              const FormOptions& options) {
  v1::FormCommunicatorsRequest request;
  *request.mutable_caller() = member.Caller();
  request.set_backend(options.backend);
  const auto layout = core_->FindLayout(member.job);
  if (layout.ok()) request.set_layout_digest(layout->layout->digest());
  *request.mutable_timeout() = ToProto(options.timeout);
  for (const std::string& kind : options.kinds) request.add_kinds(kind);
  Effects effects;
  const absl::Status status =
      core_->FormCommunicators(stream, request, now_, effects);
  Take(std::move(effects));
  return status;
}

absl::Status CoreDriver::Publish(const TestMember& member,
                                 const v1::Attempt& attempt, int32_t index,
                                 const std::string& value) {
  v1::PublishSlotsRequest request;
  *request.mutable_caller() = member.Caller();
  v1::Slot& slot = *request.add_slots();
  *slot.mutable_attempt() = attempt;
  slot.set_index(index);
  slot.set_value(value);
  Effects effects;
  const absl::Status status = core_->PublishSlots(request, now_, effects);
  Take(std::move(effects));
  return status;
}

absl::Status CoreDriver::Report(const TestMember& member,
                                const v1::Attempt& attempt, bool ok,
                                const std::string& message) {
  v1::ReportCommunicatorsRequest request;
  *request.mutable_caller() = member.Caller();
  v1::CommunicatorReport& report = *request.add_reports();
  *report.mutable_attempt() = attempt;
  report.set_ok(ok);
  report.set_message(message);
  Effects effects;
  const absl::Status status =
      core_->ReportCommunicators(request, now_, effects);
  Take(std::move(effects));
  return status;
}

absl::Status CoreDriver::Wait(StreamId stream, const TestMember& member,
                              int64_t sequence, absl::Duration timeout,
                              const std::string& scope, uint64_t digest,
                              const std::string& name) {
  v1::WaitAtBarrierRequest request;
  *request.mutable_caller() = member.Caller();
  request.set_name(name);
  request.set_sequence(sequence);
  request.set_scope(scope);
  request.set_digest(digest);
  *request.mutable_timeout() = ToProto(timeout);
  Effects effects;
  const absl::Status status =
      core_->WaitAtBarrier(stream, request, now_, effects);
  Take(std::move(effects));
  return status;
}

void CoreDriver::CloseStream(StreamId stream) {
  Effects effects;
  core_->StreamClosed(stream, now_, effects);
  Take(std::move(effects));
}

const v1::FormCommunicatorsResponse& CoreDriver::LastEvent(StreamId stream) {
  static const v1::FormCommunicatorsResponse kNone;
  const auto& events = streams_[stream].events;
  for (auto event = events.rbegin(); event != events.rend(); ++event) {
    if (!event->has_waiting()) return *event;
  }
  return kNone;
}

v1::Attempt CoreDriver::LastGo(StreamId stream) {
  EXPECT_TRUE(LastEvent(stream).has_go()) << LastEvent(stream).DebugString();
  return LastEvent(stream).go().attempt();
}

v1::Attempt CoreDriver::LastActive(StreamId stream) {
  EXPECT_TRUE(LastEvent(stream).has_active())
      << LastEvent(stream).DebugString();
  return LastEvent(stream).active().attempt();
}

v1::AttemptAborted CoreDriver::LastAborted(StreamId stream) {
  EXPECT_TRUE(LastEvent(stream).has_aborted())
      << LastEvent(stream).DebugString();
  return LastEvent(stream).aborted();
}

}  // namespace shardwright
