#include "worker/kernels/move_table.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "worker/kernels/copy_rows.h"

namespace shardwright {
namespace {

// Appends moves, and keeps count of their rows.
class Moves {
 public:
  explicit Moves(RowMove* next) : next_(next) {}

  void Add(int32_t from, int64_t from_row, int32_t to, int64_t to_row,
           int64_t row_count) {
    if (row_count == 0) return;
    RowMove& move = *next_++;
    move.first_row = row_count_;
    move.from_row = from_row;
    move.to_row = to_row;
    move.from = from;
    move.to = to;
    row_count_ += row_count;
  }

  // Adds the one behind the last, and returns where that ends.
  RowMove* Finish() {
    *next_ = RowMove();
    next_->first_row = row_count_;
    return next_ + 1;
  }

  int64_t row_count() const { return row_count_; }

 private:
  RowMove* next_;
  int64_t row_count_ = 0;
};

void AddZeroRows(const CopyTable& table, Moves& moves) {
  for (size_t k = 0; k < table.source_rows().size(); ++k) {
    const int32_t source = static_cast<int32_t>(k);
    int64_t row = 0;
    for (const auto& [first, count] : NamedRows(table, source)) {
      moves.Add(RowMove::kFill, 0, source, row, first - row);
      row = first + count;
    }
    moves.Add(RowMove::kFill, 0, source, row, table.source_rows()[k] - row);
  }
}

}  // namespace

int64_t MoveTableBytesMax(int64_t entry_count, int64_t source_count,
                          Direction direction) {
  // The adjoint has at most one run of other rows before each entry and one at
  // the end of each source. Both have one move behind the last.
  const int64_t moves = direction == Direction::kForward
                            ? entry_count + 1
                            : 2 * entry_count + source_count + 1;
  return static_cast<int64_t>(sizeof(MoveTableHeader)) +
         moves * static_cast<int64_t>(sizeof(RowMove));
}

int64_t WriteMoveTable(const CopyTable& table, Direction direction,
                       char* bytes) {
  auto* const header = reinterpret_cast<MoveTableHeader*>(bytes);
  auto* const first = reinterpret_cast<RowMove*>(header + 1);
  const auto destination = static_cast<int32_t>(table.source_rows().size());
  const int64_t stride =
      table.entries().empty() ? 1 : table.entries()[0].destination_stride;
  Moves moves(first);
  for (const RowCopy& entry : table.entries()) {
    if (entry.source == RowCopy::kKeep) continue;
    if (direction == Direction::kForward) {
      moves.Add(entry.source, entry.source_row, destination,
                entry.destination_row, entry.row_count);
    } else if (entry.source != RowCopy::kFill) {
      moves.Add(destination, entry.destination_row, entry.source,
                entry.source_row, entry.row_count);
    }
  }
  if (direction == Direction::kAdjoint) AddZeroRows(table, moves);
  RowMove* const end = moves.Finish();
  *header = MoveTableHeader();
  header->move_count = end - first - 1;
  header->row_count = moves.row_count();
  (direction == Direction::kForward ? header->to_stride : header->from_stride) =
      stride;
  return reinterpret_cast<char*>(end) - bytes;
}

}  // namespace shardwright
