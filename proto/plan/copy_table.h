// A CopyTable is the contract between planning and doing: rows of several
// sources become rows of one destination. Dense zigzag, THD, sequence parallel,
// modality alignment and their backward passes are all copy tables.
//
// A row is one token's vector. Row s * B + b of a sequence-first [S, B, H]
// tensor; row b * S + s (one element) of a batch-first [B, S] one.
//
// Invariants, checked once in Create() and true for the object's whole life:
//   1. Every destination row in [0, destination_rows) is written, or kept as it
//      is, exactly once.
//   2. No row of a source is read twice, and none outside the source: a table
//      permutes rows, so its adjoint needs no sum.
//   3. All entries have one destination_stride: 1, or B where samples
//   interleave.
//   4. Canonical form: entries ascend by destination_row, and none continues
//      another. Two tables that do the same with the same stride are equal.

#ifndef PROTO_PLAN_COPY_TABLE_H_
#define PROTO_PLAN_COPY_TABLE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"

namespace shardwright {

// Rows [source_row, source_row + row_count) of a source; row i of them goes to
// destination_row + i * destination_stride.
struct RowCopy {
  static constexpr int32_t kFill = -1;  // Write the fill value.
  // Leave the rows as they are: who runs the table has put them there. Never on
  // the wire.
  static constexpr int32_t kKeep = -2;

  int32_t source = 0;
  int64_t source_row = 0;  // 0 with kFill and kKeep.
  int64_t destination_row = 0;
  int64_t destination_stride = 1;
  int64_t row_count = 0;

  friend bool operator==(const RowCopy& a, const RowCopy& b) {
    return a.source == b.source && a.source_row == b.source_row &&
           a.destination_row == b.destination_row &&
           a.destination_stride == b.destination_stride &&
           a.row_count == b.row_count;
  }
};

// Immutable, cheap to copy, safe to share between threads.
class CopyTable {
 public:
  // Limits, so that a table from the wire bounds what it can cost.
  static constexpr int kSourcesMax = 16;
  static constexpr int64_t kRowsMax = int64_t{1} << 40;

  // An empty table: no rows.
  CopyTable() = default;

  // Puts `entries`, in any order and cut in any way, into canonical form.
  // `source_rows[k]` is the number of rows of source k.
  //
  // Errors:
  //   INVALID_ARGUMENT INVALID_TABLE: an invariant does not hold. The message
  //       names the first offending entry or row.
  static absl::StatusOr<CopyTable> Create(std::vector<RowCopy> entries,
                                          std::vector<int64_t> source_rows,
                                          int64_t destination_rows);

  const std::vector<RowCopy>& entries() const { return *entries_; }
  const std::vector<int64_t>& source_rows() const { return source_rows_; }
  int64_t destination_rows() const { return destination_rows_; }

  // Whether the destination is one run of consecutive rows of one source: a
  // view of it costs nothing.
  bool IsView() const {
    return entries().size() == 1 && entries()[0].destination_stride == 1 &&
           entries()[0].source >= 0;
  }

  friend bool operator==(const CopyTable& a, const CopyTable& b) {
    return (a.entries_ == b.entries_ || a.entries() == b.entries()) &&
           a.source_rows_ == b.source_rows_ &&
           a.destination_rows_ == b.destination_rows_;
  }

 private:
  std::shared_ptr<const std::vector<RowCopy>> entries_ =
      std::make_shared<const std::vector<RowCopy>>();  // Shared by copies.
  std::vector<int64_t> source_rows_;
  int64_t destination_rows_ = 0;
};

}  // namespace shardwright

#endif  // PROTO_PLAN_COPY_TABLE_H_
