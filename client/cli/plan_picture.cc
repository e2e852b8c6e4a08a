#include "client/cli/plan_picture.h"

#include <algorithm>
#include <array>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "client/cli/sequence_bar.h"
#include "client/cli/text_table.h"

namespace shardwright {
namespace {

constexpr int kSequenceWidth = 72;  // Where there is no terminal.
constexpr int kSequenceWidthMin = 16;
constexpr int kSequenceWidthMax = 144;

enum class Mark { kFull, kMost, kSome, kLabels, kNone, kBoundary, kStart };

absl::string_view Glyph(Mark mark, bool utf8) {
  constexpr std::array<absl::string_view, 7> kUtf8 = {"█", "▓", "▒", "░",
                                                      "·", "┊", "▐"};
  constexpr std::array<absl::string_view, 7> kAscii = {"#", "+", "-", ":",
                                                       ".", "|", "["};
  return (utf8 ? kUtf8 : kAscii)[static_cast<size_t>(mark)];
}

// Colours in the order in which they are handed out.
constexpr std::array<absl::string_view, 6> kColors = {"36", "33", "32",
                                                      "35", "34", "31"};
constexpr absl::string_view kFaint = "2";  // What belongs to others.

struct Cell {
  std::string glyph;
  absl::string_view color;
};
using Bar = std::vector<Cell>;

std::string Render(const Bar& bar, const Terminal& terminal) {
  std::string text;
  for (size_t i = 0; i < bar.size(); ++i) {
    const bool first = i == 0 || bar[i].color != bar[i - 1].color;
    if (terminal.color && first) {
      absl::StrAppend(&text, "\x1b[0;", bar[i].color, "m");
    }
    text += bar[i].glyph;
  }
  if (terminal.color) text += "\x1b[0m";
  return text;
}

absl::string_view ColorOf(int64_t index) {
  return kColors[index % static_cast<int64_t>(kColors.size())];
}

// A line of a picture, the bar left out.
struct Line {
  const ShardPlan* plan = nullptr;
  int64_t sample = 0;
};

// What both pictures have in common: the numbers beside the bars.
class PlanTable {
 public:
  PlanTable(const Module& module, const std::vector<ShardPlan>& plans,
            const std::vector<Line>& lines, bool with_padding)
      : plans_(plans), lines_(lines), with_padding_(with_padding) {
    const std::vector<std::pair<std::string, int64_t>> sizes = {
        {"tp", module.tp()},
        {"gtp_remat", module.gtp_remat()},
        {"cp", module.cp()},
        {"dp", module.dp()},
        {"pp", module.pp()}};
    for (const auto& [name, size] : sizes) {
      if (size > 1) dims_.push_back(name);
    }
    with_sample_ =
        std::any_of(lines.begin(), lines.end(),
                    [](const Line& line) { return line.sample > 0; });
    for (const ShardPlan& plan : plans) work_ += plan.load.causal_work;
  }

  // Columns that are left for the bars.
  int SequenceWidth(const Terminal& terminal) const {
    if (!terminal.width.has_value()) return kSequenceWidth;
    int taken = 0;
    const std::string text =
        Format("", std::vector<std::string>(lines_.size()));
    for (absl::string_view line : absl::StrSplit(text, '\n')) {
      taken = std::max(taken, DisplayWidth(line));
    }
    return std::clamp(*terminal.width - taken, kSequenceWidthMin,
                      kSequenceWidthMax);
  }

  // `bars` as Render() made them, one a line.
  std::string Format(const std::string& ruler,
                     const std::vector<std::string>& bars) const {
    using Align = TextTable::Align;
    std::vector<TextTable::Column> columns = {{"rank", Align::kRight}};
    for (const std::string& dim : dims_)
      columns.push_back({dim, Align::kRight});
    columns.push_back({"lane", Align::kRight});
    if (with_sample_) columns.push_back({"sample", Align::kRight});
    columns.push_back({ruler, Align::kLeft});
    columns.push_back({"tokens", Align::kRight});
    if (with_padding_) columns.push_back({"padding", Align::kRight});
    columns.push_back({"rows", Align::kRight});
    columns.push_back({"work", Align::kRight});
    TextTable table(std::move(columns));
    for (size_t i = 0; i < lines_.size(); ++i) {
      table.AddRow(Cells(lines_[i], bars[i]));
    }
    return table.Format();
  }

 private:
  std::vector<std::string> Cells(const Line& line,
                                 const std::string& bar) const {
    const ShardPlan& plan = *line.plan;
    const Coordinates& at = plan.coordinates;
    const bool first = line.sample == 0;
    const auto once = [first](const std::string& text) {
      return first ? text : std::string();
    };
    std::vector<std::string> cells = {once(absl::StrCat(plan.rank))};
    for (const std::string& dim : dims_) {
      const int64_t coordinate = dim == "tp"          ? at.tp
                                 : dim == "gtp_remat" ? at.gtp_remat
                                 : dim == "cp"        ? at.cp
                                 : dim == "dp"        ? at.dp
                                                      : at.pp;
      cells.push_back(once(absl::StrCat(coordinate)));
    }
    cells.push_back(once(absl::StrCat(at.lane)));
    if (with_sample_) cells.push_back(absl::StrCat(line.sample));
    cells.push_back(bar);
    cells.push_back(once(absl::StrCat(plan.load.token_count)));
    if (with_padding_) {
      cells.push_back(once(absl::StrCat(plan.load.padding_token_count)));
    }
    cells.push_back(once(plan.embeddings.has_value()
                             ? absl::StrCat(plan.embeddings->destination_rows())
                             : "-"));
    cells.push_back(once(Work(plan)));
    return cells;
  }

  // As a share of the mean, which says nothing of a single rank.
  std::string Work(const ShardPlan& plan) const {
    if (plans_.size() == 1 || work_ == 0) {
      return absl::StrCat(plan.load.causal_work);
    }
    const double mean = static_cast<double>(work_) / plans_.size();
    return absl::StrFormat("%.1f%%", 100 * plan.load.causal_work / mean);
  }

  const std::vector<ShardPlan>& plans_;
  const std::vector<Line>& lines_;
  bool with_padding_;
  bool with_sample_ = false;
  std::vector<std::string> dims_;
  int64_t work_ = 0;
};

// The cells where documents begin; none if they would hide the rest.
std::set<int> DocumentStarts(const SequenceScale& scale,
                             const std::vector<int64_t>& cu_seqlens_padded) {
  std::set<int> cells;
  for (int64_t start : cu_seqlens_padded) {
    if (start > 0 && start < scale.seq_length()) {
      cells.insert(scale.CellOf(start));
    }
  }
  if (static_cast<int>(cells.size()) * 3 > scale.cell_count()) cells.clear();
  return cells;
}

// How many equal slices the planner cuts a sequence of this shape into.
int64_t SliceCount(const Module& module, bool thd) {
  if (thd) return 1;  // Its documents have lengths of their own.
  return (module.cp() > 1 ? 2 * module.cp() : 1) *
         (module.sequence_parallel() ? module.tp() : 1);
}

std::vector<int64_t> RulerPositions(const BatchShape& shape) {
  if (shape.thd()) return shape.cu_seqlens_padded;
  std::vector<int64_t> quarters;
  for (int64_t i = 0; i < 4; ++i) quarters.push_back(shape.seq_length * i / 4);
  return quarters;
}

std::string Title(const Layout& layout, int64_t seq_length,
                  int64_t micro_batch_size, const std::string& format,
                  uint64_t digest) {
  return absl::StrFormat("%s/%s: S %d, B %d, %s, digest %016x\n\n",
                         layout.name(), layout.language().name(), seq_length,
                         micro_batch_size, format, digest);
}

std::string FormatName(const BatchShape& shape) {
  if (!shape.thd()) return "dense";
  const size_t count = shape.cu_seqlens_padded.size() - 1;
  return absl::StrCat("THD of ", count,
                      count == 1 ? " document" : " documents");
}

using Meanings = std::vector<std::pair<std::string, std::string>>;

// Explains those of the glyphs that the bars have.
std::string Legend(const Meanings& meanings, const std::vector<Bar>& bars) {
  std::set<std::string> seen;
  for (const Bar& bar : bars) {
    for (const Cell& cell : bar) seen.insert(cell.glyph);
  }
  std::string legend;
  for (const auto& [glyph, meaning] : meanings) {
    if (seen.count(glyph) == 0) continue;
    absl::StrAppend(&legend, legend.empty() ? "" : "   ", glyph, " ", meaning);
  }
  return legend.empty() ? "" : absl::StrCat("\n", legend, "\n");
}

std::vector<std::string> Render(const std::vector<Bar>& bars,
                                const Terminal& terminal) {
  std::vector<std::string> texts;
  for (const Bar& bar : bars) texts.push_back(Render(bar, terminal));
  return texts;
}

Bar ShardBar(const ShardPlan& plan, const SequenceScale& scale,
             const std::set<int>& starts, bool utf8) {
  const std::vector<int64_t> rows = CountByCell(scale, plan.embedding_runs);
  const std::vector<int64_t> labels = CountByCell(scale, plan.label_runs);
  Bar bar;
  for (int cell = 0; cell < scale.cell_count(); ++cell) {
    const int64_t size = scale.End(cell) - scale.Begin(cell);
    const bool start = starts.count(cell) > 0;
    Mark mark = start ? Mark::kBoundary : Mark::kNone;
    if (labels[cell] > 0) mark = Mark::kLabels;
    if (rows[cell] > 0) mark = Mark::kSome;
    if (2 * rows[cell] >= size) mark = Mark::kMost;
    if (rows[cell] == size) mark = start ? Mark::kStart : Mark::kFull;
    const bool owned = rows[cell] > 0;
    bar.push_back({std::string(Glyph(mark, utf8)),
                   owned ? ColorOf(plan.coordinates.cp) : kFaint});
  }
  return bar;
}

// A letter for each source that none has yet: of its name, else any.
std::vector<char> LettersFor(const std::vector<std::string>& sources) {
  std::vector<char> letters;
  for (const std::string& source : sources) {
    const std::string candidates =
        absl::AsciiStrToUpper(source) + "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    const auto is_free = [&](char c) {
      return absl::ascii_isupper(c) &&
             std::find(letters.begin(), letters.end(), c) == letters.end();
    };
    letters.push_back(
        *std::find_if(candidates.begin(), candidates.end(), is_free));
  }
  return letters;
}

constexpr int kNotOwned = -2;  // Beside RowCopy::kFill and the sources.

// The source of each position of `sample` that the rank owns.
std::vector<int> SourceByPosition(const ShardPlan& plan, int64_t sample) {
  std::vector<int> sources(plan.seq_length, kNotOwned);
  if (!plan.embeddings.has_value()) return sources;
  std::vector<int64_t> positions;
  for (const PositionRun& run : plan.embedding_runs) {
    for (int64_t i = 0; i < run.count; ++i) {
      positions.push_back(run.position + i);
    }
  }
  for (const RowCopy& copy : plan.embeddings->entries()) {
    for (int64_t i = 0; i < copy.row_count; ++i) {
      const int64_t row = copy.destination_row + i * copy.destination_stride;
      if (row % plan.micro_batch_size != sample) continue;
      sources[positions[row / plan.micro_batch_size]] = copy.source;
    }
  }
  return sources;
}

Bar ComposeBar(const ShardPlan& plan, int64_t sample,
               const SequenceScale& scale, const std::set<int>& starts,
               bool utf8) {
  const std::vector<int> sources = SourceByPosition(plan, sample);
  const std::vector<int64_t> labels = CountByCell(scale, plan.label_runs);
  const std::vector<char> letters = LettersFor(plan.sources);
  Bar bar;
  for (int cell = 0; cell < scale.cell_count(); ++cell) {
    std::vector<int64_t> counts(plan.sources.size() + 1, 0);  // The fill last.
    int64_t owned = 0;
    for (int64_t p = scale.Begin(cell); p < scale.End(cell); ++p) {
      if (sources[p] == kNotOwned) continue;
      ++counts[sources[p] == RowCopy::kFill ? plan.sources.size() : sources[p]];
      ++owned;
    }
    if (owned == 0) {
      const Mark mark = labels[cell] > 0         ? Mark::kLabels
                        : starts.count(cell) > 0 ? Mark::kBoundary
                                                 : Mark::kNone;
      bar.push_back({std::string(Glyph(mark, utf8)), kFaint});
      continue;
    }
    const size_t most =
        std::max_element(counts.begin(), counts.end()) - counts.begin();
    const bool mixed = counts[most] < scale.End(cell) - scale.Begin(cell);
    std::string letter = "_";
    if (most < letters.size()) {
      letter[0] = mixed ? absl::ascii_tolower(letters[most]) : letters[most];
    }
    bar.push_back({letter, ColorOf(static_cast<int64_t>(most))});
  }
  return bar;
}

}  // namespace

std::string DrawShardPlans(const Layout& layout, const BatchShape& shape,
                           const std::vector<ShardPlan>& plans,
                           const Terminal& terminal) {
  if (plans.empty()) return "";
  std::vector<Line> lines;
  for (const ShardPlan& plan : plans) lines.push_back({&plan, 0});
  const PlanTable table(layout.language(), plans, lines,
                        !shape.cu_seqlens.empty());
  const SequenceScale scale(shape.seq_length, table.SequenceWidth(terminal),
                            SliceCount(layout.language(), shape.thd()));
  const std::set<int> starts = DocumentStarts(scale, shape.cu_seqlens_padded);
  std::vector<Bar> bars;
  for (const ShardPlan& plan : plans) {
    bars.push_back(ShardBar(plan, scale, starts, terminal.utf8));
  }
  const auto glyph = [&](Mark mark) {
    return std::string(Glyph(mark, terminal.utf8));
  };
  return absl::StrCat(Title(layout, shape.seq_length, shape.micro_batch_size,
                            FormatName(shape), plans[0].digest),
                      table.Format(FormatRuler(scale, RulerPositions(shape)),
                                   Render(bars, terminal)),
                      Legend({{glyph(Mark::kFull), "owned"},
                              {glyph(Mark::kStart), "owned, a document begins"},
                              {glyph(Mark::kMost), "most of it owned"},
                              {glyph(Mark::kSome), "some of it owned"},
                              {glyph(Mark::kLabels), "labels only"},
                              {glyph(Mark::kNone), "of others"},
                              {glyph(Mark::kBoundary), "a document begins"}},
                             bars));
}

std::string DrawComposePlans(const Layout& layout, const Batch& batch,
                             const std::vector<ShardPlan>& plans,
                             const Terminal& terminal) {
  if (plans.empty()) return "";
  std::vector<Line> lines;
  for (const ShardPlan& plan : plans) {
    for (int64_t b = 0; b < batch.micro_batch_size; ++b) {
      lines.push_back({&plan, b});
    }
  }
  const bool thd = !batch.cu_seqlens_padded.empty();
  const PlanTable table(layout.language(), plans, lines, false);
  const SequenceScale scale(batch.seq_length, table.SequenceWidth(terminal),
                            SliceCount(layout.language(), thd));
  std::vector<Bar> bars;
  for (const Line& line : lines) {
    const BatchShape shape = batch.ShapeOf(line.plan->coordinates.lane);
    bars.push_back(ComposeBar(*line.plan, line.sample, scale,
                              DocumentStarts(scale, shape.cu_seqlens_padded),
                              terminal.utf8));
  }
  Meanings legend;
  const std::vector<std::string>& sources = plans[0].sources;
  const std::vector<char> letters = LettersFor(sources);
  for (size_t i = 0; i < sources.size(); ++i) {
    legend.push_back({std::string(1, letters[i]), sources[i]});
  }
  for (size_t i = 0; i < sources.size(); ++i) {
    const std::string lower(1, absl::ascii_tolower(letters[i]));
    legend.push_back({lower, absl::StrCat("mostly ", sources[i])});
  }
  legend.push_back({"_", "filled"});
  for (const auto& [mark, meaning] : std::vector<std::pair<Mark, std::string>>{
           {Mark::kLabels, "labels only"},
           {Mark::kNone, "of others"},
           {Mark::kBoundary, "a document begins"}}) {
    legend.push_back({std::string(Glyph(mark, terminal.utf8)), meaning});
  }
  // Lanes have documents of their own; a ruler can show those of one.
  BatchShape ruler = batch.ShapeOf(plans[0].coordinates.lane);
  if (batch.cu_seqlens_padded.size() > 1) ruler.cu_seqlens_padded.clear();
  return absl::StrCat(Title(layout, batch.seq_length, batch.micro_batch_size,
                            thd ? "THD" : "dense", plans[0].digest),
                      table.Format(FormatRuler(scale, RulerPositions(ruler)),
                                   Render(bars, terminal)),
                      Legend(legend, bars));
}

}  // namespace shardwright
