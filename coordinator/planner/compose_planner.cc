#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/planner/planner.h"
#include "coordinator/planner/position_runs.h"
#include "proto/plan/fingerprint.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

// Consecutive positions of one sample whose rows come from one source.
struct SourceRun {
  int32_t source;
  int64_t source_row;
  int64_t position;
  int64_t count;
};

// Maps ids to sources: 0 is text, modality k by name is k + 1.
class SourceOf {
 public:
  explicit SourceOf(const std::map<std::string, int64_t>& special_token_ids) {
    for (const auto& [name, id] : special_token_ids) ids_.push_back(id);
  }
  int32_t operator()(int64_t id) const {
    for (size_t k = 0; k < ids_.size(); ++k) {
      if (ids_[k] == id) return static_cast<int32_t>(k) + 1;
    }
    return 0;
  }
  size_t source_count() const { return ids_.size() + 1; }

 private:
  std::vector<int64_t> ids_;
};

// The runs of one sample; `rows` counts on from sample to sample.
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

// What the shard takes of sample `b`: both lists of runs, cut by one another.
// Runs of positions ascend, as those of context and sequence parallelism do.
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

absl::StatusOr<CopyTable> EmbeddingTable(const ShardPlan& plan,
                                         const Batch& batch) {
  const SourceOf source_of(batch.special_token_ids);
  const int64_t first_sample = plan.coordinates.lane * batch.micro_batch_size;
  std::vector<int64_t> rows(source_of.source_count(), 0);
  std::vector<RowCopy> entries;
  for (int64_t b = 0; b < batch.micro_batch_size; ++b) {
    AppendEntries(
        RunsOfSample(batch.samples[first_sample + b], source_of, rows),
        plan.embedding_runs, b, batch.micro_batch_size, entries);
  }
  int64_t local = 0;
  for (const PositionRun& run : plan.embedding_runs) local += run.count;
  return CopyTable::Create(std::move(entries), std::move(rows),
                           local * batch.micro_batch_size);
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

}  // namespace

absl::StatusOr<ShardPlan> PlanCompose(const Layout& layout, Rank rank,
                                      const Batch& batch) {
  ASSIGN_OR_RETURN(const Placement at, FindLanguageRank(layout, rank));
  RETURN_IF_ERROR(ProblemsToStatus("INVALID_BATCH", CheckBatch(layout, batch)));
  const int64_t lane = at.module->CoordinatesAt(at.index).lane;
  ShardPlan plan = PlanRuns(*at.module, at.index, rank, batch.ShapeOf(lane));
  plan.digest = DigestOf(layout, batch);
  plan.sources = {"text"};
  for (const auto& [name, id] : batch.special_token_ids) {
    plan.sources.push_back(name);
  }
  if (plan.coordinates.pp == 0) {
    ASSIGN_OR_RETURN(plan.embeddings, EmbeddingTable(plan, batch));
  }
  return plan;
}

}  // namespace shardwright
