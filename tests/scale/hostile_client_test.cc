// A hostile client changes nothing: not what a server holds, not whom it
// serves, and in the end not how much of the machine it has. What the first
// rounds leave behind (arenas, pools, threads) is allowed, within a bound; what
// every round adds is a leak, if it is above some 6 MiB a round.

#include "tests/scale/hostile_client.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"
#include "shardwright/v1/barrier.grpc.pb.h"
#include "shardwright/v1/communicator.grpc.pb.h"
#include "shardwright/v1/diagnostics.grpc.pb.h"
#include "shardwright/v1/layout.grpc.pb.h"
#include "shardwright/v1/membership.grpc.pb.h"
#include "shardwright/v1/plan.grpc.pb.h"
#include "shardwright/v1/worker.grpc.pb.h"
#include "tests/scale/server_process.h"
#include "tests/scale/simulated_members.h"

namespace shardwright {
namespace {

constexpr int kSessions = 1000;

// From the one half of the rounds to the other, medians: five rounds' worth.
// The allocator takes steps, beside other work 16 MB; a thousand sessions that
// stay behind are 10 MB a round.
constexpr int64_t kGrowthMax = int64_t{32} << 20;

// From the start to the end.
constexpr int64_t kResidueMax = int64_t{96} << 20;

// Memory says nothing under asan, which keeps back what was freed to see
// whether somebody uses it, and under tsan (.bazelrc tells why that is not
// __SANITIZE_THREAD__), which keeps who used what.
#if defined(__SANITIZE_ADDRESS__) || defined(_GLIBCXX_TSAN)
constexpr bool kMemoryComesBack = false;
#else
constexpr bool kMemoryComesBack = true;
#endif

constexpr int kWarmUpRounds = kMemoryComesBack ? 6 : 2;
constexpr int kHalfRounds = kMemoryComesBack ? 5 : 2;

constexpr std::chrono::seconds kPatience(60);

// The service that is in one file with the message.
template <typename Message>
const google::protobuf::ServiceDescriptor* ServiceWith() {
  return Message::descriptor()->file()->service(0);
}

// Waits for what a server does when it notices: ends of calls and connections.
bool Eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return true;
}

// Median of the server's memory after each of some rounds.
int64_t MedianMemory(const ServerProcess& server,
                     const std::function<void()>& round) {
  std::vector<int64_t> sizes;
  for (int i = 0; i < kHalfRounds; ++i) {
    round();
    sizes.push_back(server.Use().resident_bytes);
  }
  std::sort(sizes.begin(), sizes.end());
  return sizes[kHalfRounds / 2];
}

// Runs `round` until the server has its size, and then twice as often as tells
// whether it still grows.
void ExpectNothingIsLeft(const ServerProcess& server,
                         const std::function<void()>& round) {
  const int64_t start_bytes = server.Use().resident_bytes;
  for (int i = 0; i < kWarmUpRounds; ++i) round();
  const ProcessUse before = server.Use();
  const int64_t first_bytes = MedianMemory(server, round);
  const int64_t later_bytes = MedianMemory(server, round);
  ASSERT_TRUE(server.Running());
  ProcessUse after;
  EXPECT_TRUE(Eventually([&] {
    after = server.Use();
    return after.open_files <= before.open_files + 8;
  })) << before.open_files
      << " open files became " << after.open_files;
  EXPECT_LE(after.threads, before.threads + 8);
  if (!kMemoryComesBack) return;
  EXPECT_LE(later_bytes - first_bytes, kGrowthMax)
      << first_bytes << " bytes became " << later_bytes;
  EXPECT_LE(later_bytes - start_bytes, kResidueMax)
      << start_bytes << " bytes became " << later_bytes;
}

// The answer of a good client's call.
template <typename Stub, typename Request, typename Response>
Response Ask(const std::shared_ptr<grpc::Channel>& channel,
             grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                          Response*),
             const Request& request) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kPatience);
  context.set_wait_for_ready(true);
  Stub stub(channel);
  Response response;
  const grpc::Status status = (stub.*method)(&context, request, &response);
  EXPECT_TRUE(status.ok()) << status.error_code() << status.error_message();
  return response;
}

// What the coordinator holds, as its own answers say it.
std::string StateOf(const std::shared_ptr<grpc::Channel>& channel) {
  v1::GetLayoutRequest layout;
  layout.set_job("scale");
  v1::ListMembersRequest list;
  list.set_job("scale");
  v1::ListMembersResponse members =
      Ask(channel, &v1::MembershipService::Stub::ListMembers, list);
  for (v1::Member& member : *members.mutable_members()) {
    member.clear_expire_time();  // A member that renews its lease may go on.
    member.clear_last_seen_time();
  }
  return Ask(channel, &v1::LayoutService::Stub::ListLayouts,
             v1::ListLayoutsRequest())
             .DebugString() +
         Ask(channel, &v1::LayoutService::Stub::GetLayout, layout)
             .DebugString() +
         members.DebugString();
}

// Sends hostile values, and expects that the server judged them: that no method
// was refused for what is looked at before the request is.
void SendHostileValues(HostileClient& client,
                       const google::protobuf::Message* stolen,
                       const std::set<std::string>& before_the_request) {
  client.SendHostileValues(stolen);
  for (const auto& [method, ends] : client.ends()) {
    if (method == "Session" || method == "WatchLayouts") continue;
    EXPECT_THAT(ends, ::testing::Contains(::testing::Not(
                          ::testing::AnyOfArray(before_the_request))))
        << method;
  }
}

class HostileClientTest : public ::testing::Test {
 protected:
  HostileClientTest()
      : coordinator_("coordinator/coordinatord",
                     {"--store", "memory", "--lease-ttl", "600", "--log-level",
                      "warning"}),
        members_(coordinator_.address(), 8) {}

  ServerProcess coordinator_;
  SimulatedMembers members_;
};

TEST_F(HostileClientTest, TheCoordinatorIsAsItWas) {
  const std::vector<int64_t> ranks = {0, 1, 2, 3, 4, 5, 6, 7};
  ASSERT_THAT(members_.Register(ranks), IsOk());
  const std::string state = StateOf(members_.channel());
  v1::SessionRequest first;
  first.mutable_caller()->mutable_member()->set_job("scale");
  first.mutable_caller()->mutable_member()->set_kind(v1::WORKER);
  first.mutable_caller()->set_incarnation(1);  // Rank 0, which it is not.
  first.mutable_caller()->set_generation(1);
  const v1::WatchLayoutsRequest watch;
  v1::Caller stolen = first.caller();
  stolen.mutable_member()->set_rank(7);
  stolen.set_incarnation(8);  // Rank 7, as it is.
  int seed = 0;
  ExpectNothingIsLeft(coordinator_, [&] {
    HostileClient client(coordinator_.address(),
                         {ServiceWith<v1::ApplyLayoutRequest>(),
                          ServiceWith<v1::RegisterRequest>(),
                          ServiceWith<v1::FormCommunicatorsRequest>(),
                          ServiceWith<v1::WaitAtBarrierRequest>(),
                          ServiceWith<v1::GetShardPlanRequest>(),
                          ServiceWith<v1::ListEventsRequest>()},
                         "scale", ++seed);
    SendHostileValues(client, nullptr, {"DEADLINE_REQUIRED"});
    HostileClient thief(coordinator_.address(),
                        {ServiceWith<v1::FormCommunicatorsRequest>(),
                         ServiceWith<v1::WaitAtBarrierRequest>()},
                        "scale", seed);
    SendHostileValues(thief, &stolen, {"DEADLINE_REQUIRED", "NOT_REGISTERED"});
    client.SendRandomBytes();
    client.SendUnknownFields();
    client.SendGiantMetadata();
    client.SendOddDeadlines();
    const std::string kSession = "/shardwright.v1.MembershipService/Session";
    client.OpenAndLeave(kSession, kSessions, nullptr);
    client.OpenAndLeave(kSession, kSessions, &first);
    client.OpenAndLeave("/shardwright.v1.LayoutService/WatchLayouts", 100,
                        &watch);
    client.SendGarbage();
  });
  EXPECT_EQ(StateOf(members_.channel()), state);
  members_.StartBarrier(ranks, "after", kPatience);
  for (const WaitResult& result : members_.Wait()) {
    EXPECT_THAT(result.status, IsOk());
  }
}

TEST_F(HostileClientTest, TheWorkerIsAsItWas) {
  const ServerProcess worker("worker/workerd",
                             {"--coordinator", coordinator_.address(), "--job",
                              "scale", "--rank", "3"});
  const auto channel =
      grpc::CreateChannel(worker.address(), grpc::InsecureChannelCredentials());
  const auto describe = [&] {
    v1::WorkerDescription description =
        Ask(channel, &v1::WorkerService::Stub::DescribeWorker,
            v1::DescribeWorkerRequest());
    description.clear_phase();  // It goes on with forming.
    description.clear_cliques();
    return description;
  };
  ASSERT_TRUE(Eventually([&] { return describe().generation() == 1; }));
  const std::string state = describe().DebugString();
  const v1::OpenSessionRequest no_segments;
  int seed = 0;
  ExpectNothingIsLeft(worker, [&] {
    HostileClient client(worker.address(),
                         {ServiceWith<v1::RunCopiesRequest>()}, "scale",
                         ++seed);
    SendHostileValues(client, nullptr, {"DEADLINE_REQUIRED"});
    client.SendRandomBytes();
    client.SendUnknownFields();
    client.SendGiantMetadata();
    client.SendOddDeadlines();
    const std::string kSession = "/shardwright.v1.WorkerService/OpenSession";
    client.OpenAndLeave(kSession, kSessions, nullptr);
    client.OpenAndLeave(kSession, kSessions, &no_segments);
    client.SendGarbage();
  });
  EXPECT_TRUE(Eventually([&] { return describe().session_count() == 0; }));
  EXPECT_EQ(describe().DebugString(), state);
}

}  // namespace
}  // namespace shardwright
