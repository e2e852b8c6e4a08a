// WorkerService.RunBridge, up to what goes over the clique: a request on the
// wire -> what one rank copies, sends and receives. Then it copies, as if
// messages had come.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "proto/plan/codec.h"
#include "proto/plan/route_plan.h"
#include "shardwright/v1/worker.pb.h"
#include "tests/fuzz/input.h"
#include "tests/fuzz/promise.h"
#include "worker/comm/communicator.h"
#include "worker/exec/bridge.h"
#include "worker/exec/bridge_work.h"

namespace shardwright {
namespace {

constexpr int kRanks = 8;
constexpr int64_t kTensorBytesMax = 1 << 16;

// What is in tensors that are read, in messages that come, and in all else.
constexpr char kData = 'd';
constexpr char kMessage = 'm';
constexpr char kPoison = 'x';

// Each in memory of its own, so that a sanitizer sees where it ends.
using Tensor = std::vector<char>;

bool IsAll(char byte, ConstBytes bytes) {
  return std::all_of(bytes.begin(), bytes.end(),
                     [byte](char each) { return each == byte; });
}

// Says who is in it, and no more.
class Clique : public Communicator {
 public:
  Clique(std::vector<int64_t> ranks, int position)
      : ranks_(std::move(ranks)), position_(position) {}

  const std::vector<int64_t>& ranks() const override { return ranks_; }
  int position() const override { return position_; }
  absl::Status AllGather(absl::Span<const char>, absl::Span<char>) override {
    return status();
  }
  absl::Status AllGatherV(absl::Span<const char>, absl::Span<const int64_t>,
                          absl::Span<char>) override {
    return status();
  }
  absl::Status Exchange(absl::Span<const Outgoing>,
                        absl::Span<const Incoming>) override {
    return status();
  }
  absl::Status Barrier() override { return status(); }
  absl::Status status() const override {
    return absl::UnimplementedError("nothing is sent here");
  }
  void Abort(const absl::Status&) override {}

 private:
  const std::vector<int64_t> ranks_;
  const int position_;
};

class ExactEngine : public HostBridgeEngine {
 public:
  absl::StatusOr<Bytes> Staging(int64_t byte_count) override {
    Promise(staging_.empty(), "staging is asked for once");
    staging_.assign(byte_count, kPoison);
    return absl::MakeSpan(staging_);
  }
  int64_t byte_count() const { return static_cast<int64_t>(staging_.size()); }

 private:
  Tensor staging_;
};

struct Tensors {
  std::vector<Tensor> sources;
  Tensor shard;

  int64_t byte_count() const {
    size_t sum = shard.size();
    for (const Tensor& source : sources) sum += source.size();
    return static_cast<int64_t>(sum);
  }
};

// As many bytes as the request brings.
Tensors Brought(const v1::RunBridgeRequest& request) {
  Tensors tensors;
  for (const v1::Tensor& source : request.sources()) {
    tensors.sources.emplace_back(source.inline_data().size());
  }
  tensors.shard.resize(request.shard().inline_data().size());
  return tensors;
}

// As many as the plan needs, unless that is too much.
Tensors Fitting(const RoutePlan& plan, int64_t row_bytes) {
  const auto tensor_of = [row_bytes](int64_t rows) {
    int64_t size = 0;
    const bool fits = !__builtin_mul_overflow(rows, row_bytes, &size) &&
                      size >= 0 && size <= kTensorBytesMax;
    return Tensor(fits ? size : 0);
  };
  Tensors tensors;
  if (plan.pack.has_value()) {
    tensors.sources.push_back(tensor_of(plan.pack->source_rows()[0]));
  } else if (plan.placement.has_value()) {
    for (size_t k = 0; k < plan.sources.size(); ++k) {
      const bool comes = std::any_of(plan.edges.begin(), plan.edges.end(),
                                     [&](const RouteEdge& edge) {
                                       return edge.encoder == plan.sources[k];
                                     });
      tensors.sources.push_back(
          tensor_of(comes ? 0 : plan.placement->source_rows()[k]));
    }
    tensors.shard = tensor_of(plan.placement->destination_rows());
  }
  return tensors;
}

void Copy(const BridgePart& part, const BridgeWork& work,
          BridgeEngine& engine) {
  if (!work.table.has_value()) return;
  Promise(engine.Copy(*work.table, part.direction, part.row_bytes,
                      part.element_bytes, work.sources, work.destination,
                      part.fill_value));
}

// As RunBridge() does it, between copies before and after.
void Transfer(const BridgeWork& work, int own_position) {
  for (const auto& [peer, bytes] : work.sends) {
    Promise(peer >= 0 && peer < kRanks && peer != own_position,
            "messages go to other members");
    Promise(IsAll(kData, bytes), "what is sent is of this rank's tensors");
  }
  for (const auto& [peer, bytes] : work.receives) {
    Promise(peer >= 0 && peer < kRanks && peer != own_position,
            "messages come from other members");
    Promise(IsAll(kPoison, bytes), "a row is received once");
    std::fill(bytes.begin(), bytes.end(), kMessage);
  }
}

void CheckForward(const RoutePlan& plan, const Tensors& tensors) {
  for (const Tensor& source : tensors.sources) {
    Promise(IsAll(kData, source), "sources are only read");
  }
  if (plan.pack.has_value()) return;
  Promise(std::count(tensors.shard.begin(), tensors.shard.end(), kPoison) == 0,
          "the shard is written whole");
}

void CheckBackward(const BridgePart& part, const Tensors& tensors) {
  const RoutePlan& plan = part.plan;
  if (!plan.pack.has_value()) {
    for (const Tensor& source : tensors.sources) {
      Promise(std::count(source.begin(), source.end(), kPoison) == 0,
              "local gradients are written whole");
    }
    Promise(IsAll(kData, tensors.shard), "the shard is only read");
    return;
  }
  const ConstBytes output = tensors.sources[0];
  for (const RoutePart& each : plan.parts) {
    Promise(each.rows.row >= 0 && each.rows.count >= 0 &&
                (each.rows.row + each.rows.count) * part.row_bytes <=
                    static_cast<int64_t>(output.size()),
            "parts are of the output");
    const ConstBytes rows = output.subspan(each.rows.row * part.row_bytes,
                                           each.rows.count * part.row_bytes);
    Promise(IsAll(each.rank == plan.rank ? kMessage : kPoison, rows),
            "the own part of a gradient is written whole, and nothing else");
  }
}

void RunRequest(Input& input) {
  const int position = input.Index(kRanks);
  const bool fits = input.Index(2) == 1;
  const bool has_lane = input.Index(2) == 1;
  v1::RunBridgeRequest request;
  if (!input.Parse(request)) return;
  absl::StatusOr<RoutePlan> plan = RoutePlanFromProto(request.plan());
  if (!plan.ok()) return PromiseOneError(plan.status());
  BridgePart part;
  part.direction =
      request.backward() ? Direction::kAdjoint : Direction::kForward;
  part.row_bytes = request.row_bytes();
  part.element_bytes = std::max<int64_t>(1, request.element_bytes());
  std::string fill_value = request.fill_value();
  std::replace(fill_value.begin(), fill_value.end(), kPoison, '-');
  part.fill_value = fill_value;
  Tensors tensors = fits ? Fitting(*plan, part.row_bytes) : Brought(request);
  const bool forward = part.direction == Direction::kForward;
  for (Tensor& source : tensors.sources) {
    std::fill(source.begin(), source.end(), forward ? kData : kPoison);
    part.sources.push_back(absl::MakeSpan(source));
  }
  std::fill(tensors.shard.begin(), tensors.shard.end(),
            forward ? kPoison : kData);
  part.shard = absl::MakeSpan(tensors.shard);
  part.plan = *std::move(plan);

  const Clique bridge({0, 1, 2, 3, 4, 5, 6, 7}, position);
  std::optional<Clique> lane;
  if (has_lane && !forward && part.plan.parts.size() > 1) {
    lane.emplace(std::vector<int64_t>{0, 1}, 0);
  }
  ExactEngine engine;
  const absl::StatusOr<BridgeWork> work =
      PrepareBridge(bridge, lane.has_value() ? &*lane : nullptr, part, engine);
  Promise(engine.byte_count() <= tensors.byte_count(),
          "tensors that are there bound staging");
  if (!work.ok()) return PromiseOneError(work.status());
  const bool sends = part.plan.pack.has_value() == forward;
  if (sends) Copy(part, *work, engine);
  Transfer(*work, position);
  if (!sends) Copy(part, *work, engine);
  if (forward) {
    CheckForward(part.plan, tensors);
  } else if (part.plan.pack.has_value() || part.plan.placement.has_value()) {
    CheckBackward(part, tensors);
  }
}

}  // namespace
}  // namespace shardwright

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  shardwright::Input input(data, size);
  while (!input.empty()) shardwright::RunRequest(input);
  return 0;
}
