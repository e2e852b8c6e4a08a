// Reads layout.yaml, batch.json and their like: YAML or JSON text into a
// protobuf message, whose schema is the truth. Strict: unknown and repeated
// names, wrong types and empty files are problems, all of them at once, each
// with its line.

#ifndef PROTO_PLAN_DOCUMENT_H_
#define PROTO_PLAN_DOCUMENT_H_

#include <map>
#include <string>

#include "absl/strings/string_view.h"
#include "google/protobuf/message.h"
#include "proto/plan/problem.h"

namespace shardwright {

// Text that has been read, and what was found on the way.
struct Document {
  // Line (from 1) of each field path that the text has.
  std::map<std::string, int> lines;

  Problems problems;

  // The line of `field`, or of the nearest field around it; 1 at worst.
  int LineOf(absl::string_view field) const;
};

// Fills `message` with what could be read, problems or not, so that a caller
// can check that too and report everything together.
Document ReadDocument(absl::string_view text,
                      google::protobuf::Message& message);

// "FILE:LINE: field: description (hint)", one a line, by line number.
std::string FormatProblems(absl::string_view file, const Document& document,
                           const Problems& problems);

}  // namespace shardwright

#endif  // PROTO_PLAN_DOCUMENT_H_
