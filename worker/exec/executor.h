// Carries out a CopyTable, and its adjoint, on buffers of the host's memory.
// Knows nothing of cp, tp, zigzag or modalities, and nothing of devices or
// wires.
//
// This is the host device's whole data path, what a trainer runs in its own
// process, and the reference that a kernel is compared with.
//
// A buffer of n rows has exactly n * row_bytes bytes. Sizes, the fill value and
// overlaps are checked once, before the first byte moves; after that each run
// of rows is one memcpy (destination_stride 1) or one memcpy a row.
//
// Thread safety: all functions may run at the same time on different outputs.
//
// Errors of every function:
//   INVALID_ARGUMENT INVALID_TENSOR: a number of sources, a size or a fill
//   value
//       does not fit the table, or an output overlaps another buffer; the
//       message names which. Nothing has been written.

#ifndef WORKER_EXEC_EXECUTOR_H_
#define WORKER_EXEC_EXECUTOR_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "proto/plan/copy_table.h"

namespace shardwright {

using Bytes = absl::Span<char>;
using ConstBytes = absl::Span<const char>;

enum class Direction {
  kForward,  // Rows of the sources become rows of the destination.
  kAdjoint,  // Rows of the destination become rows of the sources.
};

// Whether the functions below will accept these arguments. `fill_value` does
// not matter with kAdjoint.
absl::Status CheckCopies(const CopyTable& table, int64_t row_bytes,
                         absl::Span<const ConstBytes> sources,
                         ConstBytes destination, ConstBytes fill_value,
                         Direction direction);

// Rows of a source that some entry names, as disjoint (row, count), ascending.
std::vector<std::pair<int64_t, int64_t>> NamedRows(const CopyTable& table,
                                                   int32_t source);

// Writes every byte of `destination` but those of kept rows. Filled rows get
// `fill_value` over and over; its length divides `row_bytes`, and empty means
// zero bytes. Sources may overlap one another, but not the destination.
absl::Status RunForward(const CopyTable& table, int64_t row_bytes,
                        absl::Span<const ConstBytes> sources, Bytes destination,
                        ConstBytes fill_value = {});

// The same table read from right to left: writes every byte of every source.
// Source rows that no entry names become zero; filled and kept rows of the
// destination are not read. No two buffers may overlap.
absl::Status RunAdjoint(const CopyTable& table, int64_t row_bytes,
                        ConstBytes destination,
                        absl::Span<const Bytes> sources);

}  // namespace shardwright

#endif  // WORKER_EXEC_EXECUTOR_H_
