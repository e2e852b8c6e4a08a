// Holds what people are told of a job to what is stored, and to itself: asking
// changes nothing.

#ifndef TESTS_SIMULATION_DIAGNOSTICS_CHECKER_H_
#define TESTS_SIMULATION_DIAGNOSTICS_CHECKER_H_

#include <string>

#include "absl/time/time.h"
#include "coordinator/core/coordinator_core.h"
#include "tests/simulation/step.h"
#include "tests/simulation/store_model.h"

namespace shardwright {
namespace simulation {

// Asks all of DiagnosticsService about a job, as a person would: which cliques
// there are, who blocks each, who is missing, what has happened. REQUIRES: the
// job is stored.
//
//   1. Each clique is listed once, waits for as many as it says, and its
//      explanation, page by page, names those.
//   2. A member is live there if it is live in the store.
//   3. A set of missing members has as many as the clique said.
//   4. Events are numbered upwards, in the term that is stored.
//   5. Nobody else hears of it.
void CheckDiagnostics(CoordinatorCore& core, const std::string& job,
                      absl::Time now, const StoreModel& store,
                      Violations& violations);

}  // namespace simulation
}  // namespace shardwright

#endif  // TESTS_SIMULATION_DIAGNOSTICS_CHECKER_H_
