#include "client/cli/input_file.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "proto/plan/codec.h"
#include "proto/status/error.h"
#include "proto/status/status_macros.h"

namespace shardwright {
namespace {

absl::StatusOr<std::string> ReadText(const std::string& path) {
  using Iterator = std::istreambuf_iterator<char>;
  if (path == "-") return std::string(Iterator(std::cin), Iterator());
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::string text;
  // Opening a directory succeeds; only reading it tells.
  if (file.is_open() && file.peek() != std::ifstream::traits_type::eof()) {
    text.assign(Iterator(file), Iterator());
  }
  if (errno != 0) {
    return Error(
        absl::StatusCode::kInvalidArgument, "FILE_UNREADABLE",
        absl::StrCat("cannot read '", path, "': ", std::strerror(errno)),
        {{"file", path}});
  }
  return text;
}

}  // namespace

Problems LayoutFile::Check() const {
  return CheckLayoutDocument(document, message);
}

absl::StatusOr<LayoutFile> ReadLayoutFile(const std::string& path) {
  LayoutFile file;
  file.path = path;
  ASSIGN_OR_RETURN(const std::string text, ReadText(path));
  file.document = ReadDocument(text, file.message);
  return file;
}

absl::StatusOr<Layout> LoadLayout(const std::string& path) {
  ASSIGN_OR_RETURN(const LayoutFile file, ReadLayoutFile(path));
  const Problems problems = file.Check();
  if (!problems.empty()) {
    return DocumentError("INVALID_LAYOUT", path, file.document, problems);
  }
  return Layout::Create(LayoutSpecFromProto(file.message));
}

absl::StatusOr<v1::Batch> LoadBatch(const std::string& path,
                                    const Layout& layout) {
  ASSIGN_OR_RETURN(const std::string text, ReadText(path));
  v1::Batch message;
  const Document document = ReadDocument(text, message);
  Problems problems = document.problems;
  // A batch that was half understood would be blamed for what it does have.
  if (problems.empty()) problems = CheckBatch(layout, BatchFromProto(message));
  if (!problems.empty()) {
    return DocumentError("INVALID_BATCH", path, document, problems);
  }
  return message;
}

absl::StatusOr<std::vector<int64_t>> LoadNumbers(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadText(path));
  std::vector<int64_t> numbers;
  for (absl::string_view word :
       absl::StrSplit(text, absl::ByAnyChar(", \t\r\n"), absl::SkipEmpty())) {
    if (!absl::SimpleAtoi(word, &numbers.emplace_back())) {
      return Error(absl::StatusCode::kInvalidArgument, "INVALID_LENGTHS",
                   absl::StrCat("'", path, "': entry ", numbers.size(), ", '",
                                absl::CEscape(word.substr(0, 40)),
                                "', is not a whole number within 64 bits"),
                   {{"file", path}});
    }
  }
  return numbers;
}

absl::Status DocumentError(const std::string& reason, const std::string& path,
                           const Document& document, const Problems& problems) {
  const std::string lines = FormatProblems(path, document, problems);
  return Error(absl::StatusCode::kInvalidArgument, reason,
               absl::StrCat("'", path, "' has ", problems.size(),
                            problems.size() == 1 ? " problem\n" : " problems\n",
                            absl::StripSuffix(lines, "\n")));
}

}  // namespace shardwright
