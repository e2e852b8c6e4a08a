// Reads the files that a user names on the command line.

#ifndef CLIENT_CLI_INPUT_FILE_H_
#define CLIENT_CLI_INPUT_FILE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/plan/batch.h"
#include "proto/plan/document.h"
#include "proto/plan/layout.h"
#include "shardwright/v1/layout.pb.h"
#include "shardwright/v1/plan.pb.h"

namespace shardwright {

// A layout as it stands in a file, valid or not.
struct LayoutFile {
  std::string path;
  v1::Layout message;
  Document document;

  // Of the document and of the layout in it, all at once.
  Problems Check() const;
};

// "-" is the standard input. Errors:
//   INVALID_ARGUMENT FILE_UNREADABLE
absl::StatusOr<LayoutFile> ReadLayoutFile(const std::string& path);

// The layout of a file. Errors: as above, and
//   INVALID_ARGUMENT INVALID_LAYOUT: the message has one line a problem.
absl::StatusOr<Layout> LoadLayout(const std::string& path);

// The batch of a file, checked against the layout it is meant for. Errors: as
// ReadLayoutFile(), and
//   INVALID_ARGUMENT INVALID_BATCH: the message has one line a problem.
absl::StatusOr<v1::Batch> LoadBatch(const std::string& path,
                                    const Layout& layout);

// Numbers, separated by commas or white space. Errors: as ReadLayoutFile(), and
//   INVALID_ARGUMENT INVALID_LENGTHS: something else stands there.
absl::StatusOr<std::vector<int64_t>> LoadNumbers(const std::string& path);

// INVALID_ARGUMENT with `reason`. The message counts the problems and then has
// "FILE:LINE: field: description (hint)", a line each.
absl::Status DocumentError(const std::string& reason, const std::string& path,
                           const Document& document, const Problems& problems);

}  // namespace shardwright

#endif  // CLIENT_CLI_INPUT_FILE_H_
