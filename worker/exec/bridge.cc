#include "worker/exec/bridge.h"

#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/plan/fingerprint.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"
#include "worker/comm/conversation.h"
#include "worker/exec/agreement.h"
#include "worker/exec/bridge_work.h"

namespace shardwright {
namespace {

absl::Status InvalidPlan(const std::string& message) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_PLAN", message);
}

// Equal at both ends of a message, and of opposite sign: so the sum over all
// members is 0 if all ends meet. A message of another size than its receiver
// waits for would be written beyond its place, or never arrive; so would those
// of one pair of members in another order.
int64_t TrafficOf(const Communicator& bridge, const BridgeWork& work) {
  uint64_t sum = 0;
  std::map<std::pair<int, int>, uint64_t> counts;  // By sender and receiver.
  const auto sign_of = [&counts](int from, int to, int64_t bytes) {
    Fingerprint fingerprint;
    fingerprint.Add(static_cast<uint64_t>(from));
    fingerprint.Add(static_cast<uint64_t>(to));
    fingerprint.Add(counts[{from, to}]++);
    fingerprint.Add(static_cast<uint64_t>(bytes));
    return fingerprint.digest();
  };
  for (const auto& [peer, bytes] : work.sends) {
    sum += sign_of(bridge.position(), peer, bytes.size());
  }
  for (const auto& [peer, bytes] : work.receives) {
    sum -= sign_of(peer, bridge.position(), bytes.size());
  }
  return static_cast<int64_t>(sum);
}

std::vector<Term> TermsOf(const BridgePart& part) {
  return {{"DIGEST_MISMATCH", "the members planned different batches",
           part.plan.digest, /*is_digest=*/true},
          {"GENERATION_MISMATCH", "the members planned with other layouts",
           static_cast<uint64_t>(part.plan.generation)},
          {"SEQUENCE_MISMATCH", "the members are at different micro-batches",
           part.sequence},
          {"ROW_BYTES_MISMATCH", "row_bytes differs",
           static_cast<uint64_t>(part.row_bytes)}};
}

absl::Status AgreeToMove(Communicator& bridge, const BridgePart& part,
                         const BridgeWork& work, const absl::Status& own) {
  ASSIGN_OR_RETURN(
      const std::vector<Declared> all,
      Agree(bridge,
            part.direction == Direction::kForward ? "bridge forward"
                                                  : "bridge backward",
            TermsOf(part), {TrafficOf(bridge, work), 0}, own));
  uint64_t sum = 0;
  for (const auto& [traffic, unused] : all) {
    sum += static_cast<uint64_t>(traffic);
  }
  if (sum == 0) return absl::OkStatus();
  return InvalidPlan(absl::StrCat(
      "plans of digest ", DigestText(part.plan.digest),
      " differ between members in what is sent: one of them is damaged"));
}

absl::Status Copy(const BridgePart& part, const BridgeWork& work,
                  BridgeEngine& engine) {
  if (!work.table.has_value()) return absl::OkStatus();
  return engine.Copy(*work.table, part.direction, part.row_bytes,
                     part.element_bytes, work.sources, work.destination,
                     part.fill_value);
}

uint64_t DigestOf(const std::vector<RoutePart>& parts) {
  Fingerprint fingerprint;
  for (const RoutePart& part : parts) {
    fingerprint.Add(static_cast<uint64_t>(part.rank));
    fingerprint.Add(static_cast<uint64_t>(part.rows.row));
    fingerprint.Add(static_cast<uint64_t>(part.rows.count));
  }
  return fingerprint.digest();
}

// Each rank of the lane has the gradient of its part: now all get all. A rank
// that could not copy its own comes as well, so that the others do not wait.
absl::Status ShareParts(Communicator& lane, const BridgePart& part,
                        const absl::Status& own) {
  const Conversation conversation(lane, part.deadline);
  std::vector<Term> terms = TermsOf(part);
  terms.push_back({"INVALID_PLAN", "the lane's ranks differ in their parts",
                   DigestOf(part.plan.parts), /*is_digest=*/true});
  const absl::Status agreed =
      Agree(lane, "bridge parts", terms, {}, own).status();
  if (own.ok() && ReasonOf(agreed) == "PEER_REFUSED") {
    return Error(absl::StatusCode::kAborted, "PEER_LOST", agreed.message());
  }
  RETURN_IF_ERROR(agreed);
  std::vector<Outgoing> sends;
  std::vector<Incoming> receives;
  const auto bytes_of = [&](int position) {
    const RowRun& rows = part.plan.parts[position].rows;
    return part.sources[0].subspan(rows.row * part.row_bytes,
                                   rows.count * part.row_bytes);
  };
  // Each begins with its right neighbour, so that not all send to one.
  for (int k = 1; k < lane.size(); ++k) {
    const int peer = (lane.position() + k) % lane.size();
    sends.push_back({peer, bytes_of(lane.position())});
    receives.push_back({peer, bytes_of(peer)});
  }
  return lane.Exchange(sends, receives);
}

// What uses the communicators, in its turn.
absl::Status Transfer(Communicator& bridge, Communicator* lane,
                      const BridgePart& part, const BridgeWork& work,
                      BridgeEngine& engine, const absl::Status& own) {
  const Conversation conversation(bridge, part.deadline);
  absl::Status moved = AgreeToMove(bridge, part, work, own);
  if (moved.ok()) moved = bridge.Exchange(work.sends, work.receives);
  if (lane == nullptr) return moved;
  if (moved.ok()) return ShareParts(*lane, part, Copy(part, work, engine));
  // What members have found together all of them know. But a bridge may end at
  // one when another is through, and waits in the lane.
  const absl::Status end = bridge.status();
  if (!end.ok()) lane->Abort(end);
  return moved;
}

}  // namespace

absl::StatusOr<Bytes> HostBridgeEngine::Staging(int64_t byte_count) {
  if (static_cast<int64_t>(staging_.size()) < byte_count) {
    staging_.resize(byte_count);
  }
  return absl::MakeSpan(staging_);
}

absl::Status HostBridgeEngine::Copy(const CopyTable& table, Direction direction,
                                    int64_t row_bytes, int64_t element_bytes,
                                    absl::Span<const Bytes> sources,
                                    Bytes destination, ConstBytes fill_value) {
  if (direction == Direction::kAdjoint) {
    return RunAdjoint(table, row_bytes, destination, sources);
  }
  return RunForward(table, row_bytes,
                    std::vector<ConstBytes>(sources.begin(), sources.end()),
                    destination, fill_value);
}

absl::StatusOr<BridgeResult> RunBridge(Communicator& bridge, Communicator* lane,
                                       const BridgePart& part,
                                       BridgeEngine& engine, BridgeTurn* turn,
                                       const absl::Status& refusal) {
  const bool forward = part.direction == Direction::kForward;
  const bool sends = part.plan.pack.has_value() == forward;
  if (forward || !part.plan.pack.has_value()) lane = nullptr;
  absl::Status own = refusal;
  BridgeWork work;
  if (own.ok()) {
    absl::StatusOr<BridgeWork> prepared =
        PrepareBridge(bridge, lane, part, engine);
    own = prepared.status();
    if (prepared.ok()) work = *std::move(prepared);
  }
  if (own.ok() && sends) own = Copy(part, work, engine);
  if (turn != nullptr) turn->Begin();
  const absl::Status done = Transfer(bridge, lane, part, work, engine, own);
  if (turn != nullptr) turn->End();
  RETURN_IF_ERROR(done);
  if (!sends && lane == nullptr) {
    RETURN_IF_ERROR(Copy(part, work, engine));
  }
  BridgeResult result;
  for (const Outgoing& send : work.sends) {
    result.sent_bytes += static_cast<int64_t>(send.bytes.size());
  }
  for (const Incoming& receive : work.receives) {
    result.received_bytes += static_cast<int64_t>(receive.bytes.size());
  }
  return result;
}

}  // namespace shardwright
