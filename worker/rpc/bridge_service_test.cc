// RunBridge as trainers see it: workers over real gRPC, one encoder rank and
// two language ranks. What a bridge moves is tested beside worker/exec.

#include <array>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/cc/worker_client.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "proto/plan/codec.h"
#include "proto/status/error.h"
#include "proto/status/status_matchers.h"
#include "shardwright/v1/worker.grpc.pb.h"
#include "worker/agent/clique_table.h"
#include "worker/comm/loopback_communicator.h"
#include "worker/device/host_device.h"
#include "worker/rpc/bridge_plans.h"
#include "worker/rpc/fake_region_device.h"
#include "worker/rpc/loopback_clique.h"
#include "worker/rpc/regions_fixture.h"
#include "worker/rpc/server.h"

namespace shardwright {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int kRanks = kBridgeRanks;
using Response = absl::StatusOr<v1::RunBridgeResponse>;

v1::RunBridgeRequest RequestOf(Rank rank, uint64_t sequence) {
  v1::RunBridgeRequest request;
  *request.mutable_plan() = ToProto(PlanOf(rank));
  request.set_row_bytes(1);
  request.set_sequence(sequence);
  if (rank == 0) {
    request.add_sources()->set_inline_data("ABCD");
  } else {
    request.add_sources()->set_inline_data("abcd");
    request.add_sources()->set_inline_data("");
    request.mutable_shard()->set_inline_data("????");
  }
  return request;
}

v1::RunBridgeRequest BackwardRequestOf(Rank rank, uint64_t sequence) {
  v1::RunBridgeRequest request = RequestOf(rank, sequence);
  request.set_backward(true);
  request.mutable_sources(0)->set_inline_data("????");
  if (rank > 0) {
    request.mutable_shard()->set_inline_data(rank == 1 ? "1234" : "5678");
  }
  return request;
}

struct Worker {
  static WorkerClient::Options Patience(absl::Duration call_timeout) {
    WorkerClient::Options options;
    options.call_timeout = call_timeout;
    return options;
  }

  // Of calls to this worker that end before it can answer.
  WorkerClient Impatient() const {
    return WorkerClient::Create(server->address(), Patience(absl::Seconds(1)));
  }

  explicit Worker(RegionDevice* gpu = nullptr)
      : service(
            device, cliques, [] { return v1::WorkerDescription(); }, gpu),
        server(*WorkerServer::Start("127.0.0.1:0", service)),
        client(WorkerClient::Create(server->address())) {}

  HostDevice device;
  CliqueTable cliques;
  WorkerService service;
  std::unique_ptr<WorkerServer> server;
  WorkerClient client;
};

class BridgeServiceTest : public ::testing::Test {
 protected:
  explicit BridgeServiceTest(RegionDevice* gpu = nullptr)
      : workers_{Worker(gpu), Worker(gpu), Worker(gpu)} {
    OnAllRanks([this](int rank) { Form(rank); });
  }

  static void OnAllRanks(const std::function<void(int)>& body) {
    std::vector<std::thread> threads;
    for (int rank = 0; rank < kRanks; ++rank) {
      threads.emplace_back([&body, rank] { body(rank); });
    }
    for (std::thread& thread : threads) thread.join();
  }

  void Form(int rank) {
    FormLoopback({"language/bridge/0", "bridge", {0, 1, 2}}, rank, factory_,
                 workers_[rank].cliques);
  }

  using Requests = std::array<v1::RunBridgeRequest, kRanks>;

  static Requests Forward(uint64_t sequence) {
    return {RequestOf(0, sequence), RequestOf(1, sequence),
            RequestOf(2, sequence)};
  }

  std::vector<Response> Run(const Requests& requests) {
    std::vector<Response> responses(kRanks);
    OnAllRanks([&](int rank) {
      responses[rank] = workers_[rank].client.RunBridge(requests[rank]);
    });
    return responses;
  }

  void ExpectShards(const std::vector<Response>& responses) {
    for (const Response& response : responses) {
      ASSERT_THAT(response, IsOk());
    }
    EXPECT_EQ(responses[0]->sent_bytes(), 4);
    EXPECT_EQ(responses[1]->received_bytes(), 2);
    EXPECT_EQ(responses[1]->inline_shard(), "aABb");
    EXPECT_EQ(responses[2]->inline_shard(), "CcdD");
  }

  LoopbackFactory factory_;
  Worker workers_[kRanks];
};

TEST_F(BridgeServiceTest, RowsGoToTheShardsThatOwnThem) {
  ExpectShards(Run(Forward(0)));
}

TEST_F(BridgeServiceTest, GradientsGoBackToTheOutputAndTheText) {
  const std::vector<Response> responses =
      Run({BackwardRequestOf(0, 0), BackwardRequestOf(1, 0),
           BackwardRequestOf(2, 0)});
  for (const Response& response : responses) ASSERT_THAT(response, IsOk());
  EXPECT_THAT(responses[0]->inline_sources(), ElementsAre("2358"));
  EXPECT_THAT(responses[1]->inline_sources(),
              ElementsAre(std::string("14\0\0", 4), ""));
  EXPECT_THAT(responses[2]->inline_sources(),
              ElementsAre(std::string("\0\0", 2) + "67", ""));
  EXPECT_EQ(responses[0]->received_bytes(), 4);
  EXPECT_EQ(responses[2]->sent_bytes(), 2);
}

TEST_F(BridgeServiceTest, TwoMicroBatchesMayBeUnderWayInAnyOrder) {
  ExpectShards(Run(Forward(0)));
  std::vector<Response> later;
  std::thread ahead([&] { later = Run(Forward(2)); });
  ExpectShards(Run(Forward(1)));
  ahead.join();
  ExpectShards(later);
}

struct BadCall {
  std::string name;
  std::function<void(v1::RunBridgeRequest&)> spoil;
  std::string reason;
  std::string complaint;
};

class BadBridgeTest : public BridgeServiceTest,
                      public ::testing::WithParamInterface<BadCall> {};

TEST_P(BadBridgeTest, AllHearWhatIsWrongAndMayTryAgain) {
  Requests requests = Forward(3);
  GetParam().spoil(requests[2]);
  const std::vector<Response> responses = Run(requests);
  EXPECT_THAT(responses[2], HasReason(GetParam().reason));
  EXPECT_THAT(responses[2].status().message(), HasSubstr(GetParam().complaint));
  for (int rank : {0, 1}) {
    EXPECT_THAT(responses[rank], HasReason("PEER_REFUSED"));
    EXPECT_THAT(responses[rank].status().message(),
                HasSubstr(GetParam().complaint));
    EXPECT_THAT(responses[rank].status().message(), HasSubstr("2"));
  }
  ExpectShards(Run(Forward(3)));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadBridgeTest,
    ::testing::Values(
        BadCall{"Session", [](auto& r) { r.set_session_id("gone"); },
                "SESSION_NOT_FOUND", "session \"gone\""},
        BadCall{"Shard",
                [](auto& r) { r.mutable_shard()->set_inline_data("???"); },
                "INVALID_TENSOR", "3 bytes"},
        BadCall{"Segment",
                [](auto& r) {
                  r.mutable_sources(0)->mutable_segment()->set_size_bytes(4);
                },
                "INVALID_TENSOR", "source 0 is in segment 0"},
        BadCall{"Region",
                [](auto& r) {
                  r.mutable_shard()->mutable_region()->set_size_bytes(4);
                },
                "INVALID_TENSOR", "the shard is in a region"},
        BadCall{"Plan",
                [](auto& r) {
                  r.mutable_plan()->mutable_edges(0)->set_staging_rows(-1);
                },
                "INVALID_PLAN", "transfer with rank 0"},
        BadCall{"Element", [](auto& r) { r.set_element_bytes(3); },
                "INVALID_TENSOR", "element_bytes is 3"}),
    [](const auto& info) { return info.param.name; });

TEST_F(BridgeServiceTest, MembersThatCallForOtherBatchesAreTold) {
  Requests requests = Forward(0);
  requests[1].mutable_plan()->set_digest(10);
  for (const Response& response : Run(requests)) {
    EXPECT_THAT(response, HasReason("DIGEST_MISMATCH"));
  }
  requests = Forward(0);
  requests[1].set_sequence(5);
  for (const Response& response : Run(requests)) {
    EXPECT_THAT(response, HasReason("SEQUENCE_MISMATCH"));
  }
}

absl::Status StatusOf(const CliqueTable& cliques) {
  return cliques.List()[0].communicator->status();
}

// Before the callers stop waiting themselves, though loopback waits for 10 s.
TEST_F(BridgeServiceTest, ATrainerThatDoesNotCallIsNamed) {
  std::vector<Response> responses(kRanks, absl::UnknownError("not called"));
  OnAllRanks([&](int rank) {
    if (rank == 0) return;
    responses[rank] = workers_[rank].Impatient().RunBridge(RequestOf(rank, 0));
  });
  for (int rank : {1, 2}) {
    EXPECT_THAT(responses[rank], HasReason("MEMBERS_MISSING"));
    EXPECT_EQ(DetailOf(responses[rank].status()).missing().ranges(), "0");
  }
}

TEST_F(BridgeServiceTest, ACallerThatLeavesEndsTheTransferThatWaits) {
  const auto stub = v1::WorkerService::NewStub(grpc::CreateChannel(
      workers_[0].server->address(), grpc::InsecureChannelCredentials()));
  // Later each time: who leaves before it is its turn ends nothing.
  for (absl::Duration wait = absl::Milliseconds(10);
       StatusOf(workers_[0].cliques).ok() && wait < absl::Seconds(10);
       wait *= 2) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Minutes(1)));
    const absl::Time leaves_at = absl::Now() + wait;
    std::thread leaves([&] {
      EXPECT_TRUE(Eventually([&] { return absl::Now() > leaves_at; }));
      context.TryCancel();
    });
    v1::RunBridgeResponse response;
    EXPECT_EQ(
        stub->RunBridge(&context, RequestOf(0, 0), &response).error_code(),
        grpc::StatusCode::CANCELLED);
    leaves.join();
    (void)Eventually([&] { return absl::Now() > leaves_at + wait; });
  }
  EXPECT_THAT(StatusOf(workers_[0].cliques), HasReason("CLIENT_GONE"));
  EXPECT_THAT(workers_[1].client.RunBridge(RequestOf(1, 0)),
              HasReason("PEER_LOST"));
}

// The same in the memory of a GPU, which is the host's here.
class GpuBridgeTest : public BridgeServiceTest {
 protected:
  GpuBridgeTest() : BridgeServiceTest(&gpu_) {
    for (int rank = 0; rank < kRanks; ++rank) Open(rank);
  }

  // A session with regions: its sources[0], and its shard.
  void Open(int rank) {
    Trainer& trainer = trainers_[rank];
    v1::OpenSessionRequest request;
    *request.mutable_gpu() = ::shardwright::Trainer();
    auto session = workers_[rank].client.OpenSession(request);
    ASSERT_THAT(session, IsOk());
    trainer.session = *std::move(session);
    trainer.source = Register(rank, "source", rank == 0 ? "ABCD" : "abcd");
    trainer.shard = Register(rank, "shard", "????");
  }

  int64_t Register(int rank, const std::string& name,
                   const std::string& bytes) {
    const std::string own_name = absl::StrCat(name, rank);
    gpu_.Allocate(own_name, bytes);
    v1::RegisterRegionRequest request;
    request.set_session_id(trainers_[rank].session->id());
    request.set_gpu_uuid(gpu_.uuid());
    request.set_memory_handle(FakeRegionDevice::Handle(own_name));
    request.set_allocation_bytes(4);
    request.set_size_bytes(4);
    return workers_[rank].client.RegisterRegion(request)->region_id();
  }

  v1::RunBridgeRequest InRegions(int rank, v1::RunBridgeRequest request) {
    request.set_session_id(trainers_[rank].session->id());
    SetRegion(trainers_[rank].source, *request.mutable_sources(0));
    if (rank > 0) SetRegion(trainers_[rank].shard, *request.mutable_shard());
    return request;
  }

  static void SetRegion(int64_t id, v1::Tensor& tensor) {
    tensor.mutable_region()->set_id(id);
    tensor.mutable_region()->set_size_bytes(4);
  }

  struct Trainer {
    std::unique_ptr<WorkerSession> session;
    int64_t source = 0;
    int64_t shard = 0;
  };

  static inline FakeRegionDevice gpu_;
  Trainer trainers_[kRanks];
};

TEST_F(GpuBridgeTest, RowsGoFromRegionToRegion) {
  for (uint64_t sequence : {0, 1, 2}) {
    const std::vector<Response> responses =
        Run({InRegions(0, RequestOf(0, sequence)),
             InRegions(1, RequestOf(1, sequence)),
             InRegions(2, RequestOf(2, sequence))});
    for (const Response& response : responses) ASSERT_THAT(response, IsOk());
    EXPECT_EQ(gpu_.BytesOf("shard1"), "aABb");
    EXPECT_EQ(gpu_.BytesOf("shard2"), "CcdD");
  }
}

TEST_F(GpuBridgeTest, TensorsInHostMemoryAreRefusedByName) {
  const std::vector<Response> responses =
      Run({InRegions(0, RequestOf(0, 0)), InRegions(1, RequestOf(1, 0)),
           RequestOf(2, 0)});
  EXPECT_THAT(responses[2], HasReason("INVALID_TENSOR"));
  EXPECT_THAT(responses[2].status().message(),
              HasSubstr("source 0 is in host memory"));
  EXPECT_THAT(responses[0], HasReason("PEER_REFUSED"));
}

}  // namespace
}  // namespace shardwright
