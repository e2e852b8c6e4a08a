// Random layouts, micro-batches and copy tables, all valid, from a seed.

#ifndef TESTS_PROPERTY_RANDOM_VALUES_H_
#define TESTS_PROPERTY_RANDOM_VALUES_H_

#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "proto/plan/batch.h"
#include "proto/plan/copy_table.h"
#include "proto/plan/layout.h"

namespace shardwright {

// Equal seeds give equal values on every host.
class RandomValues {
 public:
  explicit RandomValues(uint64_t seed) : engine_(seed) {}

  // From [low, high].
  int64_t Number(int64_t low, int64_t high);
  bool Chance(int percent) { return Number(1, 100) <= percent; }

  template <typename T>
  void Shuffle(std::vector<T>& values) {
    for (size_t i = values.size(); i > 1; --i) {
      std::swap(values[i - 1], values[Number(0, static_cast<int64_t>(i) - 1)]);
    }
  }

  // A language module and up to two encoders with all kinds of grids, orders,
  // spans and lists of ranks. At most `ranks_max` ranks a module.
  LayoutSpec SomeLayout(int64_t ranks_max = 24);

  // Dense, or THD with documents that may be empty; padding may be known.
  BatchShape SomeShape(const Module& language);

  // The same with tokens: none, one or several modalities, with an encoder or
  // without, in runs or not at all.
  Batch SomeBatch(const Layout& layout);

  // The entries of a table: whole runs, in order.
  struct TableParts {
    std::vector<RowCopy> entries;
    std::vector<int64_t> source_rows;
    int64_t destination_rows = 0;
  };
  TableParts SomeTable();

  // The same copies in another order and cut in other places.
  std::vector<RowCopy> Recut(const std::vector<RowCopy>& entries);

 private:
  ModuleSpec SomeGrid(int64_t ranks_max, int64_t* rank_count);
  std::string SomeOrder(const ModuleSpec& module, bool experts);
  void PlaceRanks(LayoutSpec& spec, const std::vector<int64_t>& counts);
  std::vector<int64_t> SomeDocuments(const Module& language);
  void AddCounts(const Layout& layout, Batch& batch);

  std::mt19937_64 engine_;
};

// Runs `check` with the seeds 1 to `cases`, or with that of the environment
// variable SHARDWRIGHT_SEED alone. The first that fails fails the test, which
// names the seed.
void ForSeeds(int cases,
              const std::function<absl::Status(RandomValues&)>& check);

}  // namespace shardwright

#endif  // TESTS_PROPERTY_RANDOM_VALUES_H_
