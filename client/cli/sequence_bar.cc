#include "client/cli/sequence_bar.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace shardwright {
namespace {

int ChooseCellCount(int64_t seq_length, int width, int64_t slice_count) {
  if (seq_length <= width) {
    return static_cast<int>(seq_length * (width / seq_length));
  }
  if (slice_count <= width && seq_length % slice_count == 0) {
    return static_cast<int>(slice_count * (width / slice_count));
  }
  return width;
}

}  // namespace

SequenceScale::SequenceScale(int64_t seq_length, int width, int64_t slice_count)
    : seq_length_(seq_length),
      cell_count_(ChooseCellCount(seq_length, width, slice_count)) {}

int64_t SequenceScale::End(int cell) const {
  return std::max(Begin(cell) + 1, Begin(cell + 1));
}

int SequenceScale::CellOf(int64_t position) const {
  int cell = static_cast<int>(position * cell_count_ / seq_length_);
  while (cell > 0 && End(cell - 1) > position) --cell;
  while (End(cell) <= position) ++cell;
  return cell;
}

std::vector<int64_t> CountByCell(const SequenceScale& scale,
                                 const std::vector<PositionRun>& runs) {
  std::vector<int64_t> counts(scale.cell_count(), 0);
  for (const PositionRun& run : runs) {
    const int64_t end = run.position + run.count;
    if (run.count == 0) continue;
    for (int cell = scale.CellOf(run.position);
         cell < scale.cell_count() && scale.Begin(cell) < end; ++cell) {
      counts[cell] += std::min(end, scale.End(cell)) -
                      std::max(run.position, scale.Begin(cell));
    }
  }
  return counts;
}

std::string FormatRuler(const SequenceScale& scale,
                        const std::vector<int64_t>& positions) {
  const std::string last = absl::StrCat(scale.seq_length());
  const int last_begin = scale.cell_count() - static_cast<int>(last.size());
  std::string ruler;
  for (int64_t position : positions) {
    if (position >= scale.seq_length()) continue;
    const std::string number = absl::StrCat(position);
    const int begin = scale.CellOf(position);
    const int free = ruler.empty() ? 0 : static_cast<int>(ruler.size()) + 1;
    if (begin < free || begin + static_cast<int>(number.size()) >= last_begin) {
      continue;
    }
    ruler.resize(begin, ' ');
    ruler += number;
  }
  ruler.resize(std::max(last_begin, 0), ' ');
  return ruler + last;
}

}  // namespace shardwright
