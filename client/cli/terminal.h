// What the place that text is printed to can show.

#ifndef CLIENT_CLI_TERMINAL_H_
#define CLIENT_CLI_TERMINAL_H_

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace shardwright {

struct Terminal {
  std::optional<int> width;  // Columns; nothing if it is no terminal.
  bool utf8 = false;         // Else plain ASCII only.
  bool color = false;        // Escape sequences are understood and wanted.

  // Of file descriptor `fd`. UTF-8 as the locale says; colour only on a
  // terminal, never with NO_COLOR or TERM=dumb. Reads the environment: call it
  // before other threads start.
  static Terminal Detect(int fd);
};

// `text` in a colour, such as "31" for red, where the terminal has colours.
std::string Colored(absl::string_view text, absl::string_view color,
                    const Terminal& terminal);

// Columns that UTF-8 `text` takes: its code points, each of width one, without
// the escape sequences for colours.
int DisplayWidth(absl::string_view text);

// `text` with spaces up to `width` columns; longer text stays as it is.
std::string PadLeft(absl::string_view text, int width);
std::string PadRight(absl::string_view text, int width);

}  // namespace shardwright

#endif  // CLIENT_CLI_TERMINAL_H_
