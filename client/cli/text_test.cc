// What lines up in the terminal: widths are columns, not bytes.

#include <unistd.h>

#include <cstdlib>

#include "client/cli/terminal.h"
#include "client/cli/text_table.h"
#include "gtest/gtest.h"

namespace shardwright {
namespace {

TEST(DisplayWidthTest, CountsCodePointsAndNoEscapes) {
  EXPECT_EQ(DisplayWidth("plain"), 5);
  EXPECT_EQ(DisplayWidth("█▓░"), 3);
  EXPECT_EQ(DisplayWidth("\x1b[0;36m██\x1b[0m"), 2);
  EXPECT_EQ(DisplayWidth(""), 0);
}

TEST(PadTest, FillsUpAndNeverCuts) {
  EXPECT_EQ(PadLeft("7", 3), "  7");
  EXPECT_EQ(PadRight("é", 3), "é  ");
  EXPECT_EQ(PadLeft("longer", 3), "longer");
}

TEST(TextTableTest, AlignsColumnsAndLeavesNoSpacesAtTheEnd) {
  TextTable table({{"rank", TextTable::Align::kRight}, {"name"}, {"end"}});
  table.AddRow({"4", "é", "x"});
  table.AddRow({"12345", "language", ""});
  EXPECT_EQ(table.Format(),
            " rank  name      end\n"
            "    4  é         x\n"
            "12345  language\n");
}

TEST(TextTableTest, HasTitlesWithoutRows) {
  EXPECT_EQ(TextTable({{"JOB"}, {"RANKS"}}).Format(), "JOB  RANKS\n");
}

TEST(TerminalTest, PipeHasNoWidthAndNoColor) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  setenv("TERM", "xterm", 1);
  const Terminal terminal = Terminal::Detect(ends[1]);
  EXPECT_FALSE(terminal.width.has_value());
  EXPECT_FALSE(terminal.color);
  close(ends[0]);
  close(ends[1]);
}

}  // namespace
}  // namespace shardwright
