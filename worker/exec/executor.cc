#include "worker/exec/executor.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

absl::Status InvalidTensor(const std::string& message) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_TENSOR", message);
}

absl::Status CheckSize(const std::string& name, ConstBytes bytes, int64_t rows,
                       int64_t row_bytes) {
  int64_t expected = 0;
  // A product that does not fit 63 bits is larger than any buffer.
  if (!__builtin_mul_overflow(rows, row_bytes, &expected) &&
      static_cast<int64_t>(bytes.size()) == expected) {
    return absl::OkStatus();
  }
  return InvalidTensor(absl::StrCat(name, " has ", bytes.size(),
                                    " bytes, but the table needs ", rows,
                                    " rows of ", row_bytes, " bytes"));
}

bool Overlap(ConstBytes a, ConstBytes b) {
  const std::less<const char*> before;  // Defined for unrelated pointers too.
  return !a.empty() && !b.empty() && before(a.data(), b.data() + b.size()) &&
         before(b.data(), a.data() + a.size());
}

absl::Status CheckOverlaps(absl::Span<const ConstBytes> sources,
                           ConstBytes destination, Direction direction) {
  for (size_t i = 0; i < sources.size(); ++i) {
    if (Overlap(sources[i], destination)) {
      return InvalidTensor(
          absl::StrCat("source ", i, " overlaps the destination"));
    }
    for (size_t j = 0; direction == Direction::kAdjoint && j < i; ++j) {
      if (Overlap(sources[i], sources[j])) {
        return InvalidTensor(
            absl::StrCat("sources ", j, " and ", i,
                         " overlap, and the adjoint writes both"));
      }
    }
  }
  return absl::OkStatus();
}

// One row of the fill value. Empty if no row is filled: `row_bytes` is bounded
// only by rows that exist.
std::vector<char> FillRow(const CopyTable& table, int64_t row_bytes,
                          ConstBytes fill_value) {
  if (std::none_of(
          table.entries().begin(), table.entries().end(),
          [](const RowCopy& e) { return e.source == RowCopy::kFill; })) {
    return {};
  }
  std::vector<char> row(row_bytes, 0);
  for (size_t i = 0; !fill_value.empty() && i < row.size(); ++i) {
    row[i] = fill_value[i % fill_value.size()];
  }
  return row;
}

void FillRows(Bytes destination, const RowCopy& entry, int64_t row_bytes,
              const std::vector<char>& fill_row) {
  char* to = destination.data() + entry.destination_row * row_bytes;
  for (int64_t i = 0; i < entry.row_count; ++i) {
    std::memcpy(to, fill_row.data(), row_bytes);
    to += entry.destination_stride * row_bytes;
  }
}

void ZeroRowsNotNamed(const CopyTable& table, int32_t source, Bytes bytes,
                      int64_t row_bytes) {
  int64_t row = 0;
  const auto zero_until = [&](int64_t end) {
    if (row < end) {
      std::memset(bytes.data() + row * row_bytes, 0, (end - row) * row_bytes);
    }
  };
  for (const auto& [first, count] : NamedRows(table, source)) {
    zero_until(first);
    row = first + count;
  }
  zero_until(table.source_rows()[source]);
}

}  // namespace

absl::Status CheckCopies(const CopyTable& table, int64_t row_bytes,
                         absl::Span<const ConstBytes> sources,
                         ConstBytes destination, ConstBytes fill_value,
                         Direction direction) {
  if (row_bytes < 1) {
    return InvalidTensor(
        absl::StrCat("row_bytes is ", row_bytes, ", but must be at least 1"));
  }
  if (sources.size() != table.source_rows().size()) {
    return InvalidTensor(absl::StrCat("there are ", sources.size(),
                                      " sources, but the table has ",
                                      table.source_rows().size()));
  }
  for (size_t i = 0; i < sources.size(); ++i) {
    RETURN_IF_ERROR(CheckSize(absl::StrCat("source ", i), sources[i],
                              table.source_rows()[i], row_bytes));
  }
  RETURN_IF_ERROR(CheckSize("the destination", destination,
                            table.destination_rows(), row_bytes));
  if (direction == Direction::kForward && !fill_value.empty() &&
      row_bytes % static_cast<int64_t>(fill_value.size()) != 0) {
    return InvalidTensor(absl::StrCat("the fill value has ", fill_value.size(),
                                      " bytes, which do not divide row_bytes ",
                                      row_bytes));
  }
  return CheckOverlaps(sources, destination, direction);
}

std::vector<std::pair<int64_t, int64_t>> NamedRows(const CopyTable& table,
                                                   int32_t source) {
  std::vector<std::pair<int64_t, int64_t>> rows;
  for (const RowCopy& entry : table.entries()) {
    if (entry.source == source) {
      rows.emplace_back(entry.source_row, entry.row_count);
    }
  }
  std::sort(rows.begin(), rows.end());
  return rows;
}

absl::Status RunForward(const CopyTable& table, int64_t row_bytes,
                        absl::Span<const ConstBytes> sources, Bytes destination,
                        ConstBytes fill_value) {
  RETURN_IF_ERROR(CheckCopies(table, row_bytes, sources, destination,
                              fill_value, Direction::kForward));
  const std::vector<char> fill_row = FillRow(table, row_bytes, fill_value);
  for (const RowCopy& entry : table.entries()) {
    if (entry.source == RowCopy::kKeep) continue;
    if (entry.source == RowCopy::kFill) {
      FillRows(destination, entry, row_bytes, fill_row);
      continue;
    }
    const char* from =
        sources[entry.source].data() + entry.source_row * row_bytes;
    char* to = destination.data() + entry.destination_row * row_bytes;
    if (entry.destination_stride == 1) {
      std::memcpy(to, from, entry.row_count * row_bytes);
      continue;
    }
    for (int64_t i = 0; i < entry.row_count; ++i) {
      std::memcpy(to, from, row_bytes);
      from += row_bytes;
      to += entry.destination_stride * row_bytes;
    }
  }
  return absl::OkStatus();
}

absl::Status RunAdjoint(const CopyTable& table, int64_t row_bytes,
                        ConstBytes destination,
                        absl::Span<const Bytes> sources) {
  RETURN_IF_ERROR(CheckCopies(
      table, row_bytes, std::vector<ConstBytes>(sources.begin(), sources.end()),
      destination, {}, Direction::kAdjoint));
  for (size_t i = 0; i < sources.size(); ++i) {
    ZeroRowsNotNamed(table, static_cast<int32_t>(i), sources[i], row_bytes);
  }
  for (const RowCopy& entry : table.entries()) {
    if (entry.source < 0) continue;
    const char* from = destination.data() + entry.destination_row * row_bytes;
    char* to = sources[entry.source].data() + entry.source_row * row_bytes;
    if (entry.destination_stride == 1) {
      std::memcpy(to, from, entry.row_count * row_bytes);
      continue;
    }
    for (int64_t i = 0; i < entry.row_count; ++i) {
      std::memcpy(to, from, row_bytes);
      from += entry.destination_stride * row_bytes;
      to += row_bytes;
    }
  }
  return absl::OkStatus();
}

}  // namespace shardwright
