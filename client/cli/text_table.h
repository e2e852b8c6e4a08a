// A table of text with columns aligned.

#ifndef CLIENT_CLI_TEXT_TABLE_H_
#define CLIENT_CLI_TEXT_TABLE_H_

#include <string>
#include <vector>

namespace shardwright {

class TextTable {
 public:
  enum class Align { kLeft, kRight };
  struct Column {
    std::string title;
    Align align = Align::kLeft;
  };

  explicit TextTable(std::vector<Column> columns);

  // REQUIRES: one cell a column.
  void AddRow(std::vector<std::string> cells);

  // Titles and rows, two spaces between columns, no spaces at line ends.
  std::string Format() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;  // The titles come first.
};

}  // namespace shardwright

#endif  // CLIENT_CLI_TEXT_TABLE_H_
