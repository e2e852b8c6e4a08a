// A copy operation as it came over the wire, checked and with its tensors
// found: ready to be carried out.

#ifndef WORKER_RPC_COPY_OPERATION_H_
#define WORKER_RPC_COPY_OPERATION_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/plan/copy_table.h"
#include "shardwright/v1/worker.pb.h"
#include "worker/device/region_device.h"
#include "worker/exec/executor.h"
#include "worker/rpc/session_table.h"
#include "worker/rpc/tensor_finder.h"

namespace shardwright {

// Which tensors are written; the others are only read.
enum class CopyOutputs { kDestination, kSources };

// Whether a tensor of the operation is in a region.
bool UsesRegions(const v1::CopyOperation& message);

// Refers to the message that it was made from, which must outlive it, and holds
// the session. Thread-compatible.
class CopyOperation {
 public:
  // `session` may be null if all tensors are inline.
  //
  // REQUIRES: if UsesRegions(message), inside of RegionTable::Run().
  //
  // Errors:
  //   INVALID_ARGUMENT INVALID_TABLE: `message.table` is not a copy table.
  //   INVALID_ARGUMENT INVALID_TENSOR: a tensor is missing, outside its segment
  //       or region, inline above kInlineBytesMax, not aligned, not where the
  //       others are, or not of the table's size; the message names which.
  //   NOT_FOUND PLAN_UNKNOWN, INVALID_ARGUMENT PLAN_DIFFERS: of PlanTables.
  static absl::StatusOr<CopyOperation> Create(const v1::CopyOperation& message,
                                              std::shared_ptr<Session> session,
                                              CopyOutputs outputs);

  CopyOperation(CopyOperation&&) = default;
  CopyOperation& operator=(CopyOperation&&) = default;

  const CopyTable& table() const { return table_; }
  int64_t row_bytes() const { return message_->row_bytes(); }
  ConstBytes fill_value() const { return message_->fill_value(); }

  // Writable only as CopyOutputs says.
  const std::vector<Bytes>& sources() const { return sources_; }
  Bytes destination() const { return destination_; }

  // Whether the tensors are in regions: then they are not for the host to read.
  bool in_regions() const { return in_regions_; }
  RegionCopy AsRegionCopy() const;

  // Bytes of the rows that entries bring from sources: what the table moves.
  int64_t copied_bytes() const;

  // The outputs, in order: inline ones with their bytes, which this gives away;
  // segments as empty strings.
  std::vector<std::string> TakeInlineOutputs() {
    return tensors_.TakeInlineOutputs();
  }

 private:
  CopyOperation(const v1::CopyOperation& message,
                std::shared_ptr<Session> session, CopyOutputs outputs)
      : message_(&message),
        session_(std::move(session)),
        direction_(outputs == CopyOutputs::kSources ? Direction::kAdjoint
                                                    : Direction::kForward),
        in_regions_(UsesRegions(message)),
        tensors_(session_.get(), in_regions_) {}

  absl::Status FindTable();
  absl::Status FindTensors();

  const v1::CopyOperation* message_;
  std::shared_ptr<Session> session_;
  Direction direction_;
  bool in_regions_;
  TensorFinder tensors_;
  CopyTable table_;
  std::vector<Bytes> sources_;
  Bytes destination_;
};

}  // namespace shardwright

#endif  // WORKER_RPC_COPY_OPERATION_H_
