// What a micro-batch looks like: its shape, and with Batch its tokens.
//
// The only arithmetic on cu_seqlens on the host is here and in the planner.

#ifndef PROTO_PLAN_BATCH_H_
#define PROTO_PLAN_BATCH_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "proto/plan/layout.h"
#include "proto/plan/problem.h"

namespace shardwright {

inline constexpr int64_t kSeqLengthMax = int64_t{1} << 32;
inline constexpr int64_t kMicroBatchSizeMax = int64_t{1} << 16;

// The micro-batch of one lane, without its tokens.
struct BatchShape {
  int64_t seq_length = 0;        // Tokens of a sample or pack, with padding.
  int64_t micro_batch_size = 0;  // B

  // THD: starts of the documents and the total, with padding. Empty: dense.
  // Documents may be empty: [0, 4, 4, 12].
  std::vector<int64_t> cu_seqlens_padded;

  // The same without padding; only counts padding. Empty: no padding is known.
  std::vector<int64_t> cu_seqlens;

  bool thd() const { return !cu_seqlens_padded.empty(); }
};

// One global micro-batch with its tokens, all lanes.
struct Batch {
  int64_t micro_batch_size = 0;
  int64_t seq_length = 0;
  std::map<std::string, int64_t> special_token_ids;
  std::vector<std::vector<int64_t>> samples;            // input_ids
  std::vector<std::vector<int64_t>> cu_seqlens_padded;  // One a lane; or none.
  std::map<std::string, std::vector<int64_t>> encoder_rows;
  std::map<std::string, int64_t> counts;

  // The shape of language lane `lane`.
  BatchShape ShapeOf(int64_t lane) const;
};

// Whether `module`, the language module, can shard a micro-batch of this shape:
//   dense  S divides by 2*cp*tp (cp > 1, sequence parallel), 2*cp (cp > 1 only)
//          or tp (sequence parallel only)
//   THD    B = 1; cu_seqlens_padded begins at 0, does not fall, ends at S; with
//          cp > 1 each entry divides by 2*cp; with sequence parallel S/cp
//          divides by tp
// Names follow `prefix`: "shape.", or "" for the command line.
Problems CheckShape(const Module& module, const BatchShape& shape,
                    const std::string& prefix = "");

// Whether a batch fits a layout: the shape of each lane, one sample of S ids
// for each, special ids all different, counts that add up.
Problems CheckBatch(const Layout& layout, const Batch& batch);

}  // namespace shardwright

#endif  // PROTO_PLAN_BATCH_H_
