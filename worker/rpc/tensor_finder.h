// Finds the tensors that a call names: in segments or regions of its session,
// or inside the message.

#ifndef WORKER_RPC_TENSOR_FINDER_H_
#define WORKER_RPC_TENSOR_FINDER_H_

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "shardwright/v1/worker.pb.h"
#include "worker/exec/executor.h"
#include "worker/rpc/session_table.h"

namespace shardwright {

// Most bytes of a tensor that travels inside a message.
inline constexpr int64_t kInlineBytesMax = 1 << 20;

inline constexpr int64_t kElementBytesMax = 16;

// Of one call. What it finds is valid as long as session, message and finder.
// Thread-compatible.
class TensorFinder {
 public:
  // `session` may be null: inline tensors only. `in_regions`: where all tensors
  // that are not empty must be.
  TensorFinder(const Session* session, bool in_regions)
      : session_(session), in_regions_(in_regions) {}

  // Writable only if `is_output`. Messages call the tensor `name`.
  //
  // REQUIRES: for regions, as of RegionTable::Find().
  //
  // Errors:
  //   INVALID_ARGUMENT INVALID_TENSOR: missing, outside its segment or region,
  //       inline above kInlineBytesMax, or not where the others are.
  absl::StatusOr<Bytes> Find(const std::string& name, const v1::Tensor& tensor,
                             bool is_output);

  // The outputs, in order: inline ones with their bytes, which this gives away;
  // others as empty strings.
  std::vector<std::string> TakeInlineOutputs();

 private:
  absl::StatusOr<Bytes> FindInline(const std::string& name,
                                   const std::string& bytes, bool is_output);

  const Session* session_;
  bool in_regions_;
  std::deque<std::string> outputs_bytes_;  // Of each output: inline or empty.
};

// Whether elements of this size, 0 for not given, can be copied in such rows.
//
// Errors of both:
//   INVALID_ARGUMENT INVALID_TENSOR: names the value.
absl::Status CheckElements(int64_t element_bytes, int64_t row_bytes);

// What a kernel asks of tensors in regions: their alignment, and a fill value
// of 0, 1, 2, 4, 8 or 16 bytes.
absl::Status CheckRegions(int64_t element_bytes, const std::string& fill_value,
                          absl::Span<const Bytes> sources,
                          const std::string& destination_name,
                          Bytes destination);

}  // namespace shardwright

#endif  // WORKER_RPC_TENSOR_FINDER_H_
