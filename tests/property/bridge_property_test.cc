// The bridge on random layouts and micro-batches, up to 64 ranks and more.

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "proto/plan/layout.h"
#include "proto/status/status_macros.h"
#include "tests/property/bridge_promises.h"
#include "tests/property/random_values.h"

namespace shardwright {
namespace {

TEST(BridgePropertyTest, RowsReachTheirShardsAndGradientsTheirSources) {
  ForSeeds(1000, [](RandomValues& random) -> absl::Status {
    ASSIGN_OR_RETURN(const Layout layout,
                     Layout::Create(random.SomeLayout(24)));
    return CheckBridge(layout, random.SomeBatch(layout), random);
  });
}

}  // namespace
}  // namespace shardwright
