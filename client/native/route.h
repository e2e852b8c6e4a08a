// What is behind sw_route.

#ifndef CLIENT_NATIVE_ROUTE_H_
#define CLIENT_NATIVE_ROUTE_H_

#include <cstdint>
#include <vector>

#include "client/native/call.h"
#include "client/native/shardwright_route.h"
#include "proto/plan/route_plan.h"

// Immutable, and never moved: the sources point into the plan.
struct sw_route : shardwright::LiveHandle {
  sw_route(shardwright::RoutePlan route_plan, int64_t micro_batch);

  sw_route_role role() const;

  const shardwright::RoutePlan plan;
  const int64_t micro_batch_size;
  std::vector<sw_route_source> sources;
};

#endif  // CLIENT_NATIVE_ROUTE_H_
