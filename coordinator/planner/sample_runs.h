// Token ids as runs: what planning from tokens works on. Internal to the
// planner.

#ifndef COORDINATOR_PLANNER_SAMPLE_RUNS_H_
#define COORDINATOR_PLANNER_SAMPLE_RUNS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "proto/plan/batch.h"
#include "proto/plan/copy_table.h"
#include "proto/plan/layout.h"
#include "proto/plan/shard_plan.h"

namespace shardwright {

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

// The names of a batch's sources: "text", then the modalities.
std::vector<std::string> SourceNames(const Batch& batch);

// The runs of one sample; `rows` counts on from sample to sample.
std::vector<SourceRun> RunsOfSample(const std::vector<int64_t>& input_ids,
                                    const SourceOf& source_of,
                                    std::vector<int64_t>& rows);

// What a shard takes of the lane's sample `b`: both lists of runs, cut by one
// another. Runs of positions ascend, as those of context and sequence
// parallelism do.
void AppendEntries(const std::vector<SourceRun>& sample,
                   const std::vector<PositionRun>& owned, int64_t b,
                   int64_t micro_batch_size, std::vector<RowCopy>& entries);

// Of layout and batch: the digest of every plan that is made from tokens.
uint64_t DigestOf(const Layout& layout, const Batch& batch);

}  // namespace shardwright

#endif  // COORDINATOR_PLANNER_SAMPLE_RUNS_H_
