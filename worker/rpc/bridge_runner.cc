#include "worker/rpc/bridge_runner.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/plan/codec.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "worker/rpc/region_bridge_engine.h"
#include "worker/rpc/tensor_finder.h"

namespace shardwright {
namespace {

bool IsEmpty(const v1::Tensor& tensor) {
  return tensor.inline_data().empty() && tensor.segment().size_bytes() == 0 &&
         tensor.region().size_bytes() == 0;
}

absl::Status CheckMemory(const std::string& name, const v1::Tensor& tensor,
                         bool on_gpu) {
  if (tensor.has_region() == on_gpu || IsEmpty(tensor)) return absl::OkStatus();
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_TENSOR",
               on_gpu
                   ? absl::StrCat(name,
                                  " is in host memory, but this worker sends "
                                  "from GPU memory: use a region")
                   : absl::StrCat(name,
                                  " is in a region, but this worker sends from "
                                  "host memory"));
}

// What a request asks for, with its tensors found.
struct BridgeCall {
  BridgeCall(std::shared_ptr<Session> of_session, bool on_gpu)
      : session(std::move(of_session)), tensors(session.get(), on_gpu) {}

  std::shared_ptr<Session> session;  // May be null.
  std::shared_ptr<void> mapped;      // Regions stay where they are.
  TensorFinder tensors;
  BridgePart part;
};

absl::Status FindTensors(const v1::RunBridgeRequest& request, bool on_gpu,
                         BridgeCall& call) {
  BridgePart& part = call.part;
  for (int k = 0; k < request.sources_size(); ++k) {
    const std::string name = absl::StrCat("source ", k);
    RETURN_IF_ERROR(CheckMemory(name, request.sources(k), on_gpu));
    ASSIGN_OR_RETURN(part.sources.emplace_back(),
                     call.tensors.Find(name, request.sources(k),
                                       /*is_output=*/request.backward()));
  }
  if (request.has_shard()) {
    RETURN_IF_ERROR(CheckMemory("the shard", request.shard(), on_gpu));
    ASSIGN_OR_RETURN(part.shard,
                     call.tensors.Find("the shard", request.shard(),
                                       /*is_output=*/!request.backward()));
  }
  RETURN_IF_ERROR(CheckElements(request.element_bytes(), request.row_bytes()));
  if (!on_gpu) return absl::OkStatus();
  return CheckRegions(request.element_bytes(), request.fill_value(),
                      part.sources, "the shard", part.shard);
}

absl::StatusOr<std::unique_ptr<BridgeCall>> CallOf(
    const v1::RunBridgeRequest& request,
    const absl::StatusOr<std::shared_ptr<Session>>& session, bool on_gpu,
    const Caller& caller) {
  RETURN_IF_ERROR(session.status());
  auto call = std::make_unique<BridgeCall>(*session, on_gpu);
  BridgePart& part = call->part;
  ASSIGN_OR_RETURN(part.plan, RoutePlanFromProto(request.plan()));
  part.direction =
      request.backward() ? Direction::kAdjoint : Direction::kForward;
  part.row_bytes = request.row_bytes();
  part.element_bytes = std::max<int64_t>(1, request.element_bytes());
  part.fill_value = request.fill_value();
  part.sequence = request.sequence();
  const auto find = [&] { return FindTensors(request, on_gpu, *call); };
  RegionTable* const regions =
      call->session == nullptr ? nullptr : call->session->regions();
  if (on_gpu && regions != nullptr) {
    call->mapped = regions->KeepMapped();
    RETURN_IF_ERROR(regions->Run(find, caller));  // Behind its stream.
  } else {
    RETURN_IF_ERROR(find());
  }
  return call;
}

// A caller that leaves ends the cliques that its call uses, when it is that
// call's turn.
class CallersTurn : public BridgeTurn {
 public:
  CallersTurn(BridgeTurns::Turn& turn, Caller& caller, Communicator& bridge,
              Communicator* lane)
      : turn_(turn), caller_(caller), bridge_(bridge), lane_(lane) {}

  void Begin() override {
    turn_.Begin();
    when_gone_.emplace(caller_, [this](const absl::Status& why) {
      bridge_.Abort(why);
      if (lane_ != nullptr) lane_->Abort(why);
    });
  }
  void End() override {
    when_gone_.reset();
    turn_.End();
  }

 private:
  BridgeTurns::Turn& turn_;
  Caller& caller_;
  Communicator& bridge_;
  Communicator* const lane_;
  std::optional<Caller::WhenGone> when_gone_;
};

void TakeOutputs(const v1::RunBridgeRequest& request, BridgeCall& call,
                 v1::RunBridgeResponse& response) {
  for (std::string& tensor : call.tensors.TakeInlineOutputs()) {
    if (request.backward()) {
      response.add_inline_sources(std::move(tensor));
    } else {
      response.set_inline_shard(std::move(tensor));
    }
  }
}

}  // namespace

absl::Status BridgeRunner::Run(
    const v1::RunBridgeRequest& request,
    const absl::StatusOr<std::shared_ptr<Session>>& session,
    absl::Time clique_deadline, absl::Time deadline, Caller& caller,
    v1::RunBridgeResponse& response) {
  ASSIGN_OR_RETURN(
      const CliqueTable::Clique bridge,
      cliques_.WaitActive("bridge", clique_deadline - absl::Now()));
  ASSIGN_OR_RETURN(
      BridgeTurns::Turn turn,
      turns_.Enter(bridge.attempt, request.sequence(), deadline, caller));
  // From here on the other members wait: what is wrong they must hear.
  absl::StatusOr<std::unique_ptr<BridgeCall>> call =
      CallOf(request, session, /*on_gpu=*/gpu_ != nullptr, caller);
  absl::Status refusal = call.status();
  std::shared_ptr<Communicator> lane;
  if (refusal.ok() && request.backward() && request.plan().parts_size() > 1) {
    const absl::StatusOr<CliqueTable::Clique> clique =
        cliques_.WaitActive("tp_cp", clique_deadline - absl::Now());
    refusal = clique.status();
    if (clique.ok()) lane = clique->communicator;
  }
  Slot& slot = slots_[turn.slot()];
  std::optional<RegionBridgeEngine> on_gpu;
  if (refusal.ok() && gpu_ != nullptr && (*call)->session != nullptr &&
      (*call)->session->regions() != nullptr) {
    on_gpu.emplace(*gpu_, *(*call)->session->regions(), slot.device, caller);
  }
  BridgeEngine& engine =
      on_gpu.has_value() ? static_cast<BridgeEngine&>(*on_gpu) : slot.host;
  BridgePart part;
  if (refusal.ok()) part = std::move((*call)->part);
  part.deadline = deadline;
  CallersTurn callers_turn(turn, caller, *bridge.communicator, lane.get());
  ASSIGN_OR_RETURN(const BridgeResult result,
                   RunBridge(*bridge.communicator, lane.get(), part, engine,
                             &callers_turn, refusal));
  turn.Succeed();
  response.set_sent_bytes(result.sent_bytes);
  response.set_received_bytes(result.received_bytes);
  TakeOutputs(request, **call, response);
  return absl::OkStatus();
}

}  // namespace shardwright
