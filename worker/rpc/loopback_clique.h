// A clique of workers of one process, formed without a coordinator, for tests.

#ifndef WORKER_RPC_LOOPBACK_CLIQUE_H_
#define WORKER_RPC_LOOPBACK_CLIQUE_H_

#include <utility>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "proto/status/status_matchers.h"
#include "worker/agent/clique_table.h"
#include "worker/comm/loopback_communicator.h"

namespace shardwright {

// One member's part; returns when all members' threads have come. `cliques` has
// this one and no other afterwards.
inline void FormLoopback(const CliqueSpec& spec, int position,
                         LoopbackFactory& factory, CliqueTable& cliques) {
  cliques.Reset({spec}, absl::OkStatus());
  CliqueAttempt attempt;
  attempt.clique = spec.name;
  attempt.ranks = spec.ranks;
  attempt.position = position;
  auto connected = (*factory.Begin(attempt))->Connect({});
  ASSERT_THAT(connected, IsOk());
  v1::Attempt installed;
  installed.set_clique(spec.name);
  cliques.Install(installed, *std::move(connected));
}

}  // namespace shardwright

#endif  // WORKER_RPC_LOOPBACK_CLIQUE_H_
