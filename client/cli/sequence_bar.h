// One sequence as a bar of cells, each standing for the same number of
// positions, or each position for the same number of cells.

#ifndef CLIENT_CLI_SEQUENCE_BAR_H_
#define CLIENT_CLI_SEQUENCE_BAR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "proto/plan/shard_plan.h"

namespace shardwright {

// Which positions a cell stands for. Immutable.
class SequenceScale {
 public:
  // At most `width` cells. A sequence that is cut into `slice_count` equal
  // parts gets whole cells for each, if there is room for all of them.
  // REQUIRES: all positive.
  SequenceScale(int64_t seq_length, int width, int64_t slice_count);

  int64_t seq_length() const { return seq_length_; }
  int cell_count() const { return cell_count_; }

  // The cell stands for [Begin(cell), End(cell)), at least one position.
  int64_t Begin(int cell) const { return seq_length_ * cell / cell_count_; }
  int64_t End(int cell) const;

  // The first cell that stands for `position`.
  int CellOf(int64_t position) const;

 private:
  int64_t seq_length_;
  int cell_count_;
};

// How many positions of each cell the runs hold.
std::vector<int64_t> CountByCell(const SequenceScale& scale,
                                 const std::vector<PositionRun>& runs);

// Numbers above the bar, each at the cell where its position begins, and the
// length at the end. Numbers that would touch the one before are left out.
std::string FormatRuler(const SequenceScale& scale,
                        const std::vector<int64_t>& positions);

}  // namespace shardwright

#endif  // CLIENT_CLI_SEQUENCE_BAR_H_
