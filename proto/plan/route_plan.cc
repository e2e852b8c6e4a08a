#include "proto/plan/route_plan.h"

#include <algorithm>
#include <tuple>

namespace shardwright {

std::vector<Rank> SendingRanks(const Layout& layout) {
  std::vector<Rank> ranks;
  for (const EdgeSpec& edge : layout.edges()) {
    const Module& encoder = *layout.FindModule(edge.from);
    for (int64_t i = 0; i < encoder.rank_count(); ++i) {
      if (encoder.CoordinatesAt(i).pp == encoder.pp() - 1) {
        ranks.push_back(encoder.RankAt(i));
      }
    }
  }
  if (ranks.empty()) ranks.push_back(layout.language().RankAt(0));
  return ranks;
}

RouteSummary SummarizeRoute(const Layout& layout,
                            absl::Span<const RoutePlan> plans) {
  const Module& language = layout.language();
  RouteSummary summary;
  for (const RoutePlan& plan : plans) {
    summary.digest = plan.digest;
    if (!plan.pack.has_value()) continue;
    for (const RoutePart& part : plan.parts) {
      if (part.rank != plan.rank) continue;
      summary.rows_if_broadcast +=
          part.rows.count * language.tp() * language.cp();
    }
    for (const RouteEdge& edge : plan.edges) {
      for (const RouteTransfer& transfer : edge.transfers) {
        summary.links.push_back({edge.encoder, plan.rank, &transfer});
        summary.total_rows += transfer.row_count;
      }
    }
  }
  const auto place = [&](const RouteLink& link) {
    const auto edge = std::find_if(
        layout.edges().begin(), layout.edges().end(),
        [&](const EdgeSpec& spec) { return spec.from == link.encoder; });
    return std::make_tuple(edge - layout.edges().begin(), link.source_rank,
                           link.transfer->peer);
  };
  std::sort(summary.links.begin(), summary.links.end(),
            [&](const RouteLink& a, const RouteLink& b) {
              return place(a) < place(b);
            });
  return summary;
}

}  // namespace shardwright
