#include "coordinator/planner/sample_runs.h"

#include <algorithm>

#include "proto/plan/fingerprint.h"

namespace shardwright {

std::vector<std::string> SourceNames(const Batch& batch) {
  std::vector<std::string> names = {"text"};
  for (const auto& [name, id] : batch.special_token_ids) names.push_back(name);
  return names;
}

std::vector<SourceRun> RunsOfSample(const std::vector<int64_t>& input_ids,
                                    const SourceOf& source_of,
                                    std::vector<int64_t>& rows) {
  std::vector<SourceRun> runs;
  const int64_t length = static_cast<int64_t>(input_ids.size());
  for (int64_t position = 0; position < length;) {
    const int32_t source = source_of(input_ids[position]);
    int64_t end = position + 1;
    while (end < length && source_of(input_ids[end]) == source) ++end;
    runs.push_back({source, rows[source], position, end - position});
    rows[source] += end - position;
    position = end;
  }
  return runs;
}

void AppendEntries(const std::vector<SourceRun>& sample,
                   const std::vector<PositionRun>& owned, int64_t b,
                   int64_t micro_batch_size, std::vector<RowCopy>& entries) {
  auto run = sample.begin();
  int64_t local = 0;
  for (const PositionRun& mine : owned) {
    const int64_t end = mine.position + mine.count;
    for (int64_t position = mine.position; position < end;) {
      while (run->position + run->count <= position) ++run;
      const int64_t part_end = std::min(end, run->position + run->count);
      RowCopy& entry = entries.emplace_back();
      entry.source = run->source;
      entry.source_row = run->source_row + position - run->position;
      entry.destination_row = local * micro_batch_size + b;
      entry.destination_stride = micro_batch_size;
      entry.row_count = part_end - position;
      local += part_end - position;
      position = part_end;
    }
  }
}

uint64_t DigestOf(const Layout& layout, const Batch& batch) {
  Fingerprint fingerprint;
  fingerprint.Add(layout.digest());
  fingerprint.Add(batch.seq_length);
  fingerprint.Add(batch.micro_batch_size);
  fingerprint.Add(batch.special_token_ids.size());
  for (const auto& [name, id] : batch.special_token_ids) {
    fingerprint.Add(name);
    fingerprint.Add(id);
  }
  fingerprint.Add(batch.cu_seqlens_padded.size());
  for (const std::vector<int64_t>& cu : batch.cu_seqlens_padded) {
    fingerprint.Add(cu.size());
    for (int64_t start : cu) fingerprint.Add(start);
  }
  fingerprint.Add(batch.encoder_rows.size());
  for (const auto& [name, rows] : batch.encoder_rows) {
    fingerprint.Add(name);
    fingerprint.Add(rows.size());
    for (int64_t count : rows) fingerprint.Add(count);
  }
  for (const std::vector<int64_t>& sample : batch.samples) {
    for (int64_t id : sample) fingerprint.Add(id);
  }
  return fingerprint.digest();
}

}  // namespace shardwright
