#include "proto/plan/copy_table.h"

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <tuple>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

absl::Status InvalidTable(const std::string& message) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_TABLE", message);
}

std::string Describe(const RowCopy& entry) {
  return absl::StrCat(
      "entry {source ", entry.source, ", source_row ", entry.source_row,
      ", destination_row ", entry.destination_row, ", destination_stride ",
      entry.destination_stride, ", row_count ", entry.row_count, "}");
}

absl::Status CheckSizes(const std::vector<int64_t>& source_rows,
                        int64_t destination_rows) {
  if (source_rows.size() > CopyTable::kSourcesMax) {
    return InvalidTable(absl::StrCat(source_rows.size(), " sources are above ",
                                     CopyTable::kSourcesMax));
  }
  for (size_t k = 0; k < source_rows.size(); ++k) {
    if (source_rows[k] < 0 || source_rows[k] > CopyTable::kRowsMax) {
      return InvalidTable(absl::StrCat("source_rows[", k, "]=", source_rows[k],
                                       " is not in [0, ", CopyTable::kRowsMax,
                                       "]"));
    }
  }
  if (destination_rows < 0 || destination_rows > CopyTable::kRowsMax) {
    return InvalidTable(absl::StrCat("destination_rows=", destination_rows,
                                     " is not in [0, ", CopyTable::kRowsMax,
                                     "]"));
  }
  return absl::OkStatus();
}

// Whether the entries, as they come, fill the destination column by column and
// read every source forwards, as those of a planner do. True proves invariants
// 1 to 3 in one pass, without a division; false proves nothing. A column is the
// rows with equal row % stride.
bool FillsInOrder(const std::vector<RowCopy>& entries, int64_t stride,
                  const std::vector<int64_t>& source_rows,
                  int64_t destination_rows) {
  if (stride < 1 || destination_rows < 1 ||
      stride > CopyTable::kRowsMax / destination_rows) {
    return false;  // Else nothing below can overflow.
  }
  std::array<int64_t, CopyTable::kSourcesMax> unread = {};  // By source.
  int64_t column = 0;
  int64_t next = 0;  // The first row of `column` not yet written.
  for (const RowCopy& entry : entries) {
    if (next >= destination_rows) next = ++column;
    if (entry.destination_row != next || entry.destination_stride != stride ||
        entry.row_count < 1 || entry.row_count > destination_rows ||
        entry.source < 0 || entry.source >= source_rows.size() ||
        entry.source_row < unread[entry.source] ||
        entry.source_row > source_rows[entry.source] - entry.row_count) {
      return false;
    }
    unread[entry.source] = entry.source_row + entry.row_count;
    next += entry.row_count * stride;
    if (next >= destination_rows + stride) return false;
  }
  return next >= destination_rows &&
         column == std::min(stride, destination_rows) - 1;
}

// Whether `entry` alone stays inside. Written so that nothing can overflow:
// every value that is multiplied has been bounded by kRowsMax before, and the
// product of count and stride by the division.
absl::Status CheckEntry(const RowCopy& entry, int64_t stride,
                        const std::vector<int64_t>& source_rows,
                        int64_t destination_rows) {
  if (entry.destination_stride != stride || stride < 1 ||
      stride > CopyTable::kRowsMax) {
    return InvalidTable(
        absl::StrCat(Describe(entry),
                     ": all entries must have one positive stride, and the "
                     "first has ",
                     stride));
  }
  if (entry.row_count < 1 || entry.destination_row < 0 ||
      entry.destination_row >= destination_rows ||
      entry.row_count - 1 >
          (destination_rows - 1 - entry.destination_row) / stride) {
    return InvalidTable(absl::StrCat(Describe(entry),
                                     " is not inside the destination's ",
                                     destination_rows, " rows"));
  }
  if (entry.source == RowCopy::kFill || entry.source == RowCopy::kKeep) {
    if (entry.source_row == 0) return absl::OkStatus();
    return InvalidTable(absl::StrCat(Describe(entry),
                                     ": without a source it has source_row 0"));
  }
  if (entry.source < 0 ||
      entry.source >= static_cast<int64_t>(source_rows.size())) {
    return InvalidTable(absl::StrCat(Describe(entry), ": there are ",
                                     source_rows.size(), " sources"));
  }
  const int64_t rows = source_rows[entry.source];
  if (entry.source_row < 0 || entry.source_row >= rows ||
      entry.row_count > rows - entry.source_row) {
    return InvalidTable(absl::StrCat(Describe(entry), " is not inside the ",
                                     rows, " rows of its source"));
  }
  return absl::OkStatus();
}

// Rows of one destination column, those with equal row % stride, follow one
// another at distance `stride`: sorted by column, runs must meet end to end.
absl::Status CheckEveryRowOnce(const std::vector<RowCopy>& by_column,
                               int64_t stride, int64_t destination_rows) {
  int64_t column = 0;
  int64_t next = 0;  // The first row of `column` not yet written.
  const auto finish_columns_before = [&](int64_t end) {
    for (; column < end; next = ++column) {
      if (next < destination_rows) {
        return InvalidTable(
            absl::StrCat("destination row ", next, " is not written"));
      }
    }
    return absl::OkStatus();
  };
  for (const RowCopy& entry : by_column) {
    const absl::Status finished =
        finish_columns_before(entry.destination_row % stride);
    if (!finished.ok()) return finished;
    if (entry.destination_row != next) {
      const bool twice = entry.destination_row < next;
      return InvalidTable(
          absl::StrCat("destination row ", twice ? entry.destination_row : next,
                       twice ? " is written twice" : " is not written"));
    }
    next += entry.row_count * stride;
  }
  return finish_columns_before(std::min(stride, destination_rows));
}

absl::Status CheckNoRowReadTwice(std::vector<RowCopy> entries) {
  std::sort(entries.begin(), entries.end(),
            [](const RowCopy& a, const RowCopy& b) {
              return std::tie(a.source, a.source_row) <
                     std::tie(b.source, b.source_row);
            });
  for (size_t i = 1; i < entries.size(); ++i) {
    const RowCopy& a = entries[i - 1];
    const RowCopy& b = entries[i];
    if (b.source >= 0 && a.source == b.source &&
        a.source_row + a.row_count > b.source_row) {
      return InvalidTable(absl::StrCat("row ", b.source_row, " of source ",
                                       b.source, " is read twice"));
    }
  }
  return absl::OkStatus();
}

// Whether `b`, next in its column, goes on where `a` ends.
bool Continues(const RowCopy& a, const RowCopy& b) {
  return a.source == b.source &&
         b.destination_row ==
             a.destination_row + a.row_count * a.destination_stride &&
         (a.source < 0 || b.source_row == a.source_row + a.row_count);
}

// Checks invariants 1 to 3, and puts the entries into order, column by column.
absl::Status CheckAndSort(std::vector<RowCopy>& entries, int64_t stride,
                          const std::vector<int64_t>& source_rows,
                          int64_t destination_rows) {
  for (const RowCopy& entry : entries) {
    RETURN_IF_ERROR(CheckEntry(entry, stride, source_rows, destination_rows));
  }
  std::sort(
      entries.begin(), entries.end(),
      [stride](const RowCopy& a, const RowCopy& b) {
        return std::make_pair(a.destination_row % stride, a.destination_row) <
               std::make_pair(b.destination_row % stride, b.destination_row);
      });
  RETURN_IF_ERROR(CheckEveryRowOnce(entries, stride, destination_rows));
  return CheckNoRowReadTwice(entries);
}

// Joins each entry to the one before that it continues, in place.
void Join(std::vector<RowCopy>& entries) {
  const auto first =
      std::adjacent_find(entries.begin(), entries.end(), Continues);
  if (first == entries.end()) return;
  auto last = first;
  for (auto entry = first + 1; entry != entries.end(); ++entry) {
    if (Continues(*last, *entry)) {
      last->row_count += entry->row_count;
    } else {
      *++last = *entry;
    }
  }
  entries.erase(last + 1, entries.end());
}

}  // namespace

absl::StatusOr<CopyTable> CopyTable::Create(std::vector<RowCopy> entries,
                                            std::vector<int64_t> source_rows,
                                            int64_t destination_rows) {
  RETURN_IF_ERROR(CheckSizes(source_rows, destination_rows));
  const int64_t stride = entries.empty() ? 1 : entries[0].destination_stride;
  if (!FillsInOrder(entries, stride, source_rows, destination_rows)) {
    RETURN_IF_ERROR(
        CheckAndSort(entries, stride, source_rows, destination_rows));
  }
  Join(entries);
  if (stride > 1) {
    std::sort(entries.begin(), entries.end(),
              [](const RowCopy& a, const RowCopy& b) {
                return a.destination_row < b.destination_row;
              });
  }
  CopyTable table;
  table.entries_ =
      std::make_shared<const std::vector<RowCopy>>(std::move(entries));
  table.source_rows_ = std::move(source_rows);
  table.destination_rows_ = destination_rows;
  return table;
}

}  // namespace shardwright
