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
    const absl::StatusOr<std::shared_ptr<Session>>& session, bool on_gpu) {
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
    RETURN_IF_ERROR(regions->Run(find));  // Behind the trainer's stream.
  } else {
    RETURN_IF_ERROR(find());
  }
  return call;
}

// An engine that uses the cliques when it is its call's turn.
class EngineInTurn : public BridgeEngine {
 public:
  EngineInTurn(BridgeEngine& engine, BridgeTurns::Turn& turn)
      : engine_(engine), turn_(turn) {}

  absl::StatusOr<Bytes> Staging(int64_t byte_count) override {
    return engine_.Staging(byte_count);
  }
  absl::Status Copy(const CopyTable& table, Direction direction,
                    int64_t row_bytes, int64_t element_bytes,
                    absl::Span<const Bytes> sources, Bytes destination,
                    ConstBytes fill_value) override {
    return engine_.Copy(table, direction, row_bytes, element_bytes, sources,
                        destination, fill_value);
  }
  void BeginTransfer() override { turn_.Begin(); }
  void EndTransfer() override { turn_.End(); }

 private:
  BridgeEngine& engine_;
  BridgeTurns::Turn& turn_;
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
    absl::Time clique_deadline, absl::Time deadline,
    const std::function<bool()>& given_up, v1::RunBridgeResponse& response) {
  ASSIGN_OR_RETURN(
      const CliqueTable::Clique bridge,
      cliques_.WaitActive("bridge", clique_deadline - absl::Now()));
  ASSIGN_OR_RETURN(
      BridgeTurns::Turn turn,
      turns_.Enter(bridge.attempt, request.sequence(), deadline, given_up));
  // From here on the other members wait: what is wrong they must hear.
  absl::StatusOr<std::unique_ptr<BridgeCall>> call =
      CallOf(request, session, /*on_gpu=*/gpu_ != nullptr);
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
    on_gpu.emplace(*gpu_, *(*call)->session->regions(), slot.device);
  }
  EngineInTurn engine(
      on_gpu.has_value() ? static_cast<BridgeEngine&>(*on_gpu) : slot.host,
      turn);
  ASSIGN_OR_RETURN(
      const BridgeResult result,
      RunBridge(*bridge.communicator, lane.get(),
                refusal.ok() ? (*call)->part : BridgePart(), engine, refusal));
  turn.Succeed();
  response.set_sent_bytes(result.sent_bytes);
  response.set_received_bytes(result.received_bytes);
  TakeOutputs(request, **call, response);
  return absl::OkStatus();
}

}  // namespace shardwright
