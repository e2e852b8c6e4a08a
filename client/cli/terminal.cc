#include "client/cli/terminal.h"

#include <langinfo.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <clocale>
#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace shardwright {
namespace {

std::string Spaces(absl::string_view text, int width) {
  return std::string(std::max(0, width - DisplayWidth(text)), ' ');
}

}  // namespace

Terminal Terminal::Detect(int fd) {
  Terminal terminal;
  std::setlocale(LC_CTYPE, "");
  terminal.utf8 = absl::string_view(nl_langinfo(CODESET)) == "UTF-8";
  if (isatty(fd) == 0) return terminal;
  winsize size = {};
  const bool known = ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  terminal.width = known ? size.ws_col : 80;
  const char* no_color = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  terminal.color = (no_color == nullptr || *no_color == '\0') &&
                   term != nullptr && absl::string_view(term) != "dumb";
  return terminal;
}

std::string Colored(absl::string_view text, absl::string_view color,
                    const Terminal& terminal) {
  if (!terminal.color) return std::string(text);
  return absl::StrCat("\x1b[", color, "m", text, "\x1b[0m");
}

int DisplayWidth(absl::string_view text) {
  int width = 0;
  bool escape = false;
  for (char c : text) {
    if (c == '\x1b') escape = true;
    if (!escape && (c & 0xC0) != 0x80) ++width;
    if (escape && c == 'm') escape = false;
  }
  return width;
}

std::string PadLeft(absl::string_view text, int width) {
  return absl::StrCat(Spaces(text, width), text);
}

std::string PadRight(absl::string_view text, int width) {
  return absl::StrCat(text, Spaces(text, width));
}

}  // namespace shardwright
