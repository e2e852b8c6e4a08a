#include "worker/exec/random_table.h"

#include <algorithm>
#include <vector>

namespace shardwright {

std::string RandomBytes(int64_t count, std::mt19937& random) {
  std::string bytes(count, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

CopyTable RandomTable(int64_t stride, int source_count, int64_t rows,
                      bool fills, std::mt19937& random) {
  std::vector<RowCopy> entries;
  std::vector<int64_t> next_row(source_count, 0);
  for (int64_t sample = 0; sample < stride; ++sample) {
    for (int64_t position = 0; position < rows;) {
      RowCopy entry;
      entry.row_count = std::min<int64_t>(1 + random() % 5, rows - position);
      entry.destination_row = position * stride + sample;
      entry.destination_stride = stride;
      const uint32_t kind = fills ? random() % 8 : 8;
      entry.source = kind == 0 ? RowCopy::kFill
                     : kind == 1
                         ? RowCopy::kKeep
                         : static_cast<int32_t>(random() % source_count);
      if (entry.source >= 0) {
        next_row[entry.source] += random() % 3;
        entry.source_row = next_row[entry.source];
        next_row[entry.source] += entry.row_count;
      }
      position += entry.row_count;
      entries.push_back(entry);
    }
  }
  for (int64_t& row : next_row) row += random() % 3;
  // Dies if they were no table.
  return *CopyTable::Create(entries, next_row, rows * stride);
}

}  // namespace shardwright
