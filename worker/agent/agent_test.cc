// Two agents of one clique, and a coordinator of a hundred lines that brings
// them together. What the real one and real processes make of it is
// tests/integration's to ask.

#include "worker/agent/agent.h"

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cc/scripted_connection.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/error.h"
#include "proto/status/status_matchers.h"
#include "worker/comm/loopback_communicator.h"

namespace shardwright {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

constexpr absl::Duration kPatience = absl::Seconds(10);

// Where the two members meet for an attempt: both must be there, with the same
// generation.
class MeetingPoint {
 public:
  // Returns the attempt's number; 0 if `cancelled` comes first.
  int Meet(int position, int64_t generation,
           const std::atomic<bool>& cancelled) {
    MutexLock lock(mutex_);
    if (cancelled) return 0;
    generations_[position] = generation;
    if (generations_[0] == generations_[1]) {
      generations_[0] = generations_[1] = 0;
      changed_.NotifyAll();
      return ++number_;
    }
    const int last = number_;
    while (number_ == last && !cancelled) changed_.Wait(lock);
    if (number_ != last) return number_;
    generations_[position] = 0;
    return 0;
  }
  void Wake() {
    const MutexLock lock(mutex_);
    changed_.NotifyAll();
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  // Of who waits; 0: nobody.
  int64_t generations_[2] ABSL_GUARDED_BY(mutex_) = {0, 0};
  int number_ ABSL_GUARDED_BY(mutex_) = 0;
};

// Rank 3 or 4 of an encoder in which they are a tp group; each is a group of
// its own of other kinds. The coordinator's side of all its calls.
class Member {
 public:
  Member(int64_t rank, LoopbackFactory& factory, MeetingPoint& meeting_point)
      : rank_(rank), meeting_point_(meeting_point) {
    connection_->on_register = [this](const v1::RegisterRequest&)
        -> absl::StatusOr<v1::RegisterResponse> {
      const MutexLock lock(mutex_);
      if (!refusal_.ok()) return refusal_;
      v1::RegisterResponse response;
      response.set_generation(generation_);
      response.mutable_renew_period()->set_nanos(5000000);
      return response;
    };
    connection_->open_session = [this] {
      const MutexLock lock(mutex_);
      wire_ = std::make_shared<ScriptedSession::Wire>();
      ++session_count_;
      changed_.NotifyAll();
      return std::make_unique<ScriptedSession>(wire_);
    };
    connection_->get_layout = [this](const v1::GetLayoutRequest&)
        -> absl::StatusOr<v1::GetLayoutResponse> {
      const MutexLock lock(mutex_);
      v1::GetLayoutResponse response;
      response.set_generation(generation_);
      response.set_digest(static_cast<uint64_t>(generation_) + 1000);
      return response;
    };
    connection_->explain_rank = [this](const v1::ExplainRankRequest&) {
      return Explain();
    };
    connection_->leave =
        [this](const v1::LeaveRequest&) -> absl::StatusOr<v1::LeaveResponse> {
      left_ = true;
      return v1::LeaveResponse();
    };
    ScriptForming();
    AgentOptions options;
    options.member.set_job("vlm");
    options.member.set_rank(rank);
    options.member.set_kind(v1::WORKER);
    options.incarnation = 7;
    agent_ = std::make_unique<Agent>(CoordinatorClient(connection_), factory,
                                     options);
  }

  Agent& agent() { return *agent_; }
  bool left() const { return left_; }

  // Kinds that the calls so far asked for: "tp".
  std::vector<std::string> asked() {
    const MutexLock lock(mutex_);
    return asked_;
  }

  void Tell(const std::vector<int64_t>& lost_ranks) {
    v1::SessionResponse news;
    for (int64_t rank : lost_ranks) {
      v1::LostMember& lost = *news.add_lost_members();
      lost.mutable_member()->set_rank(rank);
      lost.mutable_member()->set_kind(v1::WORKER);
      lost.set_why("lease expired");
    }
    MutexLock lock(mutex_);
    // Cliques may be formed before there is a session.
    while (session_count_ == 0) changed_.Wait(lock);
    news.set_generation(generation_);
    wire_->Answer(news);
  }
  void EndSession(const absl::Status& status) {
    const MutexLock lock(mutex_);
    wire_->End(status);
  }
  void WaitForSession(int n) {
    MutexLock lock(mutex_);
    while (session_count_ < n) changed_.Wait(lock);
  }
  void SetGeneration(int64_t generation) {
    const MutexLock lock(mutex_);
    generation_ = generation;
  }
  void RefuseToRegister(const absl::Status& refusal) {
    const MutexLock lock(mutex_);
    refusal_ = refusal;
  }

  absl::StatusOr<CliqueTable::Clique> Active(const std::string& kind) {
    return agent_->cliques().WaitActive(kind, kPatience);
  }

 private:
  absl::StatusOr<v1::RankExplanation> Explain() {
    const MutexLock lock(mutex_);
    v1::RankExplanation explanation;
    explanation.set_module("images");
    explanation.set_role(v1::ENCODER);
    explanation.set_generation(generation_);
    v1::GroupMembership& tp = *explanation.add_groups();
    tp.set_kind("tp");
    v1::StridedRanks& members = *tp.add_members();
    members.set_first(3);
    members.add_dimensions()->set_count(2);
    members.mutable_dimensions(0)->set_stride(1);
    for (const char* kind : {"cp", "tp_cp", "bridge"}) {
      v1::GroupMembership& own = *explanation.add_groups();
      own.set_kind(kind);
      own.add_members()->set_first(rank_);
    }
    return explanation;
  }

  void ScriptForming() {
    connection_->publish_slots = [](const v1::PublishSlotsRequest&)
        -> absl::StatusOr<v1::PublishSlotsResponse> {
      return v1::PublishSlotsResponse();
    };
    connection_->report_communicators =
        [this](const v1::ReportCommunicatorsRequest& request)
        -> absl::StatusOr<v1::ReportCommunicatorsResponse> {
      const MutexLock lock(mutex_);
      for (const auto& report : request.reports()) reports_.push_back(report);
      changed_.NotifyAll();
      return v1::ReportCommunicatorsResponse();
    };
    connection_->form_communicators =
        [this](const v1::FormCommunicatorsRequest& request,
               const ScriptedConnection::OnForm& on_event,
               CallCanceller canceller) {
          cancelled_ = false;
          canceller.OnCancel([this] {
            cancelled_ = true;
            meeting_point_.Wake();
            const MutexLock lock(mutex_);
            changed_.NotifyAll();
          });
          return Form(request, on_event);
        };
  }

  absl::Status Form(const v1::FormCommunicatorsRequest& request,
                    const ScriptedConnection::OnForm& on_event) {
    {
      const MutexLock lock(mutex_);
      asked_.insert(asked_.end(), request.kinds().begin(),
                    request.kinds().end());
    }
    v1::FormCommunicatorsResponse active;
    bool formed = false;
    while (!formed) {
      v1::Attempt attempt;
      attempt.set_clique("images/tp/0");
      attempt.set_number(meeting_point_.Meet(
          rank_ == 3 ? 0 : 1, request.caller().generation(), cancelled_));
      if (attempt.number() == 0) return absl::CancelledError("");
      v1::FormCommunicatorsResponse go, slots;
      *go.mutable_go()->mutable_attempt() = attempt;
      go.mutable_go()->add_ranks(3);
      go.mutable_go()->add_ranks(4);
      go.mutable_go()->add_slot_indexes(rank_ == 3 ? 0 : 1);
      *slots.mutable_slots()->mutable_attempt() = attempt;
      slots.mutable_slots()->add_values("loopback 0");
      slots.mutable_slots()->add_values("loopback 1");
      *active.mutable_active()->mutable_attempt() = attempt;
      if (!on_event(go) || !on_event(slots)) return absl::CancelledError("");
      formed = WaitForReport(attempt);
      if (cancelled_) return absl::CancelledError("");
    }
    on_event(active);
    return absl::OkStatus();
  }

  // Whether connecting went well.
  bool WaitForReport(const v1::Attempt& attempt) {
    MutexLock lock(mutex_);
    while (true) {
      for (const v1::CommunicatorReport& report : reports_) {
        if (report.attempt().number() == attempt.number()) return report.ok();
      }
      if (cancelled_) return false;
      changed_.Wait(lock);
    }
  }

  const int64_t rank_;
  MeetingPoint& meeting_point_;
  std::atomic<bool> cancelled_{false};
  Mutex mutex_;
  CondVar changed_;
  int64_t generation_ ABSL_GUARDED_BY(mutex_) = 1;
  absl::Status refusal_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<ScriptedSession::Wire> wire_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> asked_ ABSL_GUARDED_BY(mutex_);
  int session_count_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<v1::CommunicatorReport> reports_ ABSL_GUARDED_BY(mutex_);
  std::atomic<bool> left_{false};
  const std::shared_ptr<ScriptedConnection> connection_ =
      std::make_shared<ScriptedConnection>();
  std::unique_ptr<Agent> agent_;
};

class AgentTest : public ::testing::Test {
 protected:
  void StartBoth() {
    for (Member* member : {&first_, &second_}) {
      member->agent().Start("127.0.0.1:1");
    }
    for (Member* member : {&first_, &second_}) {
      ASSERT_THAT(member->Active("tp"), IsOk());
      ASSERT_THAT(member->Active("cp"), IsOk());
    }
  }

  // Waits until both have a later attempt than `old`, and it works.
  void ExpectFormedAgain(const CliqueTable::Clique& old) {
    const absl::Time deadline = absl::Now() + kPatience;
    absl::StatusOr<CliqueTable::Clique> cliques[2];
    do {
      cliques[0] = first_.Active("tp");
      cliques[1] = second_.Active("tp");
      ASSERT_THAT(cliques[0], IsOk());
      ASSERT_THAT(cliques[1], IsOk());
      ASSERT_LT(absl::Now(), deadline);
    } while (cliques[0]->attempt.number() <= old.attempt.number() ||
             !SameAttempt(cliques[0]->attempt, cliques[1]->attempt) ||
             !cliques[0]->communicator->status().ok());
  }

  // Short: one who is called away leaves the other to find out.
  LoopbackFactory factory_{absl::Milliseconds(200)};
  MeetingPoint meeting_point_;
  Member first_{3, factory_, meeting_point_};
  Member second_{4, factory_, meeting_point_};
};

TEST_F(AgentTest, FormsWhatHasMoreThanOneMember) {
  StartBoth();
  EXPECT_THAT(first_.asked(), ElementsAre("tp"));
  const v1::WorkerDescription description = first_.agent().Describe();
  EXPECT_EQ(description.generation(), 1);
  EXPECT_EQ(description.facts().address(), "127.0.0.1:1");
  ASSERT_EQ(description.cliques_size(), 4);
  EXPECT_EQ(description.cliques(0).name(), "images/tp/0");
  EXPECT_EQ(description.cliques(0).state(), "ACTIVE");
  EXPECT_EQ(description.cliques(1).state(), "ACTIVE");
}

TEST_F(AgentTest, ABridgeAndAnEncodersLanesCarryRows) {
  StartBoth();
  EXPECT_FALSE(first_.Active("tp")->spec.carries_rows);
  EXPECT_FALSE(first_.Active("cp")->spec.carries_rows);
  EXPECT_TRUE(first_.Active("tp_cp")->spec.carries_rows);
  EXPECT_TRUE(first_.Active("bridge")->spec.carries_rows);
}

TEST_F(AgentTest, ALostMemberEndsItsCliqueWhichFormsAgain) {
  StartBoth();
  const auto before = first_.Active("tp");
  ASSERT_THAT(before, IsOk());
  const auto own = first_.Active("cp");
  ASSERT_THAT(own, IsOk());
  first_.Tell({4});
  second_.Tell({4});  // It hears of its own loss too.
  ExpectFormedAgain(*before);
  EXPECT_THAT(before->communicator->status(), HasReason("PEER_LOST"));
  EXPECT_THAT(own->communicator->status(), IsOk());
}

TEST_F(AgentTest, ALostMemberOfOtherCliquesEndsNothing) {
  StartBoth();
  first_.Tell({17});
  first_.Tell({});
  const auto clique = first_.Active("tp");
  ASSERT_THAT(clique, IsOk());
  EXPECT_THAT(clique->communicator->status(), IsOk());
  EXPECT_EQ(clique->attempt.number(), 1);
}

TEST_F(AgentTest, ABrokenCommunicatorIsNoticedAndFormedAgain) {
  StartBoth();
  const auto before = first_.Active("tp");
  ASSERT_THAT(before, IsOk());
  before->communicator->Abort(absl::AbortedError("cable"));
  ExpectFormedAgain(*before);
}

TEST_F(AgentTest, ARestartedCoordinatorEndsNothing) {
  StartBoth();
  const auto before = first_.Active("tp");
  ASSERT_THAT(before, IsOk());
  first_.EndSession(absl::UnavailableError("down"));
  first_.RefuseToRegister(absl::UnavailableError("down"));
  EXPECT_THAT(first_.Active("tp"), IsOk());
  first_.RefuseToRegister(absl::OkStatus());
  second_.EndSession(absl::UnavailableError("down"));
  // A new generation shows that both are back, and that it is all that they
  // form again for.
  for (Member* member : {&first_, &second_}) {
    member->SetGeneration(2);
    member->WaitForSession(2);
    member->Tell({});
  }
  ExpectFormedAgain(*before);
}

TEST_F(AgentTest, AnExpiredLeaseEndsAllButCliquesOfOne) {
  StartBoth();
  const absl::Status expired = Error(absl::StatusCode::kFailedPrecondition,
                                     "NOT_REGISTERED", "lease expired");
  const auto before = first_.Active("tp");
  ASSERT_THAT(before, IsOk());
  const auto own = first_.Active("cp");
  ASSERT_THAT(own, IsOk());
  first_.EndSession(expired);
  ExpectFormedAgain(*before);
  EXPECT_THAT(own->communicator->status(), IsOk());
  EXPECT_THAT(first_.asked(), Each("tp"));
}

TEST_F(AgentTest, ANewLayoutFormsEverythingAgain) {
  StartBoth();
  const auto before = first_.Active("tp");
  ASSERT_THAT(before, IsOk());
  for (Member* member : {&first_, &second_}) {
    member->SetGeneration(2);
    member->Tell({});
  }
  ExpectFormedAgain(*before);
  EXPECT_EQ(first_.agent().Describe().generation(), 2);
}

TEST_F(AgentTest, EndsWhenAnotherProcessHasItsRank) {
  StartBoth();
  first_.EndSession(Error(absl::StatusCode::kAborted, "FENCED", "replaced"));
  EXPECT_THAT(first_.agent().Wait(), HasReason("FENCED"));
  first_.agent().Stop();
  EXPECT_FALSE(first_.left());
}

TEST_F(AgentTest, StopLeavesAndNobodyWaitsForACliqueAnyMore) {
  StartBoth();
  first_.agent().Stop();
  EXPECT_TRUE(first_.left());
  EXPECT_THAT(first_.agent().Wait(), IsOk());
  EXPECT_THAT(first_.Active("tp"), HasReason("PEER_LOST"));
}

}  // namespace
}  // namespace shardwright
