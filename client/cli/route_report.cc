#include "client/cli/route_report.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/text_table.h"
#include "proto/plan/fingerprint.h"

namespace shardwright {
namespace {

// "12 rows", and what they weigh.
std::string Amount(int64_t rows, std::optional<int64_t> row_bytes) {
  std::string text = absl::StrCat(rows, rows == 1 ? " row" : " rows");
  if (row_bytes.has_value()) {
    absl::StrAppend(&text, ", ", rows * *row_bytes, " bytes");
  }
  return text;
}

}  // namespace

std::string FormatRoute(const Layout& layout, absl::Span<const RoutePlan> plans,
                        std::optional<int64_t> row_bytes) {
  const RouteSummary summary = SummarizeRoute(layout, plans);
  using Align = TextTable::Align;
  std::vector<TextTable::Column> columns = {{"edge"},
                                            {"source", Align::kRight},
                                            {"destination", Align::kRight},
                                            {"rows", Align::kRight},
                                            {"runs", Align::kRight}};
  if (row_bytes.has_value()) columns.push_back({"bytes", Align::kRight});
  TextTable table(std::move(columns));
  for (const RouteLink& link : summary.links) {
    const RouteTransfer& transfer = *link.transfer;
    std::vector<std::string> cells = {
        absl::StrCat(link.encoder, "->", layout.language().name()),
        absl::StrCat(link.source_rank), absl::StrCat(transfer.peer),
        absl::StrCat(transfer.row_count), absl::StrCat(transfer.rows.size())};
    if (row_bytes.has_value()) {
      cells.push_back(absl::StrCat(transfer.row_count * *row_bytes));
    }
    table.AddRow(std::move(cells));
  }
  std::string text = absl::StrCat(layout.name(), ": digest ",
                                  DigestText(summary.digest), "\n\n");
  if (summary.links.empty()) {
    return absl::StrCat(text,
                        "no row goes from an encoder to the language "
                        "module\n");
  }
  absl::StrAppend(
      &text, table.Format(),
      "\nreceived in all: ", Amount(summary.total_rows, row_bytes),
      "\nif broadcast:    ", Amount(summary.rows_if_broadcast, row_bytes),
      absl::StrFormat(", %.1f times as much\n",
                      static_cast<double>(summary.rows_if_broadcast) /
                          static_cast<double>(summary.total_rows)));
  return text;
}

}  // namespace shardwright
