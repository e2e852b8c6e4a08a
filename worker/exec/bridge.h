// Carries out a RoutePlan: rows go from the encoder ranks that made them into
// the shards of the language ranks that own them, and their gradients back.
//
// The same code works on the host's memory over Gloo, and on GPUs' over NCCL:
// a BridgeEngine copies, a Communicator sends.

#ifndef WORKER_EXEC_BRIDGE_H_
#define WORKER_EXEC_BRIDGE_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "proto/plan/copy_table.h"
#include "proto/plan/route_plan.h"
#include "worker/comm/communicator.h"
#include "worker/exec/executor.h"

namespace shardwright {

// Memory and copies of one call of RunBridge() at a time.
class BridgeEngine {
 public:
  virtual ~BridgeEngine() = default;

  // At least so many bytes, in the memory of the call's tensors; what is in
  // them is undefined. The next call may return the same ones.
  virtual absl::StatusOr<Bytes> Staging(int64_t byte_count) = 0;

  // Carries out one table. Returns when the bytes have moved. The arguments
  // have passed CheckCopies(); with kForward, `sources` are only read.
  virtual absl::Status Copy(const CopyTable& table, Direction direction,
                            int64_t row_bytes, int64_t element_bytes,
                            absl::Span<const Bytes> sources, Bytes destination,
                            ConstBytes fill_value) = 0;
};

// When one of several calls under way may use the communicators. Members may
// have several, with an engine each, if they all let them pass one at a time
// and in one order: that of `sequence`.
class BridgeTurn {
 public:
  virtual ~BridgeTurn() = default;

  // Each call uses the communicators between these two, once, and with the same
  // thread.
  virtual void Begin() = 0;
  virtual void End() = 0;
};

// The host's memory.
class HostBridgeEngine : public BridgeEngine {
 public:
  absl::StatusOr<Bytes> Staging(int64_t byte_count) override;
  absl::Status Copy(const CopyTable& table, Direction direction,
                    int64_t row_bytes, int64_t element_bytes,
                    absl::Span<const Bytes> sources, Bytes destination,
                    ConstBytes fill_value) override;

 private:
  std::vector<char> staging_;
};

// What one member brings. Tensors do not overlap.
struct BridgePart {
  RoutePlan plan;  // This rank's.

  // kForward: rows. kAdjoint: their gradients, backward.
  Direction direction = Direction::kForward;
  int64_t row_bytes = 0;
  int64_t element_bytes = 1;  // Divides row_bytes.

  // A language rank: one for each of `plan.sources`; those that an edge brings
  // are empty. An encoder rank: one, the lane's whole output. Others: none.
  // Forward they are only read. Backward they are written: rows that this
  // language rank does not own become zero; the gradient of the output is whole
  // at every rank of the lane's last stage.
  std::vector<Bytes> sources;

  // A language rank's [S / (cp * tp), B, H]; else empty. Forward it is written,
  // backward only read.
  Bytes shard;

  ConstBytes fill_value;  // Of padding, forward; as for RunForward().

  // Of the micro-batch, as the members count them; equal at all of them.
  uint64_t sequence = 0;

  // By when the members must have met, and rows been moved.
  absl::Time deadline = absl::InfiniteFuture();
};

// What was passed to the bridge's send and receive calls.
struct BridgeResult {
  int64_t sent_bytes = 0;
  int64_t received_bytes = 0;
};

// Every member of `bridge` must call, also one whose plan has no transfers, and
// one whose own arguments are wrong: with the reason in `refusal` (and an empty
// part), so that the others learn of it now; it gets the reason back. `bridge`
// has the language module's first pipeline stage and the last one of each
// encoder that has an edge.
// `lane`: backward, of an encoder rank whose lane has several ranks in its last
// stage, the communicator of those (its tp_cp clique); else null. It ends
// together with a bridge that ends: a rank that has come further may wait
// there.
// `turn`: null, if there are no other calls.
//
// Before a row moves, members compare what they have planned. Errors: as for
// an operation of a Communicator, and of the engine, after which tensors that
// are written are undefined; and, with nothing written,
//   INVALID_ARGUMENT INVALID_TENSOR:     a size, overlap or fill value does not
//                                        fit the plan.
//   INVALID_ARGUMENT INVALID_PLAN:       the plan contradicts itself, or is not
//                                        of this rank and clique, or members'
//                                        plans differ in what is sent.
//   INVALID_ARGUMENT PEER_REFUSED:       another member's arguments are wrong;
//                                        with its rank and reason.
//   INVALID_ARGUMENT OPERATION_MISMATCH, DIGEST_MISMATCH, GENERATION_MISMATCH,
//                    SEQUENCE_MISMATCH, ROW_BYTES_MISMATCH: members do not
//                                        call for the same; with the ranks on
//                                        each side and both values.
absl::StatusOr<BridgeResult> RunBridge(
    Communicator& bridge, Communicator* lane, const BridgePart& part,
    BridgeEngine& engine, BridgeTurn* turn = nullptr,
    const absl::Status& refusal = absl::OkStatus());

}  // namespace shardwright

#endif  // WORKER_EXEC_BRIDGE_H_
