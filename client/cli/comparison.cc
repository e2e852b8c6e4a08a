#include "client/cli/comparison.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "client/cli/text_table.h"

namespace shardwright {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kBarWidth = 24;  // Where there is no terminal.
constexpr int kBarWidthMin = 8;
constexpr int kBarWidthMax = 48;

// Of one number over the ranks.
struct Spread {
  int64_t max = 0;
  double mean = 0;
  double ratio = 1;  // max / mean
};

Spread SpreadOf(const CpBalance& balance, int64_t CpShare::*value) {
  Spread spread;
  int64_t total = 0;
  for (const CpShare& share : balance.ranks) {
    spread.max = std::max(spread.max, share.*value);
    total += share.*value;
  }
  spread.mean = static_cast<double>(total) / balance.ranks.size();
  spread.ratio = spread.max / spread.mean;
  return spread;
}

double PaddingShare(const CpBalance& balance) {
  return static_cast<double>(balance.padding_token_count) / balance.seq_length;
}

Json SchemeJson(CpScheme scheme, const CpBalance& balance) {
  const Spread work = SpreadOf(balance, &CpShare::causal_work);
  const Spread tokens = SpreadOf(balance, &CpShare::token_count);
  Json ranks = Json::array();
  for (size_t r = 0; r < balance.ranks.size(); ++r) {
    ranks.push_back({{"cp_rank", r},
                     {"tokens", balance.ranks[r].token_count},
                     {"work", balance.ranks[r].causal_work}});
  }
  return {{"scheme", CpSchemeName(scheme)},
          {"seq_length", balance.seq_length},
          {"padding_tokens", balance.padding_token_count},
          {"padding_share", PaddingShare(balance)},
          {"work_max", work.max},
          {"work_mean", work.mean},
          {"work_max_over_mean", work.ratio},
          {"tokens_max", tokens.max},
          {"tokens_mean", tokens.mean},
          {"tokens_max_over_mean", tokens.ratio},
          {"ranks", std::move(ranks)}};
}

// A line of the table.
struct Line {
  int64_t cp = 1;
  std::string scheme;
  CpBalance balance;
  Spread work, tokens;
};

std::vector<Line> LinesOf(const Comparison& comparison) {
  std::vector<Line> lines;
  for (int64_t cp : comparison.cps) {
    for (CpScheme scheme : kCpSchemes) {
      Line line;
      line.cp = cp;
      line.scheme =
          cp == 1 ? "any scheme"
                  : absl::StrReplaceAll(CpSchemeName(scheme), {{"_", " "}});
      line.balance = BalanceOf({comparison.lengths, cp, comparison.tp}, scheme);
      line.work = SpreadOf(line.balance, &CpShare::causal_work);
      line.tokens = SpreadOf(line.balance, &CpShare::token_count);
      line.balance.ranks = {};  // Megabytes, where cp is large.
      lines.push_back(std::move(line));
      if (cp == 1) break;
    }
  }
  return lines;
}

// What the mean rank does, and behind it what the slowest does more.
std::string Bar(double ratio, double ratio_max, int width,
                const Terminal& terminal) {
  const auto repeat = [](absl::string_view glyph, int64_t count) {
    std::string text;
    while (count-- > 0) absl::StrAppend(&text, glyph);
    return text;
  };
  const int64_t mean = std::max<int64_t>(1, std::lround(width / ratio_max));
  const int64_t all =
      std::max<int64_t>(mean, std::lround(width * ratio / ratio_max));
  return absl::StrCat(
      Colored(repeat(terminal.utf8 ? "█" : "#", mean), "36", terminal),
      all == mean ? ""
                  : Colored(repeat(terminal.utf8 ? "▒" : "-", all - mean), "31",
                            terminal));
}

std::string FormatTable(const std::vector<Line>& lines, bool wide,
                        int bar_width, const Terminal& terminal) {
  using Align = TextTable::Align;
  double ratio_max = 1;
  for (const Line& line : lines) {
    ratio_max = std::max(ratio_max, line.work.ratio);
  }
  std::vector<TextTable::Column> columns = {{"cp", Align::kRight}, {"scheme"}};
  if (wide) columns.push_back({"S", Align::kRight});
  columns.insert(columns.end(), {{"padding", Align::kRight},
                                 {"", Align::kRight},
                                 {"tokens", Align::kRight},
                                 {"work", Align::kRight},
                                 {""},
                                 {"speed", Align::kRight}});
  if (wide) {
    columns.insert(columns.end(), {{"work of slowest", Align::kRight},
                                   {"most tokens", Align::kRight}});
  }
  TextTable table(std::move(columns));
  int64_t cp = 0;
  for (const Line& line : lines) {
    std::vector<std::string> cells = {
        line.cp == cp ? "" : absl::StrCat(line.cp), line.scheme};
    cp = line.cp;
    if (wide) cells.push_back(absl::StrCat(line.balance.seq_length));
    cells.insert(
        cells.end(),
        {absl::StrCat(line.balance.padding_token_count),
         absl::StrFormat("%.2f %%", 100 * PaddingShare(line.balance)),
         absl::StrFormat("%.3f", line.tokens.ratio),
         absl::StrFormat("%.3f", line.work.ratio),
         bar_width == 0 ? ""
                        : Bar(line.work.ratio, ratio_max, bar_width, terminal),
         absl::StrFormat("%.2fx", line.cp / line.work.ratio)});
    if (wide) {
      cells.push_back(absl::StrCat(line.work.max));
      cells.push_back(absl::StrCat(line.tokens.max));
    }
    table.AddRow(std::move(cells));
  }
  return table.Format();
}

// Columns that are left for the bars.
int BarWidth(const std::vector<Line>& lines, bool wide,
             const Terminal& terminal) {
  if (!terminal.width.has_value()) return kBarWidth;
  int taken = 0;
  const std::string text = FormatTable(lines, wide, 0, terminal);
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    taken = std::max(taken, DisplayWidth(line));
  }
  return std::clamp(*terminal.width - taken, kBarWidthMin, kBarWidthMax);
}

}  // namespace

nlohmann::ordered_json ComparisonJson(const Comparison& comparison) {
  int64_t tokens = 0;
  for (int64_t length : comparison.lengths) tokens += length;
  Json sizes = Json::array();
  for (int64_t cp : comparison.cps) {
    Json schemes = Json::array();
    for (CpScheme scheme : kCpSchemes) {
      schemes.push_back(SchemeJson(
          scheme, BalanceOf({comparison.lengths, cp, comparison.tp}, scheme)));
    }
    sizes.push_back({{"cp", cp}, {"schemes", std::move(schemes)}});
  }
  return {{"documents", comparison.lengths.size()},
          {"tokens", tokens},
          {"longest", *std::max_element(comparison.lengths.begin(),
                                        comparison.lengths.end())},
          {"tp", comparison.tp},
          {"sizes", std::move(sizes)}};
}

std::string FormatComparison(const Comparison& comparison, bool wide,
                             const Terminal& terminal) {
  int64_t tokens = 0;
  for (int64_t length : comparison.lengths) tokens += length;
  const std::vector<Line> lines = LinesOf(comparison);
  const bool utf8 = terminal.utf8;
  return absl::StrCat(
      comparison.lengths.size(),
      comparison.lengths.size() == 1 ? " document" : " documents", ", ", tokens,
      " tokens, longest ",
      *std::max_element(comparison.lengths.begin(), comparison.lengths.end()),
      comparison.tp > 1
          ? absl::StrCat(", sequence parallel over tp ", comparison.tp)
          : "",
      "\n\n",
      FormatTable(lines, wide, BarWidth(lines, wide, terminal), terminal),
      "\ntokens, work: of the rank that has most, over the mean\n",
      utf8 ? "█" : "#", " the mean rank's work   ", utf8 ? "▒" : "-",
      " what the slowest does more, and others wait for\n"
      "speed: of causal attention, against one rank. Packs (THD) are sharded "
      "per\n"
      "document, dense samples as a whole.\n");
}

}  // namespace shardwright
